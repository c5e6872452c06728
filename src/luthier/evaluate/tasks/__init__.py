"""Tasks: questions whose answers are run, or compared with a text. One small file a set; this is their registry.

    --tasks quickstart,mbpp:validation,humaneval=data/HumanEval.jsonl.gz,mine.jsonl
            set        set  split      set       its file                user's own file

Not covered: tasks that are judged by another model; paths with a comma in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.errors import DataError, Problem
from luthier.evaluate.tasks import humaneval, local, mbpp, quickstart
from luthier.evaluate.tasks.task import Completion, Task

__all__ = ["SETS", "Completion", "Task", "TaskSet", "load_sets", "load_tasks", "spread"]

ALL = "all"
SETS: dict[str, Callable[[Path | None], tuple[Task, ...]]] = {
    quickstart.NAME: quickstart.load,
    mbpp.NAME: mbpp.load,
    humaneval.NAME: humaneval.load,
}
_USUAL_SPLIT = {mbpp.NAME: "test"}


@dataclass(frozen=True)
class TaskSet:
    """Tasks that are asked and counted together.

    Attributes:
        name: `quickstart`, `mbpp:test`, or the path of the user's file.
        tasks: At least one, each id once.
    """

    name: str
    tasks: tuple[Task, ...]


def load_sets(request: str, limit: int | None = None) -> tuple[TaskSet, ...]:
    """The sets of a request like the one above.

    Args:
        request: Names and files, commas between them.
        limit: At most so many tasks of each, spread evenly.

    Raises:
        DataError: What `load_tasks` raises.
    """
    asked = list(dict.fromkeys(name for word in request.split(",") if (name := word.strip())))
    names = [name.partition("=")[0] if _is_set(name) else name for name in asked]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(Problem("E-EVAL-021", f"{twice[0]} is named twice", "name each set once", "--tasks"))
    found = {name: load_tasks(word) for name, word in zip(names, asked, strict=True)}
    if not found:
        fix = f"give a JSON lines file, or {' or '.join(SETS)}"
        raise DataError(Problem("E-EVAL-021", "no tasks are named", fix, "--tasks"))
    return tuple(TaskSet(name, spread(tasks, limit)) for name, tasks in found.items())


def load_tasks(name: str) -> tuple[Task, ...]:
    """The tasks of one set, or of a user's own file with one JSON object a line.

    Args:
        name: `SET`, `SET:SPLIT`, `SET=FILE`, `SET:SPLIT=FILE`, or the path of a file. Splits are the set's own, and
            `all`; without one: all, of MBPP those of its split `test`.

    Raises:
        DataError: E-EVAL-021 when there is no such set, split or file, E-EVAL-022 for each line that is no task,
            E-EVAL-024 when a set has to come from the hub and does not.
    """
    if not _is_set(name):
        return local.load(Path(name), tuple(SETS))
    kind, _, path = name.partition("=")
    kind, _, split = kind.partition(":")
    tasks = SETS[kind](Path(path) if path else None)
    split = split or _USUAL_SPLIT.get(kind, ALL)
    chosen = tuple(task for task in tasks if split in (ALL, task.split))
    if not chosen:
        splits = ", ".join(dict.fromkeys([ALL, *(task.split for task in tasks if task.split)]))
        raise DataError(Problem("E-EVAL-021", f"it has no tasks in the split {split!r}", f"splits are: {splits}", name))
    return chosen


def _is_set(name: str) -> bool:
    return name.partition("=")[0].partition(":")[0] in SETS


def spread(tasks: Sequence[Task], limit: int | None) -> tuple[Task, ...]:
    """At most `limit` of the tasks, evenly over the set, so that each split keeps its share; None: all."""
    if limit is None or limit >= len(tasks):
        return tuple(tasks)
    return tuple(tasks[place * len(tasks) // limit] for place in range(limit))
