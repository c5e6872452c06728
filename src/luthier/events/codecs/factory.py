"""LLaMA-Factory's trainer_log.jsonl: one JSON object a log step, evaluation and end.

    {"current_steps": 10, "total_steps": 60, "loss": 1.02, "lr": 5e-05, "epoch": 0.5, "percentage": 16.67,
     "elapsed_time": "0:00:21", "remaining_time": "0:01:46", "throughput": 1234.5, "total_tokens": 25925}

Keys without a value are left out (or null, in old versions). The line of the end has neither a loss nor an eval_loss;
so have those of predictions, which are told apart by their epoch, of which they have none.

In a run that was resumed, `elapsed_time` begins again and `current_steps` goes on. `remaining_time` is then wrong, for
it divides the one by the other; it is left aside.
Source: LLaMA-Factory 0.9.3, `src/llamafactory/train/callbacks.py`, `LogCallback`.
"""

from __future__ import annotations

import json
import math
from typing import Any

from luthier.events.codecs import values as of
from luthier.events.codecs.base import LineDecoder, Told, first_step_before
from luthier.events.codecs.progress import seconds_of
from luthier.events.types import Event, Log, RunStarted


class FactoryDecoder(LineDecoder):
    """trainer_log.jsonl; times are seconds since the start of the attempt.

    Args:
        run: The name of the run, which the log does not have.
    """

    words = "LLaMA-Factory trainer_log.jsonl"
    sure = True
    marker = b'"loss"'
    wall_clock = False

    def __init__(self, run: str) -> None:
        self._run = run
        self._attempt = 0
        self._step = self._first_step = self._first_logged = self._tokens = 0
        self._elapsed = 0.0
        self._best = math.nan
        self._ended = False

    @staticmethod
    def matches(line: bytes) -> bool:
        """Whether a line is one of this format."""
        return b'"current_steps"' in line[:4096] and _parse(line) is not None

    def feed(self, line: bytes) -> list[Told]:
        """The event of the line, after the start of the run where it is the first one of it."""
        values = _parse(line)
        if values is None:
            return []
        step, total = of.count(values, "current_steps"), of.count(values, "total_steps")
        elapsed = seconds_of(str(values.get("elapsed_time", "")))
        has_loss, has_eval_loss = (values.get(name) is not None for name in ("loss", "eval_loss"))
        events: list[Event] = []
        if not self._attempt or (has_loss and (step < self._step or elapsed < self._elapsed or self._ended)):
            events.append(self._start(step, total))
        if has_loss:
            events.append(self._log(values, step, elapsed))
        elif has_eval_loss:
            events.append(evaluated := of.evaluated(values, step, self._best))
            self._best = evaluated.eval_loss if evaluated.best else self._best
        elif step == total > 0 and values.get("epoch") is not None and not self._ended:
            self._ended = True
            events.append(of.finished(values | {"train_runtime": elapsed}, step, self._tokens))
        return [Told(event, elapsed, str(self._attempt)) for event in events]

    def is_whole(self, partial: bytes) -> bool:
        """Whether it is a whole object."""
        return _parse(partial) is not None

    def _start(self, step: int, total: int) -> RunStarted:
        """A new attempt. From which step it goes on is known only where no step comes again."""
        goes_on = self._attempt == 0 or step > self._step
        first = self._step if goes_on else first_step_before(step, self._first_logged)
        self._attempt += 1
        self._ended = False
        self._step = self._first_step = first
        self._elapsed = 0.0 if goes_on or not first else math.nan
        return RunStarted(self._run, total, first, math.nan, plan={}, program="LLaMA-Factory")

    def _log(self, values: dict[str, Any], step: int, elapsed: float) -> Log:
        steps, seconds = step - self._step, elapsed - self._elapsed
        speed = seconds / steps if steps > 0 and seconds > 0 else math.nan
        remaining = math.nan if self._first_step else seconds_of(str(values.get("remaining_time", "")))
        log = of.log(values, step, step_seconds=speed, remaining_seconds=remaining)
        self._step, self._elapsed, self._tokens = step, elapsed, log.num_tokens
        self._first_logged = self._first_logged or step
        return log


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and "current_steps" in values else None
