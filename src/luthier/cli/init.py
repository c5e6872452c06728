"""`luthier init`: a config for your own rows."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.columns_option import Columns, as_names
from luthier.cli.json_file import check_writable, write_text
from luthier.errors import MissingError, Problem


def init(
    model: str = typer.Argument(
        metavar="MODEL",
        help="Whose weights are adapted: a hub id, a local folder, or luthier:quickstart/base, which comes with "
        "Luthier and learns on a CPU.",
    ),
    rows: str = typer.Argument(
        metavar="ROWS", help="A .jsonl, .json, .csv or .parquet, a folder of them, or a hub id."
    ),
    columns: list[str] = Columns,
    out: Path = typer.Option(None, "--out", metavar="FILE", help="Where to; else the name of ROWS with .yaml, here."),
) -> None:
    """Write a short config for your own rows, each line with its reason. Replaces nothing.

    Learning rate, batch, epochs and evaluations follow from the size of the base and the number of rows.

    Example: luthier init meta-llama/Llama-3.2-1B data/tickets.jsonl --out tickets.yaml
    """
    names = as_names(columns)
    file = out or Path(f"{Path(rows).stem or 'run'}.yaml")
    check_writable(file, "--out")
    if os.path.lexists(file):
        found, fix = "there is a file of this name already", "name another: --out FILE"
        raise MissingError(Problem("E-ENV-002", found, fix, str(file)))
    from luthier.gate.starting import first_config, look, next_commands
    from luthier.machine.libraries import library_output_to

    with library_output_to(Path(os.devnull)):
        seen = look(rows, names)
        text = first_config(model, seen, file)
    write_text(file, text, "--out")
    plan, train, compare = next_commands(file, seen)
    typer.echo(f"written: {file}\nlook at it, then: {plan}\n                  {train}")
    typer.echo(f"                  {compare}   (questions of your own)")
