"""The lessons, in the order in which they build on each other."""

from __future__ import annotations

from luthier.config.keys import closest
from luthier.errors import ConfigError, Problem
from luthier.learn.lesson import Lesson
from luthier.learn.lessons import by_heart, four_bits, learning_rate, masks, one_mean, rank, stop_and_go_on

LESSONS: dict[str, Lesson] = {
    module.LESSON.name: module.LESSON
    for module in (learning_rate, by_heart, masks, one_mean, rank, four_bits, stop_and_go_on)
}


def named(name: str) -> Lesson:
    """The lesson of that name.

    Raises:
        ConfigError: E-LEARN-001, there is none.
    """
    if name in LESSONS:
        return LESSONS[name]
    near = closest(name, dict.fromkeys(LESSONS, 0.0))
    fix = f"did you mean {near}?" if near else f"the lessons are {', '.join(LESSONS)}"
    raise ConfigError(Problem("E-LEARN-001", f'there is no lesson "{name}"', fix, "luthier learn"))
