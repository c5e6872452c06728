"""`luthier train`: the run, and its screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import typer

from luthier.cli.libraries import import_libraries
from luthier.cli.request import Again, Allow, Request, loaded
from luthier.errors import EXIT_RESUMABLE


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
    per_node: int = typer.Option(1, "--nproc-per-node", min=1, metavar="N", help="Processes here, one a device."),
    nodes: int = typer.Option(1, "--nnodes", min=1, metavar="N", help="Machines; each runs this command."),
    endpoint: str = typer.Option("", "--rdzv-endpoint", metavar="HOST:PORT", help="Where the machines meet."),
    restarts: int = typer.Option(0, "--max-restarts", min=0, metavar="N", help="Start all again when one dies."),
) -> None:
    """Train as CONFIG says; KEY=VALUE changes single keys.

    Example: luthier train configs/training_config.yaml learning_rate=1e-4 lora.r=32 --resume auto

    All keys: luthier explain
    """
    if (per_node, nodes, restarts) != (1, 1, 0):
        loaded(request, again)  # what is wrong with it is said once
        words = [
            *(request or []),
            *(["--from", str(again)] if again else []),
            *(["--resume", resume] if resume else []),
        ]
        words += ["--overwrite"] * overwrite + ["--allow-changes"] * allow_changes + ["--plain"] * plain
        words += [word for name in allow for word in ("--allow", name)]
        if nodes > 1 and not endpoint:
            raise typer.BadParameter("several machines need a place where they meet", param_hint="--rdzv-endpoint")
        from luthier.machine.torchrun import start

        raise typer.Exit(start(per_node, nodes, endpoint, restarts, ["train", *words]))
    stopped = _train(request, again, plain, resume, overwrite=overwrite, allow_changes=allow_changes, allow=allow)
    from luthier.machine.worker import leave

    raise typer.Exit(leave(EXIT_RESUMABLE if stopped else 0))


def _train(
    request: list[str] | None, again: Path | None, plain: bool, resume: str | None, *, overwrite: bool, **options: Any
) -> bool:
    """Train in this process; whether a stop came before the end."""
    from luthier.machine.worker import is_orphan, was_restarted, watch_agent
    from luthier.training.signals import stop_on_signals

    watch_agent()
    try:
        with stop_on_signals() as stop:
            stop.at_once = True  # while torch is imported, too
            if sys.stdout.isatty() and os.environ.get("RANK", "0") == "0":
                typer.echo("reading the configuration, and loading torch")
            config = loaded(request, again)  # a wrong config fails before torch is even imported
            import_libraries()
            from rich.console import Console

            from luthier import api
            from luthier.machine.ranks import rank
            from luthier.monitor.panel import training_screen
            from luthier.notebook import show

            stop.at_once = False
            if was_restarted():
                resume, overwrite = "auto", False
            screen = training_screen(Console(), plain, stop) if rank() == 0 else None
            asked = lambda: stop() or is_orphan()  # noqa: E731
            ended = show(api.train(config, resume=resume, overwrite=overwrite, stop=asked, **options), screen)
            return ended is not None and ended.status == "stopped"
    except KeyboardInterrupt:
        typer.echo("interrupted; --resume auto goes on from the newest checkpoint, if there is one", err=True)
        return True
