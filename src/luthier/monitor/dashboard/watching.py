"""From files to scenes: follows each run's log, live or replayed, and folds what it says.

A replay reads a whole log and tells it again in the rhythm of its own times, `speed` times as fast. The time source is
an argument, so the same clock gives the same screens. A pause between two events that is longer than `LONGEST_PAUSE`
(a run that was stopped and went on the next day) is told as one of that length.

Not covered: the formats of logs (`luthier.events.follow`), the screen (`app`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol

from luthier.doctor import History, findings, unjudged
from luthier.doctor import fold as fold_history
from luthier.doctor.outlook import unsettled
from luthier.doctor.silence import patience
from luthier.events.follow import Told, open_log
from luthier.events.types import Event, Machine
from luthier.machine.gpu import read_gpus
from luthier.monitor.dashboard.scene import Scene, Settings, WatchedRun, has_gpu
from luthier.monitor.state import RunState, fold

LONGEST_PAUSE = 60.0
SHARE = 0.01
LONGEST_WAIT = 5.0
_LARGEST_NUMBER = 2**53
_QUIET_POLLS = 4
_SECONDS_BETWEEN_READINGS = 2.0
_SECONDS_BETWEEN_EXAMINATIONS = 15.0


class Feed(Protocol):
    """Where the events of one run come from."""

    @property
    def source(self) -> str:
        """What kind of log it is, in words."""

    def poll(self) -> Sequence[Told]:
        """What was told since the last call."""


class Timeline:
    """The seconds that a replay has come, on a clock that can be stopped.

    Args:
        speed: Seconds of the run in one of the clock.
        clock: Any steady clock, in seconds.
    """

    def __init__(self, speed: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._speed, self._clock = speed, clock
        self._before, self._running_since = 0.0, clock()
        self._paused = False

    def elapsed(self) -> float:
        """Seconds of the run since the replay began."""
        running = 0.0 if self._paused else (self._clock() - self._running_since) * self._speed
        return self._before + running

    def pause(self, paused: bool) -> None:
        """Stop, or go on from where it stopped."""
        self._before, self._running_since, self._paused = self.elapsed(), self._clock(), paused


class Replay:
    """A feed that tells a finished log again.

    Args:
        feed: The log; all that it has now is read at once.
        timeline: How far the replay has come.
    """

    def __init__(self, feed: Feed, timeline: Timeline) -> None:
        self._told = _in_rhythm(_all_of(feed))
        self._timeline = timeline
        self._next = 0
        self.source = f"replay of {feed.source}"

    def now(self) -> float:
        """The moment of the replay, on the clock of the log."""
        return (self._told[0].time if self._told else 0.0) + self._timeline.elapsed()

    def poll(self) -> Sequence[Told]:
        """What happened up to now and was not told yet."""
        first, now = self._next, self.now()
        while self._next < len(self._told) and self._told[self._next].time <= now:
            self._next += 1
        return self._told[first : self._next]


def _all_of(feed: Feed) -> list[Told]:
    told: list[Told] = []
    quiet = 0
    while quiet < _QUIET_POLLS:  # a log gives out what it held back after some quiet looks
        more = feed.poll()
        told += more
        quiet = 0 if more else quiet + 1
    return told


def _in_rhythm(told: Sequence[Told]) -> list[Told]:
    """The same events with times that never go back nor pause for longer than `LONGEST_PAUSE`."""
    result: list[Told] = []
    before = moment = told[0].time if told and math.isfinite(told[0].time) else 0.0
    for one in told:
        if math.isfinite(one.time):
            moment += min(max(one.time - before, 0.0), LONGEST_PAUSE)
            before = one.time
        result.append(replace(one, time=moment))
    return result


@dataclass
class _Watched:
    """One run on its way through the fold."""

    path: str
    feed: Feed
    now: Callable[[], float]
    state: RunState = field(default_factory=RunState)
    seen: History = field(default_factory=History)
    run: WatchedRun | None = None
    local: Machine | None = None
    examined: float = -math.inf

    def advance(self) -> bool:
        """Take what is new; whether there was anything."""
        told = [one for one in self.feed.poll() if _plausible(one.event)]
        for one in told:
            self.state = fold(self.state, one.event, one.time)
            self.seen = fold_history(self.seen, one.event, one.time)
        if told:
            self.examined = -math.inf
        return bool(told)

    def look(self) -> WatchedRun:
        """The run as it stands now."""
        now = self.now()
        found = self.run.findings if self.run else ()
        if not 0 <= now - self.examined < _SECONDS_BETWEEN_EXAMINATIONS:
            found, self.examined = findings(self.seen, now), now
        name = self.state.run or Path(self.path).name or self.path
        limit = patience(self.seen)
        doubt = "" if found else unsettled(self.seen, unjudged(self.seen))
        self.run = WatchedRun(name, self.path, self.feed.source, self.state, found, now, self.local, limit, doubt)
        return self.run


class Watch:
    """The runs of some files.

    Args:
        paths: Logs or folders of runs; they need not exist yet.
        speed: Replay them so many times as fast as they went; None: follow them live.
        clock: A steady clock in seconds, for replays.
        now: The wall clock in epoch seconds, for live runs.
        machine: Reads this machine, for live logs that say nothing of their own.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        speed: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        machine: Callable[[], Machine | None] | None = None,
    ) -> None:
        self._timeline = Timeline(speed, clock) if speed is not None else None
        self._machine, self._now, self._read_at = machine, now, -math.inf
        self._watched: list[_Watched] = []
        for path in paths:
            feed: Feed = open_log(path)
            if self._timeline is not None:
                feed = replay = Replay(feed, self._timeline)
                self._watched.append(_Watched(str(path), feed, replay.now))
            else:
                self._watched.append(_Watched(str(path), feed, now))

    @property
    def replays(self) -> bool:
        """Whether it tells of the past."""
        return self._timeline is not None

    def advance(self) -> bool:
        """Take what is new in all files; whether there was anything."""
        changed = [watched.advance() for watched in self._watched]
        self._read_machine()
        return any(changed)

    def settle(self) -> None:
        """Take all that the files have now, also what a log holds back for a while."""
        quiet = 0
        while quiet < _QUIET_POLLS:
            quiet = 0 if self.advance() else quiet + 1

    def pause(self, paused: bool) -> None:
        """Stop a replay, or let it go on; a live run cannot be stopped from here."""
        if self._timeline is not None:
            self._timeline.pause(paused)

    @property
    def count(self) -> int:
        """How many runs are watched."""
        return len(self._watched)

    def scene(self, selected: int = 0, settings: Settings | None = None) -> Scene:
        """All runs as they stand now."""
        runs = [watched.look() for watched in self._watched]
        names = [run.name for run in runs]
        runs = [replace(run, name=run.path) if names.count(run.name) > 1 else run for run in runs]
        return Scene(tuple(runs), selected, settings or Settings())

    def _read_machine(self) -> None:
        silent = [one for one in self._watched if one.state.machine is None and one.state.status == "training"]
        now = self._now()
        if self._machine is None or self._timeline is not None or not silent:
            return
        if now - self._read_at >= _SECONDS_BETWEEN_READINGS:
            self._read_at, local = now, self._machine()
            for watched in silent:
                watched.local = local


def this_machine() -> Machine | None:
    """The busiest GPU of this machine, as a log does not say which one trains; None where there is none to tell of."""
    gpus = read_gpus().gpus
    if not gpus:
        return None
    gpu = max(gpus, key=lambda one: one.utilization_percent if one.utilization_percent > 0 else 0.0)
    unknown = math.nan
    machine = Machine(
        step=0,
        gpu_utilization=gpu.utilization_percent,
        gpu_memory_used_gib=gpu.memory_used_gib,
        gpu_memory_total_gib=gpu.memory_total_gib,
        gpu_temperature_c=gpu.temperature_c,
        gpu_power_w=gpu.power_w,
        cpu_utilization=unknown,
        ram_used_gib=unknown,
        ram_total_gib=unknown,
        disk_free_gib=unknown,
    )
    return machine if has_gpu(machine) else None


def rest_after(used: float) -> float:
    """Seconds in which nothing is drawn again by itself, after a drawing took `used` seconds of processor time.

    Who watches shares the machine with a training run, and takes a hundredth of a core; what is shown is at most
    `LONGEST_WAIT` seconds old.
    """
    return min(used / SHARE, LONGEST_WAIT)


def _plausible(event: Event) -> bool:
    """Whether its whole numbers are such as a run can have; a damaged or hostile log may hold any."""
    values = (getattr(event, field.name) for field in fields(event))
    return all(abs(value) < _LARGEST_NUMBER for value in values if isinstance(value, int))
