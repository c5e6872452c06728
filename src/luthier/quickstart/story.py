"""The quickstart as a stream: a plan, an examination, a training run, the same examination again.

    plan . before . Examined(base) . training . Event ... . after . Examined(tuned) . Result

Everything is the ordinary machinery: `api.train` with its files, `generate.load` on what it left, `evaluate.score` in
the sandbox. Nothing here draws.

Not covered: several seeds (`benchmarks/quickstart.py` runs them).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from luthier import api
from luthier.config.load import Loaded
from luthier.config.outputs import FINAL
from luthier.config.plan import Plan
from luthier.errors import ModelError
from luthier.evaluate.answers import Say
from luthier.evaluate.sandbox import Sandbox
from luthier.evaluate.score import Scores, Settings, as_dict, score
from luthier.evaluate.tasks import quickstart as heldout
from luthier.evaluate.tasks.task import Task
from luthier.events.types import Event, RunFinished
from luthier.generate.load import load
from luthier.machine.libraries import library_output_to
from luthier.machine.probe import peak_memory_gib
from luthier.machine.record import surroundings
from luthier.training.checkpoint import checkpoints

CHAPTERS = ("plan", "before", "training", "after")
MAX_NEW_TOKENS = 160
"""The longest right answer has about 120 tokens."""


@dataclass(frozen=True)
class Chapter:
    """A new part of the story begins."""

    name: str
    """One of CHAPTERS."""
    text: str
    plan: Plan | None = None
    """Of the run, in the first chapter."""


@dataclass(frozen=True)
class Examined:
    """All held-out tasks were answered and run."""

    who: str
    """`base` or `tuned`."""
    tasks: tuple[Task, ...]
    scores: Scores


@dataclass
class Result:
    """What the story came to.

    Attributes:
        plan: Of the run.
        base, tuned: Scores on the same tasks.
        seconds: Of each chapter.
        finished: The last event of the run.
    """

    plan: Plan
    base: Scores | None = None
    tuned: Scores | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    finished: RunFinished | None = None

    @property
    def peak_memory_gib(self) -> float:
        """Most memory that the process, or its GPU, has held so far."""
        return peak_memory_gib(torch.device(self.plan.machine.device))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file: pass@1 by split first, then everything else that was measured."""
        assert self.base and self.tuned and self.finished, "the story has been told"
        config = self.plan.config
        return {
            "base": _shares(self.base),
            "tuned": _shares(self.tuned),
            "seconds": round(sum(self.seconds.values()), 1),
            "seconds_by_chapter": {name: round(value, 1) for name, value in self.seconds.items()},
            "peak_memory_gib": round(self.peak_memory_gib, 3),
            "train_loss": self.finished.train_loss,
            "steps": self.finished.step,
            "num_tokens": self.finished.num_tokens,
            "seed": config.training.seed,
            "load_in_4bit": config.quantization.load_in_4bit,
            "dtype": config.model.dtype,
            "sandbox": self.tuned.tier,
            "surroundings": surroundings(),
            "answers": {"base": as_dict(self.base), "tuned": as_dict(self.tuned)},
        }


def _shares(scores: Scores) -> dict[str, float]:
    return {split: scores.pass_at(split=split).share for split in scores.splits} | {"all": scores.pass_at_1.share}


def tell(
    loaded: Loaded,
    tasks: tuple[Task, ...] | None = None,
    *,
    overwrite: bool = False,
    unsafe: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Say | None = None,
) -> Iterator[Chapter | Examined | Event | Result]:
    """Run the story.

    A finished run in the same folder is moved aside; one that was stopped goes on.

    Args:
        loaded: The config; its data section names the training rows.
        tasks: For the examinations; default: all held-out tasks.
        overwrite: Start over also where a stopped run could go on.
        unsafe: Run generated code although nothing isolates it.
        stop: Polled while training; True saves and ends the story there.
        progress: Told how far an examination is.

    Raises:
        LuthierError: What the parts raise.
    """
    tasks = heldout.load() if tasks is None else tasks
    with Sandbox(unsafe=unsafe) as sandbox:
        started = time.monotonic()
        plan, problems = api.plan(loaded)
        if problems:
            raise ModelError(*problems)
        result = Result(plan)
        yield Chapter("plan", "", plan)
        result.seconds["plan"] = time.monotonic() - started
        yield Chapter("before", f"{len(tasks)} tasks that are not among the rows; answers run in: {sandbox.tier}")
        result.base = _examined(plan.config.model.model_name_or_path, tasks, sandbox, progress, result, "before")
        yield Examined("base", tasks, result.base)
        started = time.monotonic()
        yield Chapter("training", f"{plan.total_steps:,} steps of {plan.examples_per_step} rows")
        output_dir = Path(plan.config.training.output_dir).expanduser()
        again = overwrite or (output_dir / FINAL).is_dir()
        resume = "auto" if checkpoints(output_dir) and not again else None
        for event in api.train(loaded, resume=resume, overwrite=again, stop=stop):
            yield event
            if isinstance(event, RunFinished):
                result.finished = event
        result.seconds["training"] = time.monotonic() - started
        if result.finished is None or result.finished.status != "done":
            return
        yield Chapter("after", "the same tasks, answered by what lies in final_model")
        result.tuned = _examined(str(output_dir), tasks, sandbox, progress, result, "after")
        yield Examined("tuned", tasks, result.tuned)
    yield result


def _examined(
    model: str, tasks: tuple[Task, ...], sandbox: Sandbox, progress: Say | None, result: Result, chapter: str
) -> Scores:
    started = time.monotonic()
    with library_output_to(Path(os.devnull)):
        writer = load(model)
    scores = score(writer, tasks, sandbox, Settings(max_new_tokens=MAX_NEW_TOKENS), progress=progress)
    result.seconds[chapter] = time.monotonic() - started
    return scores
