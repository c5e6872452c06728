"""`luthier launch`: the run as a job of a scheduler."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import typer

from luthier.cli.request import Request, parse


def launch(
    request: list[str] = Request,
    on: Literal["slurm", "skypilot", "kubernetes", "ray"] = typer.Option(help="Whose machines."),
    nodes: int = typer.Option(1, "--nodes", min=1, help="Machines."),
    gpus: str = typer.Option("1", "--gpus-per-node", metavar="[KIND:]N", help="4, or H100:4; 0: none."),
    time: str = typer.Option("", "--time", help="Slurm: of one attempt, 12:00:00."),
    partition: str = typer.Option("", "--partition", help="Slurm: where to queue."),
    image: str = typer.Option("", "--image", help="Kubernetes, SkyPilot: a container that has Luthier in it."),
    storage: str = typer.Option("", "--storage", help="Kubernetes: a claim; SkyPilot: a bucket. Default: a new one."),
    output: Path = typer.Option(
        None, "--output", metavar="FILE", help="The job file. Default: named after output_dir."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Also where the file says something else."),
    submit: bool = typer.Option(False, "--submit", help="Give it to sbatch, sky, kubectl or ray."),
) -> None:
    """Write the job file of a run, and with --submit submit it. A job that is stopped is queued again, and goes on.

    Example: luthier launch configs/training_config.yaml --on slurm --gpus-per-node 1 --time 12:00:00
    """
    from luthier.config.load import load
    from luthier.launch import write
    from luthier.launch.job import SCHEDULERS, Job, name_of, read_gpus

    path, overrides = parse(request)
    loaded = load(path, overrides)
    kind, number = read_gpus(gpus)
    name = name_of(loaded)
    job = Job(on, loaded, tuple(overrides), name, nodes, number, kind, time, partition, image, storage)
    scheduler = SCHEDULERS[on]
    output = output or Path(f"{name}{scheduler.ending}")
    write.write(write.render(job), output, overwrite=overwrite)
    typer.echo(f"written   {output}")
    if not submit:
        typer.echo(f"submit    {scheduler.submit} {shlex.quote(str(output))}")
    for left in job.left_here:
        typer.echo(f"missing   {left}, which stays on this machine; the job needs it under that name")
    if submit:
        write.submit(job, output)
