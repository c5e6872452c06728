"""What the loop works with, and what it carries besides the counters: time, a stop, smaller passes.

A pass, here and everywhere, is one forward and backward pass over one micro-batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from luthier.config.plan import Passes, Plan
from luthier.data.collate import MicroBatch
from luthier.data.largest import Largest
from luthier.data.prepare import Prepared
from luthier.events.types import Notice
from luthier.machine.memory import free_memory, is_out_of_memory
from luthier.machine.ranks import most_of_ranks, together
from luthier.model.load import use_passes
from luthier.training.ahead import TimeLeft
from luthier.training.identity import identity
from luthier.training.instruments import MachineReader, Stopwatch
from luthier.training.out_of_memory import give_up
from luthier.training.reference import Reference
from luthier.training.saving import Saving
from luthier.training.schedule import learning_rate
from luthier.training.state import TrainState
from luthier.training.watchdog import Watchdog

_T = TypeVar("_T")


class Clock:
    """Wall time of a run over all its attempts: evaluation, saving and waiting included."""

    def __init__(self, runtime_seconds: float) -> None:
        self.before_seconds, self._started = runtime_seconds, time.monotonic()

    def runtime_seconds(self) -> float:
        """Seconds of this attempt and of those before it."""
        return self.before_seconds + time.monotonic() - self._started


@dataclass
class Job:
    """Everything that the loop works with.

    Attributes:
        plan: Replaced by one with smaller passes when memory runs out, and never otherwise.
        identity: Goes into checkpoints; with the hashes of the base model (`base`), which the plan does not know.
        remember: Told of a plan with smaller passes, and of the steps that were done with others.
        stop_asked: Polled; True ends the run after the step, resumable.
        largest: The largest passes of the plan as it is, where they were looked for already.
        reference: What answers of pairs are compared with.
        abandoned: A stop came in the middle of an evaluation or of samples; a resume does them first.
        stop_agreed: All ranks know that a stop was asked for.
        trained: The trained parameters in the model's order; they are the same ones to the end, as the optimizer's are.
        watch: Measures its steps.
        reader: Reads the box that it runs on.
        ahead: What is still to come, and how long that takes.
        watchdog: Tells of what does not come to an end.
    """

    plan: Plan
    data: Prepared
    model: nn.Module
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    output_dir: Path
    identity: dict[str, Any]
    state: TrainState = field(default_factory=TrainState)
    stop_asked: Callable[[], bool] = lambda: False
    clock: Clock = field(default_factory=lambda: Clock(0.0))
    saving: Saving = field(default_factory=Saving)
    reference: Reference = field(default_factory=Reference)
    abandoned: bool = False
    stop_agreed: bool = False
    largest: Largest | None = None
    remember: Callable[[Plan, int], None] = lambda *_: None
    trained: list[nn.Parameter] = field(init=False)
    watch: Stopwatch = field(init=False)
    reader: MachineReader = field(init=False)
    ahead: TimeLeft = field(init=False)
    watchdog: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self.trained = [p for p in self.model.parameters() if p.requires_grad]  # looking for them takes milliseconds
        self.watch = Stopwatch(next(self.model.parameters()).device.type)
        self.reader = MachineReader(self.output_dir)
        self.ahead = TimeLeft(self.plan, self.data.train, self.data.eval)
        self.watchdog = Watchdog(self.output_dir, self.plan.config.training.hang_seconds)

    def should_stop(self) -> bool:
        """Whether a stop was asked for, on any rank; all learn of it between the same two steps."""
        return self.stop_agreed if together() else self.stop_asked()

    def agree(self) -> None:
        """Tell the other ranks of a stop, and of an evaluation or sample that it broke off; and hear from them."""
        if together():
            stop, abandoned = most_of_ranks(self.stop_agreed or self.stop_asked(), self.abandoned)
            self.stop_agreed, self.abandoned = bool(stop), bool(abandoned)

    def learning_rate(self, step: int) -> float:
        """Of a step; 0 for the first."""
        return learning_rate(self.plan, step) * self.state.rate_factor

    def within_memory(
        self, work: Callable[[list[MicroBatch]], _T], step: int, what: str = "step"
    ) -> Generator[Notice, None, _T]:
        """What `work` returns. Each time memory runs out something is given up, and it is done again.

        Args:
            work: Runs passes, and keeps in the list that it is given which micro-batches it tries: those may not fit.
                The list is empty until then, so it also tells whether this is the first time.
            step: The number of the step.
            what: What is done again, before that number.

        Raises:
            Exception: What `work` raises; of memory, when there is nothing left to give up.
        """
        tried: list[MicroBatch] = []
        while True:
            try:
                return work(tried)
            except Exception as error:
                if not is_out_of_memory(error) or not (less := give_up(self.model, self.plan, tried, step, what)):
                    raise
            lower, said = less
            self.lower(lower)  # only here: the error held on to the tensors of the pass
            yield said

    def lower(self, passes: Passes | None) -> None:
        """Go on with passes that hold less (None: the same ones), and clear away what one that failed left behind."""
        if passes is not None:
            self.plan = self.plan.with_passes(passes)
            self.remember(self.plan, self.state.step)
            use_passes(self.model, self.plan)
            self.identity, self.largest = self.identity | identity(self.plan), None
            self.ahead.follow(self.plan)
        self.optimizer.zero_grad(set_to_none=True)
        free_memory()


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens after this one; 0 means never."""
    return every > 0 and step % every == 0
