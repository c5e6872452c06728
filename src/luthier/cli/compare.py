"""`luthier compare`: a run beside its base, by running what they write."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.json_file import check_writable, write_json
from luthier.errors import EXIT_REFUSED, LuthierError


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(compare)


def compare(
    runs: list[str] = typer.Argument(metavar="RUN...", help="Output folders of finished runs."),
    tasks: str = typer.Option("quickstart", "--tasks", help="`quickstart`, or a JSON lines file."),
    base: str = typer.Option(None, "--base", help="Where the base model is, if not where it was in training."),
    json_file: Path = typer.Option(None, "--json", metavar="FILE", help="Write every answer and number there."),
    limit: int = typer.Option(None, "--limit", min=1, help="Ask only so many tasks, spread evenly over the set."),
    samples: int = typer.Option(3, "--samples", min=0, help="How many answers to show side by side."),
    max_new_tokens: int = typer.Option(384, "--max-new-tokens", min=1, help="Longest answer."),
    unsafe: bool = typer.Option(
        False,
        "--unsafe-local-execution",
        help="Run answers with limits only where no sandbox holds. See: luthier explain E-EVAL-001.",
    ),
) -> None:
    """Ask each RUN and its base the same tasks, run the code they write, and say whether fine-tuning helped.

    Exit code 3 when a run is significantly worse than its base.

    Example: luthier compare checkpoints --limit 50 --json comparison.json
    """
    from luthier.evaluate.tasks import load_tasks, spread

    asked = spread(load_tasks(tasks), limit)
    if json_file:
        check_writable(json_file)
    from rich.console import Console

    from luthier.evaluate.compare import record
    from luthier.evaluate.runs import compare_runs
    from luthier.evaluate.sandbox import Sandbox
    from luthier.evaluate.screen import PLAIN_WIDTH, show, telling
    from luthier.events.console import open_console
    from luthier.machine.libraries import library_output_to

    console, comparisons = open_console(plain_width=PLAIN_WIDTH), []
    with library_output_to(Path(os.devnull)), Sandbox(unsafe=unsafe) as sandbox, telling(Console(stderr=True)) as say:
        failure: LuthierError | None = None
        try:
            for comparison in compare_runs(runs, asked, sandbox, base=base, max_new_tokens=max_new_tokens, say=say):
                comparisons.append(comparison)
        except LuthierError as error:  # of a later run: what came before it is not lost
            failure = error
    if json_file and comparisons:
        write_json(json_file, record(comparisons, tasks, asked))
    for comparison in comparisons:
        show(console, comparison, asked, tasks, samples)
    if json_file and comparisons:
        console.print(f"\nevery answer and number: {json_file}", markup=False, soft_wrap=True)
    if failure:
        raise failure
    if any(comparison.overall.worse for comparison in comparisons):
        raise typer.Exit(EXIT_REFUSED)
