"""How many tasks a model solves: it answers, its code is run in the sandbox, the tests decide.

    tasks --generate_many--> answers --code_of--> programs --sandbox--> verdicts --> Scores

Greedy by default: one answer a task, the same each time. With several answers a task (a temperature above 0), pass@k
is estimated without bias.

Not covered: partial credit. An answer that fails one of a task's tests has failed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any, Protocol

from luthier.evaluate.extract import code_of
from luthier.evaluate.sandbox import Program, Verdict
from luthier.evaluate.statistics import bootstrap_mean, pass_at_k, wilson
from luthier.evaluate.tasks.task import Task

Progress = Callable[[str, int, int], None]
"""Called with what is done (`answers` or `runs`), how many of them are done, and of how many."""

_AT_ONCE = 16
MAX_NEW_TOKENS = 384


class Writer(Protocol):
    """Who answers; `luthier.generate.load.Tuned` is one."""

    def generate_many(
        self,
        instructions: Sequence[str],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[str]:
        """The answers to many instructions, in their order."""


class Runner(Protocol):
    """Who runs code; an entered `luthier.evaluate.sandbox.Sandbox` is one."""

    tier: str

    def run(self, programs: Sequence[Program], workers: int = 2) -> list[Verdict]:
        """The verdicts, in the order of the programs."""


@dataclass(frozen=True)
class Outcome:
    """One answer and what became of it."""

    task_id: str
    split: str
    answer: str
    verdict: Verdict


@dataclass(frozen=True)
class Rate:
    """A share of tasks with its 95 % interval.

    Attributes:
        share: Between 0 and 1.
        low: Lower end of the interval.
        high: Upper end.
        tasks: How many tasks it is about.
    """

    share: float
    low: float
    high: float
    tasks: int


@dataclass(frozen=True)
class Scores:
    """What a model reached on a set of tasks.

    Attributes:
        outcomes: One an answer, in the order of the tasks; the answers to one task lie together.
        tier: How well the sandbox kept the code away from this machine.
        max_new_tokens: Longest answer that it was allowed.
        writing_seconds: Time the model took.
        running_seconds: Time the sandbox took.
    """

    outcomes: tuple[Outcome, ...]
    tier: str
    max_new_tokens: int
    writing_seconds: float
    running_seconds: float

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits in the order in which they first come."""
        return tuple(dict.fromkeys(outcome.split for outcome in self.outcomes))

    @property
    def causes(self) -> dict[str, int]:
        """How many answers ended in which way, the most frequent first."""
        return dict(Counter(outcome.verdict.cause for outcome in self.outcomes).most_common())

    @property
    def valid_syntax(self) -> float:
        """Share of answers that are Python at all."""
        return 1 - self.causes.get("syntax", 0) / len(self.outcomes)

    @property
    def pass_at_1(self) -> Rate:
        """Share of tasks that an answer solves."""
        return self.pass_at()

    def pass_at(self, k: int = 1, split: str | None = None) -> Rate:
        """Mean chance that at least one of k answers to a task is right, over all tasks or those of one split."""
        values = list(self.solved(k, split).values())
        whole = all(value in (0.0, 1.0) for value in values)
        low, high = wilson(round(fsum(values)), len(values)) if whole else bootstrap_mean(values)
        return Rate(fsum(values) / len(values), low, high, len(values))

    def solved(self, k: int = 1, split: str | None = None) -> dict[str, float]:
        """Task by task, the chance that one of k answers is right: 0 or 1 where there is one answer a task."""
        answers: dict[str, list[bool]] = {}
        for outcome in self.outcomes:
            if split is None or outcome.split == split:
                answers.setdefault(outcome.task_id, []).append(outcome.verdict.passed)
        return {task: pass_at_k(len(passed), sum(passed), k) for task, passed in answers.items()}


def score(
    writer: Writer,
    tasks: Sequence[Task],
    sandbox: Runner,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    answers: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
) -> Scores:
    """Ask all tasks, run all answers, count.

    Args:
        writer: Answers.
        tasks: At least one.
        sandbox: Runs the answers' code.
        max_new_tokens: Longest answer.
        answers: How many to each task; more than one needs a temperature above 0.
        temperature: 0 is greedy and repeatable.
        seed: Of a temperature above 0.
        workers: Programs that run at once.
        progress: Told how far it is.
    """
    tell = progress or (lambda what, done, total: None)
    asked = [task for task in tasks for _ in range(answers)]
    started = time.monotonic()
    written = writer.generate_many(
        [task.instruction for task in asked],
        max_new_tokens,
        temperature,
        seed,
        lambda done, total: tell("answers", done, total),
    )
    generated = time.monotonic()
    programs = [Program(code_of(text), task.tests, task.entry_point) for text, task in zip(written, asked, strict=True)]
    verdicts: list[Verdict] = []
    tell("runs", 0, len(programs))
    while len(verdicts) < len(programs):
        verdicts += sandbox.run(programs[len(verdicts) : len(verdicts) + _AT_ONCE], workers)
        tell("runs", len(verdicts), len(programs))
    outcomes = tuple(
        Outcome(task.task_id, task.split, text, verdict)
        for task, text, verdict in zip(asked, written, verdicts, strict=True)
    )
    return Scores(outcomes, sandbox.tier, max_new_tokens, generated - started, time.monotonic() - generated)


def as_dict(scores: Scores) -> dict[str, Any]:
    """Everything of it in plain values, for a JSON file."""
    return {
        "pass_at_1": _rate(scores.pass_at_1),
        "by_split": {split: _rate(scores.pass_at(split=split)) for split in scores.splits},
        "causes": scores.causes,
        "valid_syntax": scores.valid_syntax,
        "sandbox": scores.tier,
        "max_new_tokens": scores.max_new_tokens,
        "writing_seconds": scores.writing_seconds,
        "running_seconds": scores.running_seconds,
        "outcomes": [
            {"task_id": o.task_id, "split": o.split, "answer": o.answer, **vars(o.verdict)} for o in scores.outcomes
        ],
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {"share": rate.share, "low": rate.low, "high": rate.high, "tasks": rate.tasks}
