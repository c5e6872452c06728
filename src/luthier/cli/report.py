"""`luthier report`: a run, or several, as one page of HTML."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from luthier.cli.json_file import check_writable, write_text
from luthier.cli.log_file import NO_LOG, no_log, trouble
from luthier.cli.usual_run import WITHOUT, has_begun, usual_run
from luthier.errors import MissingError

PAGE = "report.html"


def report(
    paths: list[Path] = typer.Argument(
        None, metavar="[RUN]...", help=f"Folders of runs, or logs. Several: beside each other. {WITHOUT}"
    ),
    out: Path = typer.Option(
        None, "--out", metavar="FILE", help="Where to; else report.html in the folder of RUN, or here."
    ),
    results: list[Path] = typer.Option(
        [],
        "--results",
        metavar="FILE",
        help="Of luthier compare or evaluate --json, when it is not in the run's folder.",
    ),
) -> None:
    """Sum up a run on one page: what was asked, the curve, samples, findings, results, and how to do it again.

    Example: luthier report checkpoints

    Finished, stopped or still running: files alone are read. The page opens anywhere, loads nothing and runs nothing.
    """
    from luthier.events.follow import runs_in
    from luthier.report.page import page
    from luthier.report.run import read_run
    from luthier.report.several import several

    paths = paths or [Path(usual_run("report", has_begun))]
    found = [run for path in paths for run in runs_in(path) or [path]]
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else Path()
    place = out or folder / PAGE
    wrong = [no_log(path, "report", words) for path in found if (words := trouble(path))]
    if wrong:
        raise MissingError(*wrong)
    check_writable(place, "--out")
    runs = [read_run(path, results) for path in found]
    if empty := [no_log(run.path, "report", NO_LOG) for run in runs if run.empty]:
        raise MissingError(*empty)
    write_text(place, page(runs[0], time.time()) if len(runs) == 1 else several(runs), "--out")
    typer.echo(f"report: {place}")
