"""`luthier sweep`: which values of these keys give the lowest loss on held-out rows?"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from luthier.cli.json_file import file_to_write, write_json
from luthier.cli.request import Allow, parse
from luthier.errors import EXIT_RESUMABLE, MissingError, Problem
from luthier.errors.extras import install

if TYPE_CHECKING:
    from luthier.sweep.process import Place
    from luthier.sweep.standing import Standing
    from luthier.sweep.study import Sweep


def sweep(
    request: list[str] = typer.Argument(
        metavar="[CONFIG] KEY=RANGE... [KEY=VALUE]...",
        help="A YAML file, what to try (log:1e-4..1e-3, 0..0.2, int:0..100, 8,16,32), and keys that hold for all.",
    ),
    trials: int = typer.Option(None, "--trials", min=2, help="Runs to do. Default: 12, or each combination once."),
    jobs: int = typer.Option(
        None, "--jobs", min=1, help="Runs at a time. Default: 1; with --on ray one for each GPU, or machine."
    ),
    on: Literal["ray"] = typer.Option(
        None, "--on", help="ray: on the cluster of RAY_ADDRESS, or on one that is started here."
    ),
    allow: list[str] = Allow,
    json_file: Path = file_to_write("--json", "Also write all trials there."),
    plain: bool = typer.Option(False, "--plain", help="One line a trial, also on a terminal."),
) -> None:
    """Train with several values, and keep the config with the lowest eval_loss.

    After Ctrl-C or a kill the same command goes on.

    learning_rate without a range is the learning-rate finder: a few short runs.

    Example: luthier sweep configs/training_config.yaml learning_rate=log:1e-4..1e-3 lora.r=8,16,32 --trials 12
    """
    from luthier.sweep.space import read_space

    space = read_space(*parse(request))
    _check_installed(on)
    from luthier.events.console import open_console
    from luthier.sweep.screen import Screen
    from luthier.sweep.study import Sweep
    from luthier.training.signals import stop_on_signals

    console, standing = open_console(), None
    try:
        with stop_on_signals() as stop, _place(on, jobs) as place, Screen(console, plain, stop) as screen:
            stop.shown = screen.is_live
            work = Sweep(space, trials, allow, stop, place)
            for standing in work.run():
                screen.show(standing)
    except KeyboardInterrupt:
        standing = None
    if standing is None or standing.stopped:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(EXIT_RESUMABLE)
    screen.close(standing)
    _keep(work, standing)
    if json_file:
        write_json(json_file, standing.as_dict())


def _check_installed(on: Literal["ray"] | None) -> None:
    for name, extras in (("optuna", ["sweep"]), ("ray", ["sweep", "ray"])):
        if importlib.util.find_spec(name) is None and (name == "optuna" or on):
            raise MissingError(Problem("E-SWEEP-005", f"{name} is not installed", install(*extras)))


def _place(on: Literal["ray"] | None, jobs: int | None) -> Place:
    if not on:
        from luthier.sweep.process import Here

        return Here(jobs or 1)
    from luthier.sweep.cluster import Cluster

    return Cluster(jobs)


def _keep(work: Sweep, standing: Standing) -> None:
    """Write the best config and the picture, and say where."""
    from luthier.sweep.folder import write_best
    from luthier.sweep.picture import can_draw, draw

    best = standing.best
    if best:
        path = write_best(work.space, best, work.folder, len(standing.rows))
        typer.echo(f"\nbest      luthier train {path}\nits run   {best.folder}")
    if not can_draw():
        typer.echo(f"picture   none without matplotlib: {install('sweep')}")
    elif picture := draw(standing, work.folder, frozenset(r.key for r in work.space.ranges if r.log)):
        typer.echo(f"picture   {picture}")
