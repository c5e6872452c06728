"""`luthier verify`: what Luthier promises, checked on your own config."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.json_file import JsonFile, write_json
from luthier.cli.libraries import import_libraries
from luthier.cli.merge import Prompts, say
from luthier.cli.request import Allow, Base, Request, loaded
from luthier.cli.usual_run import Run, usual_run
from luthier.errors import EXIT_REFUSED

verify = typer.Typer(help="Check a promise on your own config and machine.", no_args_is_help=True)


@verify.command()
def resume(
    request: list[str] = Request,
    steps: int = typer.Option(8, "--steps", min=2, help="Optimizer steps of each run."),
    allow: list[str] = Allow,
    as_json: Path = JsonFile,
) -> None:
    """Run the first steps straight through, and again killed and resumed; compare the two bit for bit.

    Works in a folder of its own beside output_dir, which is deleted in the end. Exits with 3 when they differ.

    Example: luthier verify resume configs/training_config.yaml --steps 8
    """
    config = loaded(request, None)
    import_libraries()
    from luthier.verify import screen
    from luthier.verify.resume import verify_resume

    verified = verify_resume(config, steps, lambda text: typer.echo(text, err=True), allow)
    typer.echo(screen.table(verified))
    if as_json:
        write_json(as_json, screen.as_json(verified))
    if not verified.comparison.equal:
        raise typer.Exit(EXIT_REFUSED)


@verify.command()
def merge(
    run: str = Run,
    merged: Path = typer.Option(None, "--merged", metavar="FOLDER", help="The merged model; else `merged` in RUN."),
    base: str = Base,
    prompts: Path = Prompts,
    as_json: Path = JsonFile,
) -> None:
    """Compare a merged model with its run, and the run with what plain peft makes of it.

    Exits with 3 when they differ beyond what rounding does.

    Example: luthier verify merge checkpoints
    """
    run = run or usual_run("verify merge")
    import_libraries()
    from luthier.machine.libraries import library_output_to
    from luthier.verify import screen
    from luthier.verify.merge import verify_merge

    with library_output_to(Path(os.devnull)):
        verified = verify_merge(run, merged, base, prompts, say)
    typer.echo(screen.merge_table(verified))
    if as_json:
        write_json(as_json, screen.merge_as_json(verified))
    if not verified.passed:
        raise typer.Exit(EXIT_REFUSED)
