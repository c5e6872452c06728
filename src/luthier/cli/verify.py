"""`luthier verify`: what Luthier promises, checked on your own config."""

from __future__ import annotations

from pathlib import Path

import typer

from luthier.cli.json_file import check_writable, write_json
from luthier.cli.request import Allow, Request, loaded
from luthier.errors import EXIT_REFUSED


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(help="Check a promise on your own config and machine.", no_args_is_help=True)
    group.callback()(lambda: None)  # a group also while it has a single command
    group.command()(resume)
    app.add_typer(group, name="verify")


def resume(
    request: list[str] = Request,
    steps: int = typer.Option(8, "--steps", min=2, help="Optimizer steps of each run."),
    allow: list[str] = Allow,
    as_json: Path = typer.Option(None, "--json", metavar="FILE", help="Also write the result there."),
) -> None:
    """Run the first steps straight through, and again killed and resumed; compare the two bit for bit.

    Works in a folder of its own beside output_dir, which is deleted in the end. Exits with 3 when they differ.

    Example: luthier verify resume configs/training_config.yaml --steps 8
    """
    config = loaded(request, None)
    if as_json:
        check_writable(as_json)
    from luthier.verify import screen
    from luthier.verify.resume import verify_resume

    verified = verify_resume(config, steps, lambda text: typer.echo(text, err=True), allow)
    typer.echo(screen.table(verified))
    if as_json:
        write_json(as_json, screen.as_json(verified))
    if not verified.comparison.equal:
        raise typer.Exit(EXIT_REFUSED)
