"""The held-out tasks that come with Luthier: small Python functions that no training row of the quickstart asks for.

Their splits say how far they are from the training rows: `phrasing` asks for a known function in other words,
`parameter` for a known one with other numbers, `composition` for two known ones in one.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from luthier.errors import DataError, Problem
from luthier.evaluate.tasks.task import Task, read_tasks

NAME = "quickstart"
ROWS = "heldout.jsonl"


def load(path: Path | None = None) -> tuple[Task, ...]:
    """All tasks, in the order of the file.

    Raises:
        DataError: E-EVAL-021 when the user names a file of their own.
    """
    if path is not None:
        fix = f"write {path} alone: --tasks {path}"
        raise DataError(Problem("E-EVAL-021", "these tasks come with Luthier and have no file", fix, NAME))
    text = files("luthier.quickstart").joinpath("rows", ROWS).read_text(encoding="utf-8")
    return read_tasks(text.split("\n"), ROWS)
