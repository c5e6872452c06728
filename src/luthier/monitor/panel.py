"""The live panel: a sink that shows the state of the run on a terminal while it trains.

Events only replace the state; drawing happens in rich's own thread, twice a second, so that training never waits for
the terminal. When the run is over the panel makes way for a few lines that stay.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from luthier.config.outputs import EVENTS
from luthier.events.read import read
from luthier.events.sinks import Sink
from luthier.events.sinks.text import TextSink
from luthier.events.types import Event, Notice, RunStarted
from luthier.monitor.state import RunState, fold
from luthier.monitor.view import LOWEST, NARROWEST, render, summary

REFRESHES_PER_SECOND = 2
_SPARE = 4
"""Cells beside the panel: there the terminal writes `^C`, which would else take a line and move the panel."""
_STOPPING = Notice("warning", "stopping: this step is finished and saved first (Ctrl-C again: now)")


class Panel:
    """A sink. It appears with the first event and goes with `close`, also after an error or Ctrl-C.

    Args:
        console: Where to draw; `Panel.suits` says whether it can.
        stop: Whether a stop was asked for.
    """

    def __init__(self, console: Console, stop: Callable[[], bool] = lambda: False) -> None:
        self.state = RunState()
        self._console, self._stop = console, stop
        self._live: Live | None = None
        # Durations by a clock that nobody sets.
        self._clock = time.monotonic

    @staticmethod
    def suits(console: Console) -> bool:
        """Whether a console is a terminal that can show the panel; else the text log is the better view."""
        utf8 = console.encoding.lower().replace("-", "") == "utf8"
        return console.is_terminal and not console.is_dumb_terminal and utf8 and console.width >= NARROWEST

    def write(self, event: Event) -> None:
        """Take one event; draws nothing itself."""
        if isinstance(event, RunStarted) and event.first_step:
            notices = self.state.notices
            self.state = _earlier(event)
            self.state = replace(self.state, notices=(*self.state.notices, *notices))
        self.state = fold(self.state, event, self._clock())
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_PER_SECOND,
                transient=True,
            )
            self._live.start()

    def close(self) -> None:
        """Take the panel away, give the cursor back, and leave the summary."""
        if self._live is None:
            return
        live, self._live = self._live, None
        live.stop()
        for line in summary(self.state, self._console.width):
            self._console.print(line, soft_wrap=True)

    def _render(self) -> RenderableType:
        # One line less than the terminal has: a full one scrolls at each refresh.
        height = max(LOWEST, self._console.height - 1)
        state = replace(self.state, notices=(*self.state.notices, _STOPPING)) if self._stop() else self.state
        return render(state, self._clock(), self._console.width - _SPARE, height)


def _earlier(event: RunStarted) -> RunState:
    """The run so far, of which this attempt has only the steps to come; nothing where its events cannot be read."""
    state = RunState()
    with suppress(OSError):
        for earlier, about in read(Path(str(event.plan.get("training.output_dir"))).expanduser() / EVENTS):
            state = fold(state, earlier, about["time"])
    return state


class Stop(Protocol):
    """Says, when called, whether a stop was asked for; `luthier.training.signals.Stop` is one."""

    shown: bool

    def __call__(self) -> bool: ...  # noqa: D102


def training_screen(console: Console, plain: bool, stop: Stop) -> Sink:
    """The panel where the terminal can show it, which then says that a run stops; else one log line a step.

    Args:
        console: Where to draw.
        plain: Lines to standard output, also on a terminal.
        stop: Is told when the panel says by itself that the run stops.
    """
    if plain or not Panel.suits(console):
        return TextSink(sys.stdout)
    stop.shown = True
    return Panel(console, stop)
