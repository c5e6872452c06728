"""`luthier compare`: tuned models beside their base, by running what they write or comparing their text."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.json_file import file_to_write, write_json, write_text
from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.tasks_options import (
    Answers,
    Fresh,
    General,
    Limit,
    MaxNewTokens,
    Prompt,
    PromptStyle,
    System,
    Tasks,
    Unsafe,
    asked_sets,
    resumable,
)
from luthier.cli.usual_run import WITHOUT, usual_run
from luthier.errors import EXIT_REFUSED

_ON_PAGE = 12


def compare(
    models: list[str] = typer.Argument(
        None,
        metavar="[BASE] [RUN]...",
        help=f"Finished runs, each beside its own base; or first a base model for all of them. {WITHOUT}",
    ),
    tasks: str = Tasks,
    prompt: Prompt = PromptStyle,
    system: str = System,
    base: str = Base,
    json_file: Path = Answers,
    html_file: Path = file_to_write("--html", "Write a page that opens anywhere there."),
    limit: int = Limit,
    samples: int = typer.Option(3, "--show", "--samples", min=0, help="How many answers to show side by side."),
    max_new_tokens: int = MaxNewTokens,
    forgetting: str = General,
    fresh: bool = Fresh,
    unsafe: bool = Unsafe,
) -> None:
    """Ask each RUN and its base the same tasks, run the code or compare the text they write: did fine-tuning help?

    Exit code 3 when a run is significantly worse than its base.

    Example: luthier compare checkpoints --limit 50 --json comparison.json --html comparison.html
    """
    sets = asked_sets(tasks, limit, {"--json": json_file, "--html": html_file})
    models = models or [usual_run("compare")]
    from rich.console import Console

    import_libraries()
    from luthier.evaluate.compare import record
    from luthier.evaluate.forgetting import read_passages
    from luthier.evaluate.page import page
    from luthier.evaluate.runs import Options, compare_all, sandbox_for
    from luthier.evaluate.screen import PLAIN_WIDTH, show, show_summary, telling
    from luthier.events.console import open_console
    from luthier.machine.libraries import library_output_to

    passages, console = read_passages(forgetting), open_console(plain_width=PLAIN_WIDTH)
    quiet, screen = library_output_to(Path(os.devnull)), telling(Console(stderr=True))
    with resumable(), quiet, sandbox_for(sets, unsafe) as sandbox, screen as say:
        options = Options(
            sandbox, max_new_tokens, prompt=prompt, passages=passages, fresh=fresh, say=say, system=system
        )
        comparisons, failure = compare_all(models, sets, options, base=base)
    for comparison in comparisons:
        show(console, comparison, samples)
    if len(comparisons) > 1:
        show_summary(console, comparisons)
    if json_file and comparisons:
        write_json(json_file, record(comparisons))
        console.print(f"\nevery answer and number: {json_file}", markup=False, soft_wrap=True)
    if html_file and comparisons:
        write_text(html_file, page(comparisons, _ON_PAGE), "--html")
        console.print(f"\nthe page: {html_file}", markup=False, soft_wrap=True)
    if failure:
        raise failure
    if any(comparison.overall.worse for comparison in comparisons):
        raise typer.Exit(EXIT_REFUSED)
