"""The run that a command takes when none is named: RUN may be left out where there is only one to mean."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from luthier.cli.log_file import FOLDER, run_folders
from luthier.config.outputs import EVENTS, FINAL, RECORD
from luthier.errors import MissingError, Problem

WITHOUT = f"Default: {FOLDER}, or the only one below {FOLDER}*/."
Run: Any = typer.Argument(None, metavar="[RUN]", help=f"Output folder of a finished run. {WITHOUT}")

_MOST_NAMED = 6


def is_finished(folder: Path) -> bool:
    """Whether a folder has what a run leaves when it is done."""
    marks = ("adapter_config.json", "model.safetensors")
    return any(os.path.isfile(folder / FINAL / mark) for mark in marks)  # noqa: PTH113 (it raises nothing)


def has_begun(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    # its record, its events, or what it left
    marks = (RECORD, EVENTS)
    return is_finished(folder) or any(os.path.isfile(folder / mark) for mark in marks)  # noqa: PTH113


def usual_run(command: str, fits: Callable[[Path], bool] = is_finished) -> str:
    """The folder of the run that is meant, said on stderr.

    Args:
        command: For the fix of an error.
        fits: Which runs the command can use.

    Raises:
        MissingError: E-RUN-010, there is none, or there are several.
    """
    folders = [FOLDER] if fits(FOLDER) else [folder for folder in run_folders() if fits(folder)]
    if len(folders) != 1:
        raise MissingError(_not_one(folders, command))
    name = str(folders[0])
    typer.echo(f"run: {name}", err=True)
    return name


def _not_one(folders: list[Path], command: str) -> Problem:
    if folders:
        names = ", ".join(map(str, folders[:_MOST_NAMED])) + ", ..." * (len(folders) > _MOST_NAMED)
        fix = f"name one of them: luthier {command} {shlex.quote(str(folders[0]))}"
        return Problem("E-RUN-010", f"no RUN is named, and {len(folders)} runs are here: {names}", fix)
    begun = [folder for folder in run_folders() if has_begun(folder)]
    found = f"no RUN is named, and no finished run is in {FOLDER} or below {FOLDER}*/"
    if begun:
        return Problem(
            "E-RUN-010",
            f"{found}; the one in {begun[0]} has not ended",
            "go on with it: luthier train CONFIG --resume auto",
        )
    return Problem("E-RUN-010", found, f"name its folder (luthier {command} FOLDER), or make one: luthier quickstart")
