"""TensorBoard event files: the scalars that Trainer and Luthier write, a file for each start of the run.

    Trainer   train/loss, train/grad_norm, train/learning_rate, ..., train/epoch; eval/loss, ..., train/epoch
    Luthier   train/*, perf/*; eval/loss, eval/runtime_seconds; final/train_loss, ...

Trainer writes one record a scalar, the epoch last; Luthier all scalars of an event in one. Scalars of one step are put
together until the epoch, a record of several, another step, the same tag again, or a quiet log ends them. A later file
starts a new attempt, which stands from the step that the file names (`SessionLog.START`) or that it logs first.

Not covered: histograms, texts, samples, hyper-parameters but for `max_steps` and `num_train_epochs` of Trainer; files
on remote file systems.
Sources: transformers 5.23 `integrations/integration_utils.py`; `luthier.events.sinks.tensorboard`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto import event_pb2

from luthier.events.codecs import values as of
from luthier.events.codecs.base import QUIET_POLLS, Told, first_step_before
from luthier.events.codecs.records import RecordFile
from luthier.events.types import Event, RunStarted

BUDGET = 2 * 2**20
MOST_FILES = 50
_ARGUMENTS = "args/text_summary"


class BoardSource:
    """Follows the event files of a run.

    Args:
        find: Gives the files there are, in the order of their starts.
        place: Where they are looked for, for the screen.
        run: The name of the run, which the files do not have.
        whole: Read everything at each look, not a part of `BUDGET` bytes.
    """

    def __init__(self, find: Callable[[], list[Path]], place: Path, run: str, whole: bool = False) -> None:
        self._find = find
        self._place = place
        self._budget = 2**62 if whole else BUDGET
        self._files: dict[Path, RecordFile] = {}
        self._scalars = _Scalars(run)
        self._quiet = 0
        self._left = 0
        self._trouble = f"waiting for {place}"

    @property
    def words(self) -> str:
        """The format, or why there is nothing yet."""
        if self._trouble:
            return self._trouble
        damaged = next((f"; {file.path.name} is damaged" for file in self._files.values() if file.damaged), "")
        left = f"; {self._left / 2**20:.0f} MiB yet to read" if self._left > 2**20 else ""
        return f"TensorBoard event files{damaged}{left}"

    def poll(self) -> list[Told]:
        """The scalars that are new, as events."""
        told: list[Told] = []
        budget, grown = self._budget, False
        try:
            there = self._find()[-MOST_FILES:]
            self._files = {path: self._files.get(path) or RecordFile(path) for path in there}
            for path, file in self._files.items():
                before = file.left()
                if before and budget > 0:
                    self._scalars.open(path)
                    for record in file.read(budget):
                        told += self._scalars.take(record)
                        grown = True
                    budget -= before
                self._trouble = ""
            self._left = sum(file.left() for file in self._files.values())
        except OSError as error:
            self._trouble = f"cannot read {self._place}: {error.strerror or error}"
        self._quiet = 0 if grown else self._quiet + 1
        return told + (list(self._scalars.flush()) if self._quiet == QUIET_POLLS else [])

    def everything(self) -> Iterator[Told]:
        """What is there now, to its end."""
        yield from self.poll()
        yield from self._scalars.flush()

    def close(self) -> None:
        """No file stays open."""


class _Scalars:
    """Puts scalars together to events."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._file: Path | None = None
        self._attempt = 1
        self._new_file = self._started = False
        self._purge = -1
        self._total, self._epochs = 0, math.nan
        self._step = self._first_logged = self._tokens = 0
        self._epoch = self._best = math.nan
        self._group: dict[str, float] = {}
        self._group_step, self._group_time = 0, 0.0

    def open(self, path: Path) -> None:
        """The records that follow are of this file."""
        if path != self._file:
            self._file, self._new_file = path, True

    def take(self, record: bytes) -> list[Told]:
        """The events that one more record completes."""
        try:
            event = event_pb2.Event.FromString(record)
        except DecodeError:
            return []
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            self._purge = event.step
        told: list[Told] = []
        values = dict(self._values(event))
        if not values:
            return told
        if event.step != self._group_step or not self._group.keys().isdisjoint(values):
            told += self.flush()
        self._group |= values
        self._group_step, self._group_time = event.step, event.wall_time
        if len(values) > 1 or "epoch" in values:
            told += self.flush()
        return told

    def flush(self) -> Iterator[Told]:
        """The event of the scalars that there are, after the start of the run where it is the first one of it."""
        values, self._group = self._group, {}
        event = self._event(values, self._group_step)
        if event is None:
            return
        if not self._started or self._goes_back(event):
            yield Told(self._start(event), self._group_time, str(self._attempt))
        self._step = self._group_step
        self._epoch = of.number(values, "epoch")
        self._tokens = of.tokens(values) or self._tokens
        yield Told(event, self._group_time, str(self._attempt))

    def _values(self, event: Any) -> Iterator[tuple[str, float]]:
        for value in event.summary.value:
            if value.tag == _ARGUMENTS:
                self._hint(value.tensor.string_val)
            name = _name(value.tag)
            if not name:
                continue
            if value.WhichOneof("value") == "simple_value":
                yield name, value.simple_value
            elif len(value.tensor.float_val) == 1:
                yield name, value.tensor.float_val[0]

    def _hint(self, texts: Any) -> None:
        try:
            arguments = json.loads(texts[0])
        except (ValueError, IndexError, RecursionError):
            return
        if isinstance(arguments, dict):
            self._total, self._epochs = of.count(arguments, "max_steps"), of.number(arguments, "num_train_epochs")

    def _event(self, values: dict[str, float], step: int) -> Event | None:
        values.setdefault("epoch", self._epoch)
        if "loss" in values:
            return of.log(values, step)
        if "eval_loss" in values:
            evaluated = of.evaluated(values, step, self._best)
            self._best = evaluated.eval_loss if evaluated.best else self._best
            return evaluated
        if "train_runtime" in values or "train_runtime_seconds" in values:
            return of.finished(values, step, self._tokens, of.number(values, "peak_memory_gib"))
        return None

    def _goes_back(self, event: Event) -> bool:
        return event.kind == "log" and (self._new_file or self._group_step < self._step)

    def _start(self, event: Event) -> RunStarted:
        first = 0
        if self._started:
            self._attempt += 1
            first = first_step_before(self._group_step, self._first_logged)
            if self._new_file and self._purge > 0:
                first = self._purge - 1
        else:
            self._first_logged = self._group_step
        self._started, self._new_file, self._purge = True, False, -1
        return RunStarted(self._run, self._total, max(0, first), self._epochs, plan={}, program="")


def _name(tag: str) -> str:
    """The name under which `codecs.values` looks for the number of a tag; empty for other tags."""
    group, _, name = tag.partition("/")
    if group == "eval":
        return f"eval_{name}"
    return name if group in ("train", "perf", "final") else ""
