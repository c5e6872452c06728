"""The log that a command was given, when there is nothing to read in it."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from luthier.config.outputs import EVENTS
from luthier.errors import Problem

NO_LOG, NOT_THERE = "nothing in it is a log of a training run", "there is no such log"

_SNIFF = 64 * 1024
_OF_A_LOG = re.compile("loss|step|event|epoch|iter|log_history")

FOLDER, LOG = Path("checkpoints"), Path("training.log")


def usual_log() -> Path:
    """What to read when nothing is named: the usual log, or a run in a usual place, whichever was written last."""
    from luthier.events.follow import written

    runs = (folder for folder in run_folders() if os.path.isfile(folder / EVENTS))  # noqa: PTH113 (it raises nothing)
    return max((LOG, FOLDER, *runs), key=written)


def run_folders() -> Iterator[Path]:
    """Where runs usually are, the ones that were written last first."""
    try:
        tops = [path for path in Path().glob(f"{FOLDER}*") if path.is_dir()]
        found = [*tops, *(path for top in tops for path in top.iterdir() if path.is_dir())]
        yield from sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:  # a folder that went away or may not be entered: nothing is guessed then
        return


def trouble(path: Path) -> str:
    """Why there can be no log at a path, in words; empty where there may be one."""
    if path.suffix in (".yaml", ".yml"):
        return "a config is not a log"
    try:
        if not path.exists():
            return NOT_THERE
        return "these are rows, not a log" if path.is_file() and _holds_rows(path) else ""
    except OSError as error:  # a name that is too long, or a folder that one may not enter
        return f"cannot look there: {error.strerror or error}"


def _holds_rows(path: Path) -> bool:
    """Whether a file is a dataset: by its ending, or JSON whose first row has no field as lines of a log have."""
    if path.suffix in (".csv", ".parquet"):
        return True
    if path.suffix not in (".jsonl", ".json"):
        return False
    with path.open("rb") as file:
        start = file.read(_SNIFF).lstrip()
    try:
        row = json.loads(start.split(b"\n", 1)[0])
    except (ValueError, RecursionError):  # a line that is being written, or an object of several lines
        return start.startswith(b"[")
    return isinstance(row, list) or (isinstance(row, dict) and not any(map(_OF_A_LOG.search, row)))


def no_log(path: Path, command: str, found: str) -> Problem:
    """E-RUN-005.

    Args:
        path: What was given.
        command: The command, for the fix.
        found: What is there instead.
    """
    from luthier.data.sources.files import nearest
    from luthier.events.follow import runs_in, written

    if runs := runs_in(path):
        fix = f"name one of them: luthier {command} {shlex.quote(str(max(runs, key=written)))}"
        return Problem("E-RUN-005", f"a folder of {len(runs)} runs", fix, str(path))
    if found == NOT_THERE and (near := nearest(path)):
        return Problem("E-RUN-005", found, f"did you mean {near}?", str(path))
    inside = os.path.isfile(path.parent / EVENTS)  # noqa: PTH113 (it raises nothing)
    usual = usual_log()
    run = path.parent if inside else usual if written(usual) else FOLDER
    fix = f"give the folder of a run (training.output_dir) or its log: luthier {command} {shlex.quote(str(run))}"
    return Problem("E-RUN-005", found, fix, str(path))
