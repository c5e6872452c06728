"""`luthier doctor`: what is wrong with a run, and the line to change."""

from __future__ import annotations

import json
import shlex
import time
from contextlib import closing
from pathlib import Path

import typer

from luthier.cli.log_file import NO_LOG, no_log, trouble, usual_log
from luthier.errors import MissingError


def doctor(
    log: Path = typer.Argument(None, metavar="[RUN_OR_LOG]", help="Folder of a run, or a log of any training program."),
    whole: bool = typer.Option(False, "--all", help="Also each rule that could not be judged, and what it lacks."),
    as_json: bool = typer.Option(False, "--json", help="A JSON list of findings instead of text."),
) -> None:
    """Examine a run, live or long ago: what is wrong, what shows it, why, and the line of YAML to change.

    Example: luthier doctor checkpoints

    What is read: the folder of a run, events.jsonl, training.log, logs of Hugging Face's Trainer, TRL and
    LLaMA-Factory, TensorBoard files; without RUN_OR_LOG: the run in checkpoints or below checkpoints*/, or
    training.log, whichever was written last.
    Ends with 0 whatever is found.
    """
    from luthier.doctor import History, applying, findings, fold, report, unjudged
    from luthier.doctor.outlook import unsettled
    from luthier.errors.terminal import width, wrapped
    from luthier.events.follow import open_log, runs_in
    from luthier.events.printable import one_line

    given, log = log, log or usual_log()
    seen = History()
    empty = True
    with closing(open_log(log, whole=True)) as source:
        for told in source.everything():
            seen, empty = fold(seen, told.event, told.time), False
    if empty or runs_in(log):
        raise MissingError(no_log(log, "doctor", trouble(log) or NO_LOG))
    found = findings(seen, time.time())
    if as_json:
        typer.echo(json.dumps(report.as_json(found), indent=1))
    else:
        typer.echo(wrapped(f"{one_line(str(log))} ({one_line(source.source)})", "", "  ", width()) + "\n")
        missing = unjudged(seen)
        typer.echo(report.as_text(found, unsettled(seen, missing), seen.step, width()))
        more = f"luthier doctor {shlex.quote(one_line(str(given)))} --all" if given else "luthier doctor --all"
        count = len(applying(seen))
        below = report.lacking(missing, width()) if whole else report.judged(count, missing, more, width())
        typer.echo(f"\n{below}" if below else "", nl=bool(below))
