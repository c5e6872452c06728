"""`luthier train`: the run, and its screen."""

from __future__ import annotations

from pathlib import Path

import typer

from luthier.cli.request import Again, Allow, Request, loaded
from luthier.errors import EXIT_RESUMABLE


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(no_args_is_help=False)(train)


def train(
    request: list[str] = Request,
    again: Path = Again,
    resume: str = typer.Option(None, "--resume", help="`auto`: go on from the newest whole checkpoint. Or its folder."),
    overwrite: bool = typer.Option(
        False, "--overwrite", help="Move an earlier run in output_dir aside and start over."
    ),
    allow_changes: bool = typer.Option(False, "--allow-changes", help="Go on although data or settings changed."),
    allow: list[str] = Allow,
    plain: bool = typer.Option(False, "--plain", help="One log line a step, also on a terminal."),
) -> None:
    """Train as CONFIG says; KEY=VALUE changes single keys.

    Example: luthier train configs/training_config.yaml learning_rate=1e-4 lora.r=32 --resume auto

    All keys: luthier explain
    """
    from luthier.training.signals import stop_on_signals

    stopped = False
    try:
        with stop_on_signals() as stop:
            stop.at_once = True  # while torch is imported, too
            config = loaded(request, again)  # a wrong config fails before torch is even imported
            from rich.console import Console

            from luthier import api
            from luthier.events.sinks import Sinks
            from luthier.events.types import RunFinished
            from luthier.monitor.panel import training_screen

            stop.at_once = False
            with Sinks() as screen:
                screen.add("the terminal", training_screen(Console(), plain))
                events = api.train(
                    config, resume=resume, overwrite=overwrite, allow_changes=allow_changes, allow=allow, stop=stop
                )
                for event in events:
                    screen.write(event)
                    stopped = isinstance(event, RunFinished) and event.status == "stopped"
    except KeyboardInterrupt:
        typer.echo("interrupted; --resume auto goes on from the newest checkpoint, if there is one", err=True)
        stopped = True
    if stopped:
        raise typer.Exit(EXIT_RESUMABLE)
