"""All that there is to draw at one moment: the runs, which of them is looked at, and how.

Not covered: where it comes from (`watching`), what it looks like (`panes`, `charts`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from luthier.doctor import Finding
from luthier.doctor.silence import SHORTEST_SILENCE
from luthier.events.types import Machine
from luthier.monitor.state import Point, RunState
from luthier.monitor.statistics import LossTrend, trend

SMOOTHINGS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
"""Weights of the newest loss in the smoothed curve; 1 is the curve as it is."""
SPANS = (20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
"""Numbers of latest steps that the curves can be zoomed to."""


@dataclass(frozen=True)
class Settings:
    """How the curves are shown."""

    smoothing: int = 3
    """Index into `SMOOTHINGS`."""
    span: int | None = None
    """Show so many latest steps; None shows all."""
    logarithmic: bool = False
    paused: bool = False

    @property
    def weight(self) -> float:
        """Of the newest value in the smoothed curve."""
        return SMOOTHINGS[self.smoothing]

    def smoother(self, levels: int) -> Settings:
        """Smoothed more (or, with a negative number, less), as far as it goes."""
        return replace(self, smoothing=min(max(self.smoothing + levels, 0), len(SMOOTHINGS) - 1))

    def toggled(self, name: Literal["logarithmic", "paused"]) -> Settings:
        """With one switch turned."""
        return replace(self, **{name: not getattr(self, name)})

    def zoomed(self, levels: int, steps: int) -> Settings:
        """One span closer (1) or farther (-1); `steps` is what the whole curve spans."""
        shown = min(self.span or steps, steps)
        if levels > 0:
            return replace(self, span=max((span for span in SPANS if span < shown), default=self.span))
        wider = min((span for span in SPANS if self.span and span > self.span), default=None)
        return replace(self, span=wider if wider and wider < steps else None)


@dataclass(frozen=True)
class WatchedRun:
    """One run as far as it was read."""

    name: str
    """What the screen calls it."""
    path: str
    source: str
    """What kind of file it is read from, in words."""
    state: RunState
    findings: tuple[Finding, ...] = ()
    now: float = 0.0
    """The moment, on the clock of the run's own events."""
    local: Machine | None = None
    """What this machine says of itself, for a log that says nothing of its own."""
    patience: float = SHORTEST_SILENCE
    """Seconds of silence that are no reason to worry, as the doctor sees it."""
    unsettled: str = ""
    """Why the doctor cannot call it healthy yet, although nothing was found."""

    @cached_property
    def trend(self) -> LossTrend | None:
        """Where the loss goes; many numbers ask."""
        return trend(self.state.history)

    @property
    def machine(self) -> Machine | None:
        """The box: as the run says, or else this one."""
        return self.state.machine or self.local

    @property
    def silent(self) -> bool:
        """Whether it is training, but has said nothing for much longer than usual."""
        unfinished = bool(self.state.updated) and self.state.finished is None
        return unfinished and self.now - self.state.updated > self.patience

    def points(self, span: int | None) -> tuple[Point, ...]:
        """The log lines of the latest `span` steps, as finely as they are kept."""
        state = self.state
        if span is None:
            return state.history
        first = state.step - span
        kept = state.recent if state.recent and state.recent[0].step <= first else state.history
        return tuple(point for point in kept if point.step > first)


@dataclass(frozen=True)
class Scene:
    """What the screen shows."""

    runs: tuple[WatchedRun, ...]
    selected: int = 0
    settings: Settings = Settings()

    @property
    def run(self) -> WatchedRun:
        """The run whose numbers are shown."""
        return self.runs[self.selected]

    @property
    def steps(self) -> int:
        """The steps that the longest curve spans."""
        return max((run.state.step for run in self.runs), default=0)


def has_gpu(machine: Machine | None) -> bool:
    """Whether anything is known of a GPU."""
    return machine is not None and any(
        map(math.isfinite, (machine.gpu_utilization, machine.gpu_memory_used_gib, machine.gpu_temperature_c))
    )
