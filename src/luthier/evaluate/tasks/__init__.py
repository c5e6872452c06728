"""Tasks: questions whose answers are checked by running them. One small file a set; this is their registry.

A set is a function without arguments that returns its tasks; `load_tasks` also takes the path of a user's own file.

Not covered: tasks that are judged by another model, or by comparing text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from luthier.evaluate.tasks import local, quickstart
from luthier.evaluate.tasks.task import Task

__all__ = ["SETS", "Task", "load_tasks", "spread"]

SETS: dict[str, Callable[[], tuple[Task, ...]]] = {quickstart.NAME: quickstart.load}


def load_tasks(name: str) -> tuple[Task, ...]:
    """The tasks of a built-in set, or of a file with one JSON object a line.

    Args:
        name: A key of `SETS`, or the path of a file.

    Raises:
        DataError: E-EVAL-021 when there is no such set or file, E-EVAL-022 for each line that is no task.
    """
    return SETS[name]() if name in SETS else local.load(Path(name), tuple(SETS))


def spread(tasks: Sequence[Task], limit: int | None) -> tuple[Task, ...]:
    """At most `limit` of the tasks, evenly over the set, so that each split keeps its share; None: all."""
    if limit is None or limit >= len(tasks):
        return tuple(tasks)
    return tuple(tasks[place * len(tasks) // limit] for place in range(limit))
