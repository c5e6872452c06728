"""`luthier evaluate`: how many tasks a model solves, by running what it writes or comparing its text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from luthier.cli.json_file import file_to_write, write_json, write_json_lines
from luthier.cli.libraries import import_libraries
from luthier.cli.request import Base
from luthier.cli.tasks_options import (
    Answers,
    Fresh,
    General,
    Limit,
    MaxNewTokens,
    Prompt,
    PromptStyle,
    System,
    Tasks,
    Unsafe,
    asked_sets,
    resumable,
)
from luthier.cli.usual_run import WITHOUT, usual_run

if TYPE_CHECKING:
    from rich.console import Console

    from luthier.evaluate.runs import Evaluation


Pairs = file_to_write(
    "--pairs",
    "Write rows for `training.objective: dpo` there: of each task's answers one that passed and one that failed. Never "
    "from tasks that you measure on afterwards.",
)


def evaluate(
    model: str = typer.Argument(
        None, metavar="[RUN_OR_MODEL]", help=f"A finished run, a model's folder, or its hub name. {WITHOUT}"
    ),
    tasks: str = Tasks,
    samples: int = typer.Option(1, "--samples", min=1, help="Answers to each task."),
    temperature: float = typer.Option(0.0, "--temperature", min=0.0, max=100.0, help="0: always the likeliest token."),
    k: str = typer.Option("1", "--k", metavar="K,K", help="For which k pass@k is told; at most --samples."),
    seed: int = typer.Option(0, "--seed", min=0, help="Repeats the draws of a temperature."),
    prompt: Prompt = PromptStyle,
    system: str = System,
    base: str = Base,
    json_file: Path = Answers,
    pairs: Path = Pairs,
    pairs_per_task: int = typer.Option(1, "--pairs-per-task", min=1, help="At most so many rows of a task."),
    limit: int = Limit,
    max_new_tokens: int = MaxNewTokens,
    forgetting: str = General,
    fresh: bool = Fresh,
    unsafe: bool = Unsafe,
) -> None:
    """Ask a model tasks, run the code or compare the text it writes, and say how many it solves.

    Answers are kept as they come: what was stopped goes on, and what was answered before is not asked again.

    Example: luthier evaluate checkpoints --tasks quickstart,humaneval=HumanEval.jsonl.gz --json scores.json
    Pairs: luthier evaluate checkpoints --tasks train.jsonl --samples 8 --temperature 0.8 --pairs pairs.jsonl
    """
    ks = _numbers(k)
    sets = asked_sets(tasks, limit, {"--json": json_file, "--pairs": pairs})
    model = model or usual_run("evaluate")
    from rich.console import Console

    import_libraries()
    from luthier.evaluate.forgetting import read_passages
    from luthier.evaluate.runs import Options, evaluate_model, sandbox_for
    from luthier.evaluate.screen import PLAIN_WIDTH, show_evaluation, telling
    from luthier.events.console import open_console
    from luthier.machine.libraries import library_output_to

    passages = read_passages(forgetting)
    with (
        resumable(),
        library_output_to(Path(os.devnull)),
        sandbox_for(sets, unsafe) as sandbox,
        telling(Console(stderr=True)) as say,
    ):
        options = Options(
            sandbox, max_new_tokens, samples, temperature, seed, prompt, passages, fresh, say, system, bool(pairs)
        )
        evaluation = evaluate_model(model, sets, options, base=base, ks=ks)
    if json_file:
        write_json(json_file, evaluation.as_dict())
    console = open_console(plain_width=PLAIN_WIDTH)
    show_evaluation(console, evaluation)
    if json_file:
        console.print(f"\nevery answer and number: {json_file}", markup=False, soft_wrap=True)
    if pairs:
        _keep(pairs, evaluation, pairs_per_task, console)


def _keep(file: Path, evaluation: Evaluation, per_task: int, console: Console) -> None:
    from luthier.evaluate.pairs import require
    from luthier.evaluate.screen import show_pairs

    found = evaluation.pairs(per_task)
    if found.rows:
        write_json_lines(file, found.rows, "--pairs")
    console.print()
    show_pairs(console, found, evaluation, str(file))
    require(found)


def _numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise typer.BadParameter("numbers from 1 on with commas between them, such as 1,10", param_hint="--k")
    return sorted({int(word) for word in words})
