"""`luthier runs`: the runs that are here, beside each other."""

from __future__ import annotations

import json
import time
from pathlib import Path

import typer

from luthier.errors import MissingError, Problem


def runs(
    folder: Path = typer.Argument(Path(), metavar="[FOLDER]", help="Where to look; default: here, two folders down."),
    as_json: bool = typer.Option(False, "--json", help="A JSON list of runs instead of the table."),
) -> None:
    """List the runs in FOLDER: how each ended, its losses, what was measured, and where their configs differ.

    Example: luthier runs checkpoints-sweep --json

    Reads their logs, and the files that luthier compare and evaluate wrote with --json into their folders.
    """
    from luthier.events.console import open_console
    from luthier.report.overview import as_json as as_plain
    from luthier.report.overview import entries, show

    try:
        is_there = folder.is_dir()
    except OSError:  # a name that is too long, or a folder that one may not enter
        is_there = False
    if not is_there:
        found = "there is no such folder"
        raise MissingError(Problem("E-RUN-005", found, "give a folder that holds runs: luthier runs .", str(folder)))
    found_runs = entries(folder, time.time())
    if as_json:
        typer.echo(json.dumps(as_plain(found_runs), indent=1))
    elif found_runs:
        show(open_console(plain_width=160), found_runs)
    else:
        where = "here" if folder == Path() else f"in {folder}"
        typer.echo(f"no run {where} yet; make one: luthier quickstart, or luthier train CONFIG")
