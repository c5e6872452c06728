"""The log that a command was given, when there is nothing to read in it."""

from __future__ import annotations

import os
from pathlib import Path

from luthier.errors import Problem

NO_LOG = "nothing in it is a log of a training run"


def trouble(path: Path) -> str:
    """Why there is nothing at a path, in words; empty where there is something."""
    try:
        return "" if path.exists() else "there is no such log"
    except OSError as error:  # a name that is too long, or a folder that one may not enter
        return f"cannot look there: {error.strerror or error}"


def no_log(path: Path, command: str, found: str) -> Problem:
    """E-RUN-005.

    Args:
        path: What was given.
        command: The command, for the fix.
        found: What is there instead.
    """
    inside = os.path.isfile(path.parent / "events.jsonl")  # noqa: PTH113 (it raises nothing)
    run = path.parent if inside else "checkpoints"
    fix = f"give the folder of a run (training.output_dir) or its log: luthier {command} {run}"
    return Problem("E-RUN-005", found, fix, str(path))
