"""The log that a command was given, when there is nothing to read in it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from luthier.config.outputs import EVENTS
from luthier.errors import Problem

NO_LOG, NOT_THERE = "nothing in it is a log of a training run", "there is no such log"

FOLDER, LOG = Path("checkpoints"), Path("training.log")


def usual_log() -> Path:
    """What to read when nothing is named: of the two usual places the one that was written last."""
    from luthier.events.follow import written

    return max(LOG, FOLDER, key=written)


def trouble(path: Path) -> str:
    """Why there can be no log at a path, in words; empty where there may be one."""
    if path.suffix in (".yaml", ".yml"):
        return "a config is not a log"
    try:
        return "" if path.exists() else NOT_THERE
    except OSError as error:  # a name that is too long, or a folder that one may not enter
        return f"cannot look there: {error.strerror or error}"


def no_log(path: Path, command: str, found: str) -> Problem:
    """E-RUN-005.

    Args:
        path: What was given.
        command: The command, for the fix.
        found: What is there instead.
    """
    from luthier.events.follow import runs_in

    if runs := runs_in(path):
        fix = f"name one of them: luthier {command} {shlex.quote(str(runs[0]))}"
        return Problem("E-RUN-005", f"a folder of {len(runs)} runs", fix, str(path))
    inside = os.path.isfile(path.parent / EVENTS)  # noqa: PTH113 (it raises nothing)
    run = path.parent if inside else "checkpoints"
    fix = f"give the folder of a run (training.output_dir) or its log: luthier {command} {run}"
    return Problem("E-RUN-005", found, fix, str(path))
