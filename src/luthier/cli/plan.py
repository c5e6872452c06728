"""`luthier plan`: what would happen."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.request import Request, parse
from luthier.errors import EXIT_WRONG_REQUEST


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(plan)


def plan(request: list[str] = Request) -> None:
    """Print what a run would do, each number with where it comes from. Runs nothing."""
    from luthier.config.load import load

    path, overrides = parse(request)
    loaded = load(path, overrides)
    from luthier import api
    from luthier.config.render import render_plan
    from luthier.machine.libraries import library_output_to

    with library_output_to(Path(os.devnull)):
        resolved, missing = api.plan(loaded)
    typer.echo(render_plan(resolved))
    if missing:
        typer.echo("\nMissing on this machine:\n", err=True)
        typer.echo("\n\n".join(problem.render() for problem in missing) + "\n", err=True)
        raise typer.Exit(EXIT_WRONG_REQUEST)
