"""Runs from disk, each beside its own base: loads them one after the other, asks, runs, compares.

Runs on one base that ask in the same words share the base's answers.

Not covered: several devices; one model is in memory at a time (two after full fine-tuning).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence

import torch

from luthier.evaluate.compare import Comparison, compare
from luthier.evaluate.score import Runner, Scores, score
from luthier.evaluate.tasks.task import Task
from luthier.generate.load import Tuned, final_folder, load

Say = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how many; 0 of 0 where that is not known."""


def compare_runs(
    runs: Sequence[str],
    tasks: Sequence[Task],
    sandbox: Runner,
    *,
    base: str | None,
    max_new_tokens: int,
    say: Say,
) -> Iterator[Comparison]:
    """Score each run and its base on the same tasks.

    Args:
        runs: Output folders.
        tasks: At least one.
        sandbox: Runs the answers' code.
        base: Where the base model is, when it is not where it was in training.
        max_new_tokens: Longest answer.
        say: Told how far it is.

    Raises:
        ModelError: E-MODEL-012 and others of `load`; E-EVAL-023 when a run has no base.
    """

    def scored(who: str, model: Tuned) -> Scores:
        def tell(what: str, done: int, total: int) -> None:
            say(f"{who}: {what}", done, total)

        return score(model, tasks, sandbox, max_new_tokens=max_new_tokens, progress=tell)

    for run in runs:  # a misspelt last one is found before the first is asked for minutes
        final_folder(run)
    known: dict[object, Scores] = {}
    for run in runs:
        say(f"{run}: loading", 0, 0)
        tuned = load(run, base)
        same = (repr(tuned.base), tuned.tokenizer.chat_template, tuned.stop_ids)
        if same not in known:
            with tuned.as_base():
                known[same] = scored(f"base of {run}", tuned)
        comparison = compare(known[same], scored(run, tuned), run, tuned.base.name, tuned.base.numbers)
        del tuned
        _free()
        yield comparison


def _free() -> None:
    """The next model needs the memory of the last one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
