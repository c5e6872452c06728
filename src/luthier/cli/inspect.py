"""`luthier inspect`: rows as the model sees them."""

from __future__ import annotations

from pathlib import Path

import typer

from luthier.cli.json_file import check_writable, write_text
from luthier.cli.request import Request, parse

MOST_LINES = 40


def inspect(
    request: list[str] = Request,
    row: list[int] = typer.Option([], "--row", metavar="N", help="The row with this number, whole (more than once)."),
    html: Path = typer.Option(None, "--html", metavar="FILE", help="Write a page of HTML instead."),
) -> None:
    """Show rows as tokens: what is read, what is trained, what is cut away.

    Example: luthier inspect configs/quickstart.yaml --row 3

    Without --row: the longest row, the shortest, and three that chance picks.
    """
    if html:
        check_writable(html, "--html")
    from luthier.config.load import load

    path, overrides = parse(request)
    loaded = load(path, overrides)
    from luthier import api
    from luthier.events.console import open_console
    from luthier.gate.page import page
    from luthier.gate.screen import show_lengths, show_rows
    from luthier.gate.xray import length_bars, telling_rows, xray

    subject = api.gathered(loaded).subject
    rows = [xray(subject, number) for number in row] or telling_rows(subject)
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
