"""`luthier inspect`: rows as the model sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.cli.json_file import file_to_write, keep, write_text
from luthier.cli.libraries import import_libraries
from luthier.cli.request import Request, parse
from luthier.cli.request import loaded as loaded_from

if TYPE_CHECKING:
    from luthier.config.load import Loaded

MOST_LINES = 40


def inspect(
    request: list[str] = Request,
    again: Path = typer.Option(None, "--from", metavar="RUN", help="The rows of a recorded run, in place of CONFIG."),
    row: list[int] = typer.Option([], "--row", metavar="N", help="The row with this number, whole (more than once)."),
    html: Path = file_to_write("--html", "Write a page of HTML instead."),
    step: bool = typer.Option(False, "--step", help="Take one optimizer step of the --row, and show every number."),
) -> None:
    """Show rows as tokens: what is read, what is trained, what is cut away.

    Example: luthier inspect configs/quickstart.yaml --row 3

    Without --row: the longest row, the shortest, and three that chance picks; of pairs both answers. With --step the
    model is loaded: p and loss of each trained token, gradient, clipping, AdamW's arithmetic, and the same row after
    the step.
    """
    if step and (len(row) != 1 or html):
        raise typer.BadParameter("--step takes one row, and prints it: --row N --step")
    keep(again or parse(request)[0], html, "--html")
    loaded = loaded_from(request, again)
    if step:
        _step(loaded, row[0])
        return
    import_libraries()
    from luthier import api
    from luthier.events.console import open_console
    from luthier.gate.page import page
    from luthier.gate.screen import show_lengths, show_rows
    from luthier.gate.xray import length_bars, telling_rows, xrays

    subject = api.gathered(loaded).subject
    rows = [shown for number in row for shown in xrays(subject, number)] or telling_rows(subject)
    bars, limit = length_bars(subject), subject.data.train.limit
    if html:
        write_text(html, page(rows, bars, limit), "--html")
        typer.echo(f"written to {html}")
        return
    console = open_console()
    show_rows(console, rows, most_lines=None if row else MOST_LINES)
    if not row:
        console.print()
        show_lengths(console, bars, limit)


def _step(loaded: Loaded, number: int) -> None:
    import_libraries()
    from luthier import api
    from luthier.events.console import open_console
    from luthier.machine.libraries import library_output_to
    from luthier.verify.by_hand import by_hand, chosen
    from luthier.verify.by_hand_screen import memory_warning, show_step

    parts = api.gathered(loaded)
    chosen_row = chosen(parts, number)
    if warning := memory_warning(chosen_row.memory):
        typer.echo(warning, err=True)
    with library_output_to(Path(os.devnull)):
        taken = by_hand(parts, chosen_row)
    show_step(open_console(), parts.plan, chosen_row, taken)
