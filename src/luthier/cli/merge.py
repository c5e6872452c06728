"""`luthier merge`: the adapter becomes part of the weights, with proof."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer

from luthier.cli.json_file import JsonFile, write_json
from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.usual_run import Run, usual_run

To: Any = typer.Option(None, "--to", metavar="FOLDER", help="Where to; a folder that is not there yet.")
Prompts: Any = typer.Option(
    None, "--prompts", metavar="FILE", help="Compare on these, one a line; else on held-out rows of the run."
)
Overwrite: Any = typer.Option(False, "--overwrite", help="Replace what an earlier export wrote there.")


class Onto(StrEnum):
    """Which weights the adapter is added to."""

    trained = "trained"
    files = "files"


class Dtype(StrEnum):
    """Number formats of merged weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


OntoIs: Any = typer.Option(
    Onto.trained, "--onto", help="`trained`: the base's weights as the training used them; `files`: as in its files."
)


def merge(
    run: str = Run,
    to: Path = To,
    onto: Onto = OntoIs,
    dtype: Dtype = typer.Option(None, "--dtype", help="Number format; else that of the base's files."),
    base: str = Base,
    prompts: Path = Prompts,
    overwrite: bool = Overwrite,
    as_json: Path = JsonFile,
) -> None:
    """Add the adapter of RUN into its base and write a plain model, compared with the run before it counts.

    Exit code 3, and nothing written, when it does not answer as the run does.

    Example: luthier merge checkpoints --to my_model
    """
    run = run or usual_run("merge")
    import_libraries()
    from luthier.export import screen
    from luthier.export.run import Options, merge_run
    from luthier.machine.libraries import library_output_to
    from luthier.model.forward import DTYPES

    options = Options(base, onto.value, prompts, overwrite)
    with library_output_to(Path(os.devnull)):
        done = merge_run(run, to, DTYPES[dtype.value] if dtype else None, options, say)
    typer.echo(screen.shown(done))
    if as_json:
        write_json(as_json, screen.as_json(done))


def say(text: str) -> None:
    """What is being done, to stderr."""
    from luthier.errors.secrets import hide
    from luthier.events.printable import one_line

    typer.echo(hide(one_line(text)), err=True)
