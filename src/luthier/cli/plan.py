"""`luthier plan`: what would happen."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.request import Again, Request, loaded
from luthier.errors import EXIT_REFUSED, EXIT_WRONG_REQUEST


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(plan)


def plan(request: list[str] = Request, again: Path = Again) -> None:
    """Print what a run would do, each number with where it comes from. Runs nothing."""
    config = loaded(request, again)
    from luthier import api
    from luthier.config.render import render_plan
    from luthier.machine.libraries import library_output_to

    with library_output_to(Path(os.devnull)):
        resolved, missing = api.plan(config)
    typer.echo(render_plan(resolved))
    if missing:
        refused = missing[0].code == "E-RUN-020"
        heading = "Not as in the record" if refused else "Missing on this machine"
        typer.echo("\n\n".join((f"\n{heading}:", *(problem.render() for problem in missing))) + "\n", err=True)
        raise typer.Exit(EXIT_REFUSED if refused else EXIT_WRONG_REQUEST)
