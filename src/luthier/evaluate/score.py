"""How many tasks a model solves: it answers; its code is run in the sandbox, or its text compared; that decides.

    tasks --generate_many--> answers --+--code_of--> programs --sandbox--+--> verdicts --> Scores
                                       `-------- matching.judge ---------'

Greedy by default: one answer a task, the same each time. With several answers a task (a temperature above 0), pass@k
is estimated without bias. The seed of an answer comes from what is asked and its number, so that no two answers to a
task are the same draw, and an evaluation that was killed goes on to the answers that it would have had.

Not covered: partial credit. An answer that fails one of a task's tests has failed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any, Literal, Protocol

import psutil

from luthier.evaluate.answers import Answers, Say, hashed
from luthier.evaluate.extract import code_of
from luthier.evaluate.matching import judge
from luthier.evaluate.sandbox import MEMORY_MIB, Program, Verdict
from luthier.evaluate.sandbox.canaries import NAMES as ATTEMPTS
from luthier.evaluate.sandbox.tiers import UNSAFE
from luthier.evaluate.statistics import bootstrap_mean, pass_at_k, wilson
from luthier.evaluate.tasks.task import Task
from luthier.generate.load import Heard
from luthier.generate.system import Conversation, first_turn, in_words
from luthier.machine.probe import probe

Style = Literal["template", "completion"]
STYLES: dict[Style, str] = {"template": "in its chat template", "completion": "as text to go on from"}

_AT_ONCE = 16
_MOST_WORKERS = 8
MAX_NEW_TOKENS = 384


@dataclass(frozen=True)
class Settings:
    """How a model is asked.

    Attributes:
        style: In its chat template, or with a text that it goes on from.
        max_new_tokens: Longest answer.
        samples: Answers to each task; more than one needs a temperature above 0.
        temperature: 0 is greedy and repeatable.
        seed: Of a temperature above 0.
        system: The system message of tasks that have none of their own; empty: none.
    """

    style: Style = "template"
    max_new_tokens: int = MAX_NEW_TOKENS
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    system: str = ""

    @property
    def asked(self) -> str:
        """In words: `in its chat template, with the system message "..."`."""
        return ", ".join(filter(None, (STYLES[self.style], in_words(self.system))))

    @property
    def decoding(self) -> str:
        """In words: `greedy, one answer a task`."""
        if self.temperature == 0:
            return "greedy, one answer a task"
        return f"temperature {self.temperature:g}, {self.samples} answer{'s' * (self.samples > 1)} a task"


class Writer(Protocol):
    """Who answers; `luthier.generate.load.Tuned` is one. `heard` is told of each answer when it has ended."""

    def generate_many(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        temperature: float,
        seed: Sequence[int],
        heard: Heard,
    ) -> list[str]:
        """The answers to many conversations that end with the user, in their order."""

    def complete_many(
        self,
        texts: Sequence[str],
        stops: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        seed: Sequence[int],
        heard: Heard,
    ) -> list[str]:
        """What follows each of many texts, up to the first stop, in their order."""


class Runner(Protocol):
    """Who runs code; an entered `luthier.evaluate.sandbox.Sandbox` is one."""

    tier: str

    def run(self, programs: Sequence[Program], workers: int = 2) -> list[Verdict]:
        """The verdicts, in the order of the programs."""


@dataclass(frozen=True)
class Outcome:
    """One answer and what became of it.

    Attributes:
        task_id: Of its task.
        split: Of its task.
        answer: As the model wrote it.
        verdict: What was found.
        is_text: It was compared as a text, and not run.
        cut: It had not ended when the room for it did.
    """

    task_id: str
    split: str
    answer: str
    verdict: Verdict
    is_text: bool = False
    cut: bool = False


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
        tier: How well the sandbox kept the code away from this machine; empty where no code was run.
        settings: How it was asked.
        writing_seconds: Time the model took.
        running_seconds: Time that judging took.
        remembered: How many of the answers were known from before, and not written now.
    """

    outcomes: tuple[Outcome, ...]
    tier: str
    settings: Settings
    writing_seconds: float
    running_seconds: float
    remembered: int = 0

    @property
    def held(self) -> str:
        """The tier in words."""
        if not self.tier:
            return "none was needed: nothing was run"
        walls = f"held all {len(ATTEMPTS)} attempts to get out"
        return f"{self.tier} ({'no walls' if self.tier == UNSAFE else walls})"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits in the order in which they first come."""
        return tuple(dict.fromkeys(outcome.split for outcome in self.outcomes))

    @property
    def causes(self) -> dict[str, int]:
        """How many answers ended in which way, the most frequent first."""
        return dict(Counter(outcome.verdict.cause for outcome in self.outcomes).most_common())

    @property
    def valid_syntax(self) -> float | None:
        """Share of answers that are Python at all, of those that were to be; None where none was."""
        programs = sum(not outcome.is_text for outcome in self.outcomes)
        return 1 - self.causes.get("syntax", 0) / programs if programs else None

    @property
    def judged(self) -> str:
        """In words: how answers became right or wrong."""
        ways = ["running it"] if self.valid_syntax is not None else []
        ways += ["comparing its text"] if any(outcome.is_text for outcome in self.outcomes) else []
        return f"judged by {' or '.join(ways)}"

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
    sandbox: Runner | None,
    settings: Settings | None = None,
    *,
    answers: Answers | None = None,
    workers: int | None = None,
    progress: Say | None = None,
) -> Scores:
    """Ask all tasks, judge all answers, count.

    Args:
        writer: Answers.
        tasks: At least one; those of one set.
        sandbox: Runs the answers' code; None will do where all answers are texts.
        settings: How it is asked; default: greedily, in the chat template.
        answers: What the writer has answered before; new answers are added as they come. Default: nothing.
        workers: Programs that run at once; None: `at_once`.
        progress: Told how far it is.
    """
    settings, answers = settings or Settings(), answers or Answers()
    tell = progress or (lambda what, done, total: None)
    started = time.monotonic()
    written, remembered = ask(writer, tasks, settings, answers, tell)
    generated = time.monotonic()
    asked = [task for task in tasks for _ in range(settings.samples)]
    answered = [(task, text, cut) for task, (text, cut) in zip(asked, written, strict=True)]
    programs = [_program(task, text, settings) for task, text, _ in answered if task.expected is None]
    ran = iter(_run(programs, sandbox, workers or at_once(), tell))
    compared = iter(judge([(task.expected, text) for task, text, _ in answered if task.expected is not None]))
    outcomes = tuple(
        Outcome(
            task.task_id, task.split, text, next(compared if task.expected else ran), task.expected is not None, cut
        )
        for task, text, cut in answered
    )
    tier = sandbox.tier if sandbox and programs else ""
    return Scores(outcomes, tier, settings, generated - started, time.monotonic() - generated, remembered)


def _run(programs: Sequence[Program], sandbox: Runner | None, workers: int, tell: Say) -> list[Verdict]:
    verdicts: list[Verdict] = []
    if not programs:
        return verdicts
    assert sandbox is not None, "code is run in a sandbox"
    tell("runs", 0, len(programs))
    while len(verdicts) < len(programs):
        verdicts += sandbox.run(programs[len(verdicts) : len(verdicts) + _AT_ONCE], workers)
        tell("runs", len(verdicts), len(programs))
    return verdicts


def at_once() -> int:
    """How many programs run beside each other: as many as have a core and their memory each; at least 2, at most 8."""
    in_memory = psutil.virtual_memory().available // (MEMORY_MIB << 20)
    return max(2, min(probe().cpu_cores, in_memory, _MOST_WORKERS))


def ask(
    writer: Writer, tasks: Sequence[Task], settings: Settings, answers: Answers, tell: Say
) -> tuple[list[tuple[str, bool]], int]:
    """The answers to all tasks with whether each was cut, those to one task together; and how many were known before.

    Those that end at the same stop texts are asked together. An answer is kept as soon as it has ended.
    """
    keys = _keys(tasks, settings)
    remembered, keep = answers.keeping((key for draw in keys for key in draw), tell)
    alike: dict[tuple[str, ...], dict[str, Task]] = {}
    for key, task in ((key, task) for draw in keys for key, task in zip(draw, tasks, strict=True)):
        if key not in answers:
            alike.setdefault(_stops(task, settings), {})[key] = task
    for some in alike.values():
        _write(writer, some, settings, keep)
    return [tuple(answers[draw[place]]) for place in range(len(tasks)) for draw in keys], remembered


def unanswered(tasks: Sequence[Task], settings: Settings, answers: Answers) -> int:
    """How many answers are not known yet."""
    return sum(key not in answers for draw in _keys(tasks, settings) for key in draw)


def _keys(tasks: Sequence[Task], settings: Settings) -> list[list[str]]:
    return [[_key(task, settings, draw) for task in tasks] for draw in range(settings.samples)]


def system_of(task: Task, settings: Settings) -> str:
    """The system message that a task is asked with: its own, or else that of the settings."""
    return settings.system if task.system is None else task.system


def _asked(task: Task, settings: Settings) -> str:
    """The instruction, or the text to go on from; there a system message stands above it, for want of another place."""
    if settings.style == "template":
        return task.instruction
    system = system_of(task, settings)
    return f"{system}\n\n{task.as_completion.prompt}" if system else task.as_completion.prompt


def _stops(task: Task, settings: Settings) -> tuple[str, ...]:
    return () if settings.style == "template" else task.as_completion.stops


def _key(task: Task, settings: Settings, draw: int) -> str:
    """Hash of what an answer depends on besides the model; draws of tasks with one text are draws of their own."""
    asked = [settings.style, _asked(task, settings), settings.max_new_tokens]
    if settings.style == "template" and system_of(task, settings):
        asked.append(system_of(task, settings))
    stops = list(_stops(task, settings))
    drawn = [settings.temperature, settings.seed, draw, task.task_id] if settings.temperature > 0 else []
    return hashed([asked, stops, drawn])


def _write(writer: Writer, tasks: Mapping[str, Task], settings: Settings, keep: Callable[[str, Any], None]) -> None:
    """Ask tasks that end at the same stop texts; each is called by the key of its answer."""
    keys, some = list(tasks), list(tasks.values())
    how = (settings.max_new_tokens, settings.temperature, [int(key[:15], 16) for key in keys])

    def heard(number: int, text: str, cut: bool) -> None:
        keep(keys[number], (text, cut))

    if settings.style == "template":
        asked = [first_turn(task.instruction, system_of(task, settings)) for task in some]
        writer.generate_many(asked, *how, heard)
    else:
        prompts = [_asked(task, settings) for task in some]
        writer.complete_many(prompts, _stops(some[0], settings), *how, heard)


def _program(task: Task, text: str, settings: Settings) -> Program:
    """What is run: the answer's code under what the question gave; for a completion the prompt's code, gone on with."""
    code = task.preamble + code_of(text) if settings.style == "template" else task.as_completion.head + text
    return Program(code, task.tests, task.entry_point)


def as_dict(scores: Scores) -> dict[str, Any]:
    """Everything of it in plain values, for a JSON file."""
    return {
        "pass_at_1": _rate(scores.pass_at_1),
        "by_split": {split: _rate(scores.pass_at(split=split)) for split in scores.splits},
        "causes": scores.causes,
        "valid_syntax": scores.valid_syntax,
        "sandbox": scores.tier,
        "prompt_style": scores.settings.style,
        "settings": asdict(scores.settings),
        "remembered": scores.remembered,
        "writing_seconds": scores.writing_seconds,
        "running_seconds": scores.running_seconds,
        "outcomes": [
            {"task_id": o.task_id, "split": o.split, "answer": o.answer, "cut": o.cut, **vars(o.verdict)}
            for o in scores.outcomes
        ],
    }


def _rate(rate: Rate) -> dict[str, Any]:
    return {"share": rate.share, "low": rate.low, "high": rate.high, "tasks": rate.tasks}
