"""Preference pairs out of a model's own answers: to one task, an answer that passed and one that failed.

    answers to a task --+-- passed, whole --> right --+--> first right, first wrong: {prompt, chosen, rejected}
                        +-- failed, whole --> wrong --+    second right, second wrong: ...
                        `-- neither: left out, counted

The answers of a task are draws of the model, so the first of a kind is a draw from its kind: nothing here prefers short
ones or frequent ones. Answers that count as the same (the same code, or the same text) are one.

Left out on both sides, since what is learned is an answer as the model wrote it, with its end behind it:
    cut       it had not ended when the room for it did; a row would put an end where the model put none
    unclear   it ran out of time or memory (another machine may say otherwise), has no text, or its twin got the other
              verdict

A row holds the question, and the system message where there was one, as texts: `format: preference` puts them through
the model's chat template, as was done when it was asked. Not covered: models that are asked with a text to go on from;
pairs of two models.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from luthier.config.values import packaged
from luthier.errors import ModelError, Problem
from luthier.evaluate.extract import code_of
from luthier.evaluate.score import Outcome, Scores, Settings, system_of
from luthier.evaluate.tasks import Task, TaskSet
from luthier.generate.load import final_folder
from luthier.generate.plain import is_run

_NO_VERDICT = ("timeout", "memory")


@dataclass(frozen=True)
class Pairs:
    """Rows for `format: preference`, and what the others came to.

    Attributes:
        rows: Each with `prompt`, `chosen`, `rejected`, and `system` where there was one.
        tasks: All that were asked.
        paired: Those that gave a row.
        only_right: Those with answers that passed, and none that failed.
        only_wrong: Those with answers that failed, and none that passed.
        cut: Answers left out because they had not ended.
        unclear: Answers left out because nobody can say whether they are right.
    """

    rows: tuple[dict[str, str], ...]
    tasks: int
    paired: int
    only_right: int
    only_wrong: int
    cut: int
    unclear: int

    @property
    def neither(self) -> int:
        """Tasks of which every answer was left out."""
        return self.tasks - self.paired - self.only_right - self.only_wrong


def check_pairs(settings: Settings) -> None:
    """Whether answers that are asked for so can make pairs.

    Raises:
        ModelError: E-EVAL-031.
    """
    if settings.samples == 1:
        found, fix = "one answer to a task has no other beside it", "write --samples 8 --temperature 0.8"
    elif settings.style != "template":
        found = "the model is asked with texts to go on from, and a row of pairs is trained in a chat template"
        fix = "take a model with a chat template, without --prompt completion"
    else:
        return
    raise ModelError(Problem("E-EVAL-031", found, fix, "--pairs"))


def pairs_of(scored: Iterable[tuple[TaskSet, Scores]], per_task: int = 1) -> Pairs:
    """The pairs of all sets, in the order of the tasks.

    Args:
        scored: Sets, and the answers to their tasks.
        per_task: At most so many rows of a task; no answer is in two of them.

    Raises:
        ModelError: E-EVAL-031, the answers were asked for in a way that makes none.
    """
    rows: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    sides: list[tuple[bool, bool]] = []
    cut = unclear = 0
    for one, scores in scored:
        check_pairs(scores.settings)
        tasks = {task.task_id: task for task in one.tasks}
        for task_id, outcomes in groupby(scores.outcomes, lambda outcome: outcome.task_id):
            answers = list(outcomes)
            right, wrong, doubtful = _sides(answers)
            cut, unclear = cut + sum(answer.cut for answer in answers), unclear + doubtful
            sides.append((bool(right), bool(wrong)))
            for chosen, rejected in list(zip(right, wrong, strict=False))[:per_task]:
                row = _row(tasks[task_id], scores.settings, chosen, rejected)
                rows.setdefault(tuple(row.items()), row)
    paired, only_right, only_wrong = (sides.count(both) for both in ((True, True), (True, False), (False, True)))
    return Pairs(tuple(rows.values()), len(sides), paired, only_right, only_wrong, cut, unclear)


def require(pairs: Pairs) -> None:
    """That there is a pair.

    Raises:
        ModelError: E-EVAL-031.
    """
    if not pairs.rows:
        found = f"no task of {pairs.tasks:,} has an answer that passed beside one that failed; nothing was written"
        fix = "more --samples, a higher --temperature, or other tasks"
        raise ModelError(Problem("E-EVAL-031", found, fix, "--pairs"))


def start_from(model: str) -> tuple[str, str]:
    """What to run first, if anything, and what to train then, so that the pairs' own model learns from them.

    Args:
        model: The one that was asked, as the user wrote it.
    """
    if not is_run(packaged(model)):
        return "", model
    folder = final_folder(packaged(model))
    if not (folder / "adapter_config.json").is_file():
        return "", str(folder)
    to = folder.parent / "merged"
    return f"luthier merge {shlex.quote(model)} --to {shlex.quote(str(to))}", str(to)


def _sides(answers: Sequence[Outcome]) -> tuple[list[str], list[str], int]:
    """Texts of the right and of the wrong answers, each content once, and how many are unclear."""
    right: dict[str, str] = {}
    wrong: dict[str, str] = {}
    whole = [answer for answer in answers if not answer.cut]
    clear = [answer for answer in whole if answer.answer.strip() and answer.verdict.cause not in _NO_VERDICT]
    for answer in clear:
        (right if answer.verdict.passed else wrong).setdefault(_content(answer), answer.answer)
    both = right.keys() & wrong.keys()
    unclear = len(whole) - len(clear) + sum(_content(answer) in both for answer in clear)
    right_texts, wrong_texts = ([side[what] for what in side if what not in both] for side in (right, wrong))
    return right_texts, wrong_texts, unclear


def _content(outcome: Outcome) -> str:
    """What of an answer was judged."""
    return (outcome.answer if outcome.is_text else code_of(outcome.answer)).strip()


def _row(task: Task, settings: Settings, chosen: str, rejected: str) -> dict[str, str]:
    system = system_of(task, settings)
    row = {"prompt": task.instruction, "chosen": chosen, "rejected": rejected}
    return {"system": system, **row} if system else row
