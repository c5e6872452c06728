"""`luthier predict`: each row of a file answered by a finished run."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from luthier.cli.columns_option import Columns, as_names
from luthier.cli.json_file import file_to_write, keep, write_json_lines
from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.sampling_options import MaxNewTokens, Stop, System, Temperature, TopP
from luthier.cli.tasks_options import Fresh, resumable

_TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
To = file_to_write("--to", "Where rows and answers are written, as JSON lines.", ...)


def predict(
    run: str = typer.Argument(..., metavar="RUN", help="Output folder of a finished run."),
    rows: str = typer.Argument(
        ..., metavar="ROWS", help="A .jsonl, .json, .csv or .parquet file; of a folder or hub id its train rows."
    ),
    to: Path = To,
    columns: list[str] = Columns,
    temperature: float = Temperature,
    top_p: float = TopP,
    seed: int = typer.Option(0, "--seed", min=0, help="Repeats the draws of a temperature."),
    max_new_tokens: int = MaxNewTokens,
    stop: list[str] = Stop,
    system: str = System,
    base: str = Base,
    fresh: bool = Fresh,
) -> None:
    """Let RUN answer each row of a file, many at once. Answers are kept as they come: what was stopped goes on.

    A row asks by `messages`, `conversations`, `instruction` (and `input`), `prompt` or `text`; an answer that it has is
    written beside the new one, and not read.

    Example: luthier predict checkpoints questions.csv --columns instruction=question --to answers.jsonl
    """
    from rich.console import Console

    from luthier.evaluate.screen import telling
    from luthier.machine.libraries import library_output_to

    names = as_names(columns)
    keep(rows, to, "--to")
    if to.suffix.lower() in _TABLES:
        why = f"JSON lines are written, and {to.name} would be taken for a table"
        raise typer.BadParameter(f"{why}; name it {to.with_suffix('.jsonl').name}", param_hint="--to")
    import_libraries()
    from luthier.evaluate.rows import answer_rows, read_questions
    from luthier.generate.choosing import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop))
    with resumable(), library_output_to(Path(os.devnull)), telling(Console(stderr=True)) as say:
        say("reading rows", 0, 0)
        questions = read_questions(rows, names)
        found = answer_rows(run, questions, sampling, system=system, base=base, fresh=fresh, say=say)
    write_json_lines(to, found.rows, "--to")
    typer.echo(f"{found.in_words(max_new_tokens)}: {to}")
