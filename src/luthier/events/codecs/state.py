"""trainer_state.json of Hugging Face's Trainer: rewritten whole at each save, with the history of all log steps.

After each change the file is read again and the entries that are new are told. Where the history differs from the one
read before (a run that resumed from an older checkpoint), it is told again from there, after a `RunStarted`. Of a file
of more than `LARGEST` bytes only the last entries are read. The time of the first entries is that of the file; those
that a later save adds are spread evenly over the time between the two saves. A run that was saved at its last step has
ended; the file does not say how long it took unless Trainer's own summary is in it.

Not covered: what happened since the last save.
Source: transformers 5.23, `trainer_callback.py`, `TrainerState`.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from luthier.events.codecs import values as of
from luthier.events.codecs.base import Told
from luthier.events.record import NON_FINITE
from luthier.events.types import Event, RunFinished, RunStarted

LARGEST = 32 * 2**20


class StateSource:
    """Follows one trainer_state.json, or the latest of several.

    Args:
        find: Gives the file to read; None while there is none.
        place: Where it is looked for, for the screen.
        run: The name of the run, which the file does not have.
    """

    def __init__(self, find: Callable[[], Path | None], place: Path, run: str) -> None:
        self._find = find
        self._place = place
        self._run = run
        self._signature: tuple[Any, ...] = ()
        self._entries: list[dict[str, Any]] = []
        self._attempt = 0
        self._ended = False
        self._saved = math.nan
        self._best = math.nan
        self._trouble = f"waiting for {place}"
        self._left_out = ""

    @property
    def words(self) -> str:
        """The format, or why there is nothing yet."""
        return self._trouble or f"Trainer's trainer_state.json, as of the last save{self._left_out}"

    def poll(self) -> list[Told]:
        """The entries that are new."""
        try:
            path = self._find()
            if path is None:
                return []
            about = path.stat()
            signature = (path, about.st_ino, about.st_size, about.st_mtime_ns)
            if signature == self._signature:
                return []
            self._signature = signature
            state = _parse(_read(path, about))
            self._trouble = "" if state else f"{path} is not whole"
        except OSError as error:
            self._trouble = f"cannot read {self._place}: {error.strerror or error}"
            return []
        if state is None:
            return []
        self._left_out = f"; only the last {LARGEST >> 20} MiB" if about.st_size > LARGEST else ""
        events = self._news(state)
        before, self._saved = self._saved, about.st_mtime
        return [
            Told(event, when, str(self._attempt))
            for event, when in zip(events, _times(events, before, self._saved), strict=True)
        ]

    def everything(self) -> Iterator[Told]:
        """What is there now."""
        yield from self.poll()

    def close(self) -> None:
        """No file stays open."""

    def _news(self, state: dict[str, Any]) -> list[Event]:
        entries = [_flat(entry) for entry in state["log_history"] if isinstance(entry, dict)]
        before = self._entries
        if entries and before and entries[0] != before[0] and entries[0] in before:
            # The beginning of a large file is not read.
            before = before[before.index(entries[0]) :]
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, entries, strict=False)))
        new = entries[same:]
        total, events = of.count(state, "max_steps"), list[Event]()
        if not self._attempt or same < len(before) or (self._ended and any("loss" in entry for entry in new)):
            self._attempt += 1
            self._ended = False
            first = of.count(entries[same - 1], "step") if same else 0
            events.append(
                RunStarted(self._run, total, first, of.number(state, "num_train_epochs"), plan={}, program="")
            )
        self._entries = entries
        events += [event for entry in new if (event := self._event(entry)) is not None]
        step = max(of.count(state, "global_step"), of.count(entries[-1], "step")) if entries else 0
        self._ended |= any(isinstance(event, RunFinished) for event in events)
        if step >= total > 0 and not self._ended:
            self._ended = True
            events.append(of.finished(entries[-1], step))
        return events

    def _event(self, entry: dict[str, Any]) -> Event | None:
        step = of.count(entry, "step")
        if "loss" in entry:
            return of.log(entry, step)
        if "eval_loss" in entry:
            evaluated = of.evaluated(entry, step, self._best)
            self._best = evaluated.eval_loss if evaluated.best else self._best
            return evaluated
        return of.finished(entry, step) if "train_runtime" in entry else None


def _times(events: list[Event], before: float, now: float) -> list[float]:
    """When each came that was saved `now`: since the save before, but for an attempt that nobody saw begin."""
    if not before < now or (events and isinstance(events[0], RunStarted)):
        before = now
    return [before + (now - before) * count / len(events) for count in range(1, len(events) + 1)]


def is_state(first_bytes: bytes) -> bool:
    """Whether a file that starts so is a trainer_state.json."""
    return first_bytes.lstrip().startswith(b"{") and b'"log_history"' in first_bytes


def latest_state(folder: Path) -> Path | None:
    """The trainer_state.json in a folder or in the checkpoint of it that was written last."""
    found = (folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json"))
    dated = [(path.stat().st_mtime_ns, str(path), path) for path in found if path.is_file()]
    return max(dated)[2] if dated else None


def _read(path: Path, about: os.stat_result) -> bytes:
    if not stat.S_ISREG(about.st_mode):
        raise OSError(0, "not a file")
    with path.open("rb") as file:
        if about.st_size <= LARGEST:
            return file.read(LARGEST)
        file.seek(-LARGEST, os.SEEK_END)
        # The keys are sorted: what follows the history is in the end of the file, too.
        return b'{"log_history": [{' + file.read(LARGEST).partition(b"{")[2]


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if isinstance(value, int | float | str)}


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        state = json.loads(data, parse_constant=NON_FINITE.get)
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("log_history"), list) else None
