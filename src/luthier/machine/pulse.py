"""A sign of life of every rank, each second: so that who waits knows who is gone, and who has not come.

    rank r --"exchange 812, at backward (training/step.py:51)", its stacks--> a store that rank 0 keeps --> every rank

A connection says nothing when a machine loses its network or a process is frozen, and a rank that is stuck in a read
is as alive as the others. Both look alike from where one waits: nothing comes. Here they are told apart.

Time counts only while this process runs, so that a run which was suspended as a whole and goes on blames nobody.

Not covered: a rank whose interpreter does nothing else for `SILENT_SECONDS` (one call of a library that keeps the
interpreter's lock) is taken for gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch.distributed as dist

SILENT_SECONDS = 40.0
"""Without a sign of life a rank is gone. Longer than a busy machine takes for a second's work."""
GIVES_UP_AFTER = 3.0
"""Times `hang_seconds`: then a rank that lives and does not come is no longer waited for."""
STOPPED = "was asked to stop"
"""In place of a failure, where there was nothing to save yet."""
BACKGROUND = "luthier-prepare"
"""Name of the thread that reads rows and loads weights; a stop leaves it behind."""
_EVERY_SECONDS = 1.0
_RANKS_A_SECOND = 64
"""Signs that all read from all: with more ranks they come less often."""
_LONGEST_LOOK = 2.0
_ANSWER_SECONDS = timedelta(seconds=10)
_PACKAGE = str(Path(__file__).parents[1]) + os.sep


@dataclass
class _Sign:
    """What a rank last said."""

    beat: int = 0
    exchange: int = 0
    place: str = "its start"
    failure: str = ""


class Pulse:
    """The signs of all ranks, told and read in a thread of its own.

    `name` is that of this attempt, the same on all ranks: the store may have been that of another one.
    """

    def __init__(self, name: str, rank: int, world_size: int, hang_seconds: float, stacks: Path) -> None:
        self.rank, self.hang_seconds, self.stacks = rank, hang_seconds, stacks
        self.watches_hangs = False
        self.signs = [_Sign() for _ in range(world_size)]
        self.lost_store = False
        self._failure, self.exchange, self._beat = "", 0, 0
        self._every = max(_EVERY_SECONDS, world_size / _RANKS_A_SECOND)
        self._wake, self._closed, self._told = threading.Event(), False, threading.Condition()
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = dist.TCPStore(address, port, is_master=False, timeout=_ANSWER_SECONDS)  # type: ignore[attr-defined]
        self._key = f"luthier/{name}"
        self._round()
        self._thread = threading.Thread(target=self._beats, name="luthier-pulse", daemon=True)
        self._thread.start()

    def enter(self) -> None:
        """This rank comes to an exchange; all come to the same ones in the same order."""
        self.exchange += 1

    def wait(self) -> Waiting:
        """For a rank that waits in an exchange."""
        return Waiting(self)

    def tell(self, failure: str) -> None:
        """Let the others know why this rank ends."""
        self._failure = failure
        self._next_round(1.0)
        if self.rank == 0:  # what it keeps is gone with it
            time.sleep(2 * self._every)

    def who_failed(self) -> str:
        """Of a connection that broke: the rank that says it has failed, or that says nothing any more.

        `STOPPED` where none has failed, and one was asked to stop.
        """
        self._next_round(self._every)  # what was said before it broke
        before = [sign.beat for sign in self.signs]
        end = time.monotonic() + 2.5 * self._every
        while not (said := self._said()) and time.monotonic() < end and not self.lost_store:
            self._next_round(self._every / 4)
        if said:
            return said
        if self.lost_store:
            return f"rank 0 is gone; it was last seen at {self.signs[0].place}" if self.rank else ""
        silent = [r for r, sign in enumerate(self.signs) if sign.beat == before[r] and r != self.rank]
        is_gone = "is gone" if len(silent) == 1 else "are gone"
        return f"{_named(silent)} {is_gone}; last seen at {self.signs[silent[0]].place}" if silent else ""

    def _said(self) -> str:
        """Why a rank ends, where one has said it; failures first."""
        said = sorted((sign.failure == STOPPED, r, sign.failure) for r, sign in enumerate(self.signs) if sign.failure)
        if not said or said[0][0]:
            return STOPPED if said else ""
        return f"rank {said[0][1]} has failed: {said[0][2]}"

    def late(self) -> list[int]:
        """Ranks that have not come to the exchange in which this one waits."""
        return [r for r, sign in enumerate(self.signs) if sign.exchange < self.exchange and r != self.rank]

    def stacks_of(self, number: int) -> str:
        """Where all threads of a rank were at its last sign."""
        with suppress(RuntimeError):
            return self._store.get(f"{self._key}/stacks/{number}").decode()
        return ""

    def close(self) -> None:
        """End; the others do not take that for a failure."""
        self._closed = True
        self._wake.set()
        self._thread.join(_ANSWER_SECONDS.total_seconds())  # it may wait for a rank 0 that is frozen

    def _beats(self) -> None:
        while not self._closed:
            self._wake.wait(self._every)
            self._wake.clear()
            try:
                self._round()
            except dist.DistStoreError:  # rank 0 took too long to answer
                continue
            except RuntimeError:
                self.lost_store = True
                return
            finally:
                with self._told:
                    self._told.notify_all()

    def _round(self) -> None:
        """Say how this rank is, and read how the others are.

        Raises:
            RuntimeError: Rank 0 does not answer any more.
        """
        self._beat += 1
        stacks, place = _where_threads_are()
        mine = json.dumps([self._beat, self.exchange, place, self._failure])
        self._store.set(f"{self._key}/{self.rank}", mine)
        self._store.set(f"{self._key}/stacks/{self.rank}", stacks)
        said = self._store.multi_get([f"{self._key}/{r}" for r in range(len(self.signs))])
        self.signs = [_Sign(*json.loads(text)) for text in said]

    def _next_round(self, seconds: float) -> None:
        """Let the thread say and read now, and wait until it has."""
        with self._told:
            self._wake.set()
            self._told.wait(seconds)


class Waiting:
    """One exchange in which this rank waits for others."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse, self._at, self._seconds, self._named = pulse, time.monotonic(), 0.0, False
        self._silent = dict.fromkeys((r for r in range(len(pulse.signs)) if r != pulse.rank), 0.0)
        self._seen = [sign.beat for sign in pulse.signs]
        self._exchanges: list[int] = []

    def why_not(self, works: bool = False) -> str:
        """Why there is no sense in waiting any longer; empty: there is. To be asked every second.

        Args:
            works: This rank may be at work itself, and come to many exchanges: when all have come, that says nothing,
                and who comes to the next one is not late.
        """
        now, pulse = time.monotonic(), self._pulse
        passed, self._at = min(now - self._at, _LONGEST_LOOK), now
        self._seconds += passed
        exchanges = [pulse.exchange, *(sign.exchange for sign in pulse.signs)]
        if works and exchanges != self._exchanges:
            self._exchanges, self._seconds, self._named = exchanges, 0.0, False
        beats = [sign.beat for sign in pulse.signs]
        for r in self._silent:
            self._silent[r] = self._silent[r] + passed if beats[r] == self._seen[r] else 0.0
        self._seen = beats
        silent = [r for r, seconds in self._silent.items() if seconds > SILENT_SECONDS]
        if silent:  # without rank 0, who keeps what all say, none is heard
            first = silent[0]
            found = f"no sign of life from {_named([first])} for {self._silent[first]:.0f} s"
            return f"{found}; last seen at {pulse.signs[first].place}"
        return self._why_late(works)

    def _why_late(self, works: bool) -> str:
        pulse = self._pulse
        limit = pulse.hang_seconds if pulse.watches_hangs else 0.0
        if not limit or self._seconds < limit:
            return ""
        late = pulse.late()
        if works and not late:
            return ""
        if late:
            has = "has" if len(late) == 1 else "have"
            what = f"{_named(late)} {has} not come for {self._seconds:.0f} s; last seen at {pulse.signs[late[0]].place}"
        else:
            what = (
                f"all ranks have come, and for {self._seconds:.0f} s nothing arrives: is it the network between them?"
            )
        if not self._named:
            self._named = True
            self._write(late, what)
        if self._seconds < GIVES_UP_AFTER * limit:
            return ""
        return f"{what}; its stacks are in {pulse.stacks}" if late else what

    def _write(self, late: Iterable[int], what: str) -> None:
        """The stacks of those who have not come, into this rank's file; and a line for who looks on."""
        pulse = self._pulse
        with suppress(OSError):
            with pulse.stacks.open("a", encoding="utf-8") as file:
                for r in late:
                    file.write(f"rank {r}, as rank {pulse.rank} waits for it:\n{pulse.stacks_of(r)}\n")
            sys.stderr.write(f"rank {pulse.rank} waits: {what}; stacks are in {pulse.stacks}\n")


def _named(numbers: list[int]) -> str:
    """`rank 3`, `ranks 2, 3`."""
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _where_threads_are() -> tuple[str, str]:
    """The stacks of all threads, and the innermost place of this package in the one that works."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = {names.get(ident, str(ident)): frame for ident, frame in sys._current_frames().items()}
    frames.pop(threading.current_thread().name, None)
    text = []
    for name, frame in frames.items():
        lines = [f"  {f.f_code.co_name} ({f.f_code.co_filename}:{n})" for f, n in traceback.walk_stack(frame)]
        text.append("\n".join([f"thread {name}, innermost call first:", *lines]))
    working = frames.get(BACKGROUND) or frames.get("MainThread")
    return "\n".join(text), _place(working)


def _place(frame: FrameType | None) -> str:
    """`backward (training/step.py:51)`."""
    while frame and (
        not frame.f_code.co_filename.startswith(_PACKAGE) or frame.f_code.co_filename.endswith("machine/ranks.py")
    ):
        frame = frame.f_back
    if frame is None:
        return "its start"
    code = frame.f_code
    return f"{code.co_name} ({code.co_filename.removeprefix(_PACKAGE)}:{frame.f_lineno})"
