"""Evaluating and comparing from Python, in one call each.

    luthier.score("checkpoints", "quickstart,mine.jsonl").rate("quickstart").share
    luthier.compare("checkpoints")[0].verdict

The command line asks the same functions below (`runs`) and adds a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from luthier.errors import ModelError, Problem
from luthier.evaluate.answers import Say
from luthier.evaluate.compare import Comparison
from luthier.evaluate.forgetting import GENERAL, read_passages
from luthier.evaluate.runs import Evaluation, Options, compare_all, evaluate_model, sandbox_for
from luthier.evaluate.score import MAX_NEW_TOKENS
from luthier.evaluate.tasks import load_sets

How = Literal["auto", "template", "completion"]


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""


def score(
    model: str | Path,
    tasks: str = "quickstart",
    *,
    base: str | None = None,
    limit: int | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    ks: Sequence[int] = (1,),
    max_new_tokens: int = MAX_NEW_TOKENS,
    prompt: How = "auto",
    forgetting: str = GENERAL,
    fresh: bool = False,
    unsafe: bool = False,
    say: Say = _silent,
    system: str | None = None,
) -> Evaluation:
    """How many tasks a model solves, by running the code that it writes or comparing its text.

    Args:
        model: Output folder of a run, a model's folder, or its name on the hub.
        tasks: Sets and files with commas between them, as for `luthier evaluate --tasks`.
        base: Where the run's base model is, when it is not where it was in training.
        limit: Ask only so many tasks of each set.
        samples: Answers to each task; more than one needs a temperature.
        temperature: 0 is greedy and repeatable.
        seed: Repeats the draws of a temperature.
        ks: For which k pass@k is wanted.
        max_new_tokens: Longest answer.
        prompt: `template`, `completion`, or `auto`: in its chat template where it has one.
        forgetting: `general`, a file of text, or `none`.
        fresh: Ask again what was answered before.
        unsafe: Run answers with limits only where no sandbox holds.
        say: Told what is being done, how far it is, and of how many.
        system: The system message of tasks that have none of their own, empty for none; None: that of the training.

    Raises:
        LuthierError: DataError for tasks and texts, ModelError for models, MissingError where no sandbox holds,
            RunError where patterns cannot be tried.
    """
    sets, passages = load_sets(tasks, limit), read_passages(forgetting)
    with sandbox_for(sets, unsafe) as sandbox:
        options = Options(sandbox, max_new_tokens, samples, temperature, seed, prompt, passages, fresh, say, system)
        return evaluate_model(str(model), sets, options, base=base, ks=ks)


def compare(
    *models: str | Path,
    tasks: str = "quickstart",
    base: str | None = None,
    limit: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    prompt: How = "auto",
    forgetting: str = GENERAL,
    fresh: bool = False,
    unsafe: bool = False,
    say: Say = _silent,
    system: str | None = None,
) -> list[Comparison]:
    """Runs beside their base on the same tasks: one comparison for each run and set, corrected for their number.

    Args:
        *models: Output folders of runs; or first a base model for all of them.
        tasks: Sets and files with commas between them, as for `luthier compare --tasks`.
        base: Where the base model is, when it is not where it was in training.
        limit: Ask only so many tasks of each set.
        max_new_tokens: Longest answer.
        prompt: `template`, `completion`, or `auto`: in its chat template where the tuned model has one.
        forgetting: `general`, a file of text, or `none`.
        fresh: Ask again what was answered before.
        unsafe: Run answers with limits only where no sandbox holds.
        say: Told what is being done, how far it is, and of how many.
        system: The system message of tasks that have none of their own, empty for none; None: that of the training.

    Raises:
        LuthierError: DataError for tasks and texts, ModelError for models, MissingError where no sandbox holds,
            RunError where patterns cannot be tried.
    """
    if not models:
        raise ModelError(Problem("E-MODEL-012", "no model is named", 'luthier.compare("checkpoints")'))
    sets, passages = load_sets(tasks, limit), read_passages(forgetting)
    with sandbox_for(sets, unsafe) as sandbox:
        options = Options(
            sandbox, max_new_tokens, prompt=prompt, passages=passages, fresh=fresh, say=say, system=system
        )
        comparisons, failure = compare_all([str(model) for model in models], sets, options, base=base)
    if failure:
        raise failure
    return comparisons
