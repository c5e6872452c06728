"""`luthier bench`: Luthier beside its peers, on this machine."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Literal

import typer

from luthier.cli.json_file import JsonFile, write_json
from luthier.errors import EXIT_REFUSED, MissingError, Problem


def bench(
    device: Literal["cpu"] = typer.Argument("cpu", help="Where to measure; GPUs are not used."),
    overrides: list[str] = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Keys of the run, such as r=32 or model_name_or_path=FOLDER."
    ),
    steps: int = typer.Option(20, "--steps", min=2, help="Optimizer steps of each run."),
    warm_up: int = typer.Option(4, "--warm-up", min=0, help="Steps at the start that are not timed."),
    repeats: int = typer.Option(3, "--repeats", min=1, help="Runs of each system."),
    alone: bool = typer.Option(False, "--alone", help="Luthier only, without its peers."),
    as_json: Path = JsonFile,
) -> None:
    """Train the same steps with Luthier and with TRL, in turns, and compare speed, memory and losses.

    Exits with 3 when the losses differ.

    Example: luthier bench cpu --json bench.json
    """
    if warm_up >= steps:
        raise typer.BadParameter(f"{warm_up} leaves none of {steps} steps", param_hint="--warm-up")
    if not alone and importlib.util.find_spec("trl") is None:
        raise MissingError(Problem("E-ENV-006", "trl is not installed", "pip install trl (or --alone)"))
    from luthier.bench import screen
    from luthier.bench.compare import Request, compare
    from luthier.bench.setting import request_keys

    with tempfile.TemporaryDirectory(prefix="luthier-bench-") as name:
        folder = Path(name)
        base, keys = request_keys(overrides or [], steps, folder)
        arms = ("luthier", "luthier-peft") if alone else ("luthier", "luthier-peft", "trl", "trl-tuned")
        request = Request(keys, base, arms, repeats, warm_up)
        comparison = compare(request, folder, lambda text: typer.echo(text, err=True))
    typer.echo(screen.table(comparison))
    if as_json:
        write_json(as_json, screen.as_json(comparison))
    if not comparison.equal:
        raise typer.Exit(EXIT_REFUSED)
