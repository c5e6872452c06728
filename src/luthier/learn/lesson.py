"""What a lesson is, and what its runs came to.

A lesson is one file of `luthier.learn.lessons`. It asks before it shows: the learner guesses, then small runs of the
real thing decide. No number in it is typed: the right answer and the explanation are computed from what the runs
measured, and an exercise is solved when a run says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from luthier.doctor import findings
from luthier.doctor.evidence import level
from luthier.doctor.finding import Finding
from luthier.doctor.history import History

EXERCISE, YOURS = "exercise", "yours"
"""The name of the learner's file and its run's folder, and what that run is called beside the others."""


@dataclass(frozen=True)
class Arm:
    """One of the runs of a lesson.

    Attributes:
        name: A word, and its folder.
        changes: `key=value` on top of what all runs of the lesson have.
        differs: The same in words, where the keys themselves say it worse.
        stop_at: The step at which it is stopped and started again; 0: never.
    """

    name: str
    changes: tuple[str, ...]
    differs: str = ""
    stop_at: int = 0


@dataclass(frozen=True)
class Begun:
    """A run begins, or was done before.

    Attributes:
        number: From 0, in the order of the arms; the learner's own comes last.
        name: Of its arm; `YOURS`.
    """

    number: int
    name: str


@dataclass(frozen=True)
class Outcome:
    """What came of a run, read from the files that it wrote.

    Attributes:
        name: Of its arm.
        history: Its events, folded; with a log line for each step.
        trained: Numbers that were trained.
        done: Whether it came to its end.
    """

    name: str
    history: History
    trained: int
    done: bool

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, training loss) of each step."""
        return [(line.step, line.loss) for line in self.history.whole]

    @property
    def first(self) -> float:
        """Training loss of step 1, before anything was learned."""
        return self.history.beginning[0].loss if self.history.beginning else math.nan

    @property
    def last(self) -> float:
        """Training loss at the end: the median of the last ten steps, as each has other rows."""
        return level(self.history.recent, 10)

    @property
    def held_out(self) -> float:
        """Loss on the held-out rows at the end."""
        return self.history.evaluations[-1].eval_loss if self.history.evaluations else math.nan

    @property
    def best_held_out(self) -> float:
        """The least loss on the held-out rows at any evaluation."""
        return min((e.eval_loss for e in self.history.evaluations), default=math.nan)

    @property
    def found(self) -> tuple[Finding, ...]:
        """What the doctor says of it."""
        return findings(self.history, self.history.updated)


Results = Mapping[str, Outcome]
"""Name of an arm -> its outcome, in the order of the arms."""


@dataclass(frozen=True)
class Exercise:
    """Something to change in a file, so that a run of it does what the task says.

    Attributes:
        task: What is to be reached, in words.
        start: `key=value` that the file begins with, beside what all runs of the lesson have.
        may_change: Dotted keys; every other one has to stay.
        solved: From the lesson's results and the outcome of the learner's run: whether it is, and what shows it.
    """

    task: str
    start: tuple[str, ...]
    may_change: tuple[str, ...]
    solved: Callable[[Results, Outcome], tuple[bool, str]]


@dataclass(frozen=True)
class Lesson:
    """A question and the runs that answer it.

    Attributes:
        name: What the command takes; the name of its module with dashes.
        title: One line.
        idea: What one has to know to guess.
        question: What will happen?
        choices: Letter -> answer.
        common: `key=value` of all runs, on top of `luthier.learn.study.COMMON`.
        arms: The runs.
        answer: The letter that the results say is right.
        why: What the results show and why, with their numbers; in words for the usual answer.
        usual: The letter of that.
        exercise: None where there is nothing to change.
        words: For `luthier explain`.
    """

    name: str
    title: str
    idea: str
    question: str
    choices: Mapping[str, str]
    arms: tuple[Arm, ...]
    answer: Callable[[Results], str]
    why: Callable[[Results], str]
    usual: str
    common: tuple[str, ...] = ()
    exercise: Exercise | None = None
    words: tuple[str, ...] = ()
