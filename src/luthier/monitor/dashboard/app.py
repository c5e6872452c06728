"""The screen: what Textual has to know. Everything that is shown comes from pure functions of a `Scene`.

The dashboard shares the machine with a training run. So it draws only what has changed: charts when there are new log
lines, the clocks once a second, and the panes that nobody sees not at all. And it keeps to a budget (`rest_after`).
Keys are answered at once, and a replay is not held back.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget
from textual.widgets import Footer, TabbedContent, TabPane, Tabs

from luthier.monitor.dashboard import panes
from luthier.monitor.dashboard.charts import ASIDE, ASIDE_OF_PAIRS, CHARTS, legend
from luthier.monitor.dashboard.explain import answer, keys
from luthier.monitor.dashboard.metrics import LEARNING, MACHINE
from luthier.monitor.dashboard.scene import Scene, Settings
from luthier.monitor.dashboard.theme import THEME
from luthier.monitor.dashboard.watching import Watch, rest_after
from luthier.monitor.dashboard.widgets import Chart, Drawn, Explained, Help, Number, Page

WIDE, HIGH = 140, 44
NARROW = 60
PANES = ("overview", "charts", "findings", "samples", "run")
CLOCK_SECONDS = 1.0


class Dashboard(App[None]):
    """Watches runs until the reader has seen enough.

    Args:
        watch: Where the scenes come from.
        refresh: Seconds between two looks at the files.
        clock: A steady clock, in seconds.
        used: The processor time that this process has used, in seconds.
    """

    CSS_PATH = "style.tcss"
    TITLE = "luthier watch"
    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "pane('overview')", "Pane", key_display="1-5"),
        *(Binding(str(number), f"pane('{name}')", show=False) for number, name in enumerate(PANES[1:], 2)),
        Binding("left", "next_pane(-1)", show=False),
        Binding("right", "next_pane(1)", show=False),
        Binding("down,j", "app.focus_next", show=False),
        Binding("up,k", "app.focus_previous", show=False),
        Binding("plus,equals_sign", "zoom(1)", "Zoom", key_display="+-"),
        Binding("minus", "zoom(-1)", show=False),
        Binding("s", "smooth(1)", "Smooth", key_display="sS"),
        Binding("S", "smooth(-1)", show=False),
        Binding("l", "logarithmic", "Log"),
        Binding("space", "pause", "Pause"),
        Binding("n", "next_run", "Run"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(
        self,
        watch: Watch,
        refresh: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.process_time,
    ) -> None:
        super().__init__()
        self.animation_level = "none"
        self._watch, self._seconds, self._clock, self._used = watch, refresh, clock, used
        self._settings, self._selected = Settings(), 0
        self._drawn_at, self._used_before, self._stale = clock(), used(), False
        self._tabbed = TabbedContent(initial="overview")
        self._findings = -1
        self._always: list[Drawn | Page] = []
        self._in_pane: dict[str, list[Drawn | Page]] = {name: [] for name in PANES}
        self.failure: Exception | None = None
        watch.advance()
        self.scene: Scene = watch.scene()

    def compose(self) -> ComposeResult:
        """The parts of the screen."""
        yield Drawn(lambda scene, width, height: panes.header(scene, width), timed=True, id="header")
        yield Drawn(lambda scene, width, height: panes.progress(scene, width), timed=True, id="progress")
        if len(self.scene.runs) > 1:
            yield Drawn(lambda scene, width, height: legend(scene, width), id="legend")
        with self._tabbed:
            with TabPane("Overview", id="overview"), Container(id="overview-body"):
                yield from _overview()
            with TabPane("Charts", id="charts"), Container(id="charts-body"):
                yield from (Chart(key) for key in CHARTS)
            with TabPane("Findings", id="findings"):
                yield Page(panes.findings)
            with TabPane("Samples", id="samples"):
                yield Page(panes.samples)
            with TabPane("Run", id="run"):
                yield Page(panes.about)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to look."""
        self.register_theme(THEME)
        self.theme = THEME.name
        self.query_one(Tabs).can_focus = False
        self._always = _drawn(self.screen, "#header, #progress, #legend")
        self._in_pane = {name: _drawn(self._tabbed.get_pane(name), "*") for name in PANES}
        with suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        # What is in memory now stays: there is no use in looking through it for garbage again and again.
        gc.freeze()
        self.set_interval(self._seconds, self.look)
        self.call_after_refresh(self.draw)

    def _handle_exception(self, error: Exception) -> None:
        """A mistake of ours: give the terminal back first; the caller says what went wrong."""
        if self.is_headless:
            super()._handle_exception(error)
        self.failure = error
        self.exit(return_code=1)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the layout."""
        self.screen.set_class(event.size.width >= WIDE and event.size.height >= HIGH, "-wide")
        self.screen.set_class(event.size.width < NARROW, "-narrow")
        self.call_after_refresh(self.draw)

    def on_tabbed_content_tab_activated(self) -> None:
        """A pane has come into sight."""
        self._leave()
        self.call_after_refresh(self._arrive)

    def _leave(self) -> None:
        # A widget that is hidden while it has the focus hands it to any other, also to one that is hidden.
        if self.focused not in self._in_pane[self._tabbed.active]:
            self.set_focus(None)

    def _arrive(self) -> None:
        self.draw()
        shown = self._in_pane[self._tabbed.active]
        if self.focused not in shown:
            next(widget for widget in shown if widget.can_focus).focus()

    def look(self) -> None:
        """Read what is new, and draw if there was anything or a clock has to go on."""
        if not (self.is_headless or (sys.__stderr__ and sys.__stderr__.isatty())):
            self.exit()  # the terminal is gone, and took its signal along where it was not ours
        if self._settings.paused:
            return
        self._stale |= self._watch.advance()
        passed, used = self._clock() - self._drawn_at, self._used() - self._used_before
        affordable = self._watch.replays or passed >= rest_after(used)
        if affordable and (self._stale or passed >= CLOCK_SECONDS):
            self.draw()

    def draw(self) -> None:
        """Show the runs as they stand."""
        if not self._settings.paused:
            self._drawn_at, self._used_before, self._stale = self._clock(), self._used(), False
            self.scene = self._watch.scene(self._selected, self._settings)
        else:
            self.scene = Scene(self.scene.runs, self._selected, self._settings)
        for widget in (*self._always, *self._in_pane[self._tabbed.active]):
            widget.show(self.scene)
        side = self.query_one("#side-curves")
        side.set_class(not any(chart.display for chart in side.children), "-empty")
        self._label()

    def _label(self) -> None:
        found = len(self.scene.run.findings)
        if found != self._findings:
            self._findings = found
            self._tabbed.get_tab("findings").label = f"Findings {found}" if found else "Findings"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key that can do nothing here is not offered."""
        return len(self.scene.runs) > 1 if action == "next_run" else True

    def action_pane(self, name: str) -> None:
        """Go to a pane."""
        self.screen.minimize()
        self._tabbed.active = name
        self._leave()

    def action_next_pane(self, by: int) -> None:
        """Go to the pane beside this one."""
        self.action_pane(PANES[(PANES.index(self._tabbed.active) + by) % len(PANES)])

    def action_zoom(self, levels: int) -> None:
        """Show fewer of the latest steps, or more."""
        self._set(self._settings.zoomed(levels, self.scene.steps))

    def action_smooth(self, levels: int) -> None:
        """Smooth the curves more, or less."""
        self._set(self._settings.smoother(levels))

    def action_logarithmic(self) -> None:
        """Logarithmic charts, or linear ones."""
        self._set(self._settings.toggled("logarithmic"))

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._set(self._settings.toggled("paused"))
        self._watch.pause(self._settings.paused)

    def action_next_run(self) -> None:
        """Show the numbers of the next run."""
        self._selected = (self._selected + 1) % len(self.scene.runs)
        self.draw()

    def action_help(self) -> None:
        """Explain what the mouse is over, or else what has the focus, or else the keys."""
        asked = self.mouse_over if isinstance(self.mouse_over, Explained) else self.focused
        self.push_screen(Help(answer(asked.key, self.scene.run) if isinstance(asked, Explained) else keys()))

    def _set(self, settings: Settings) -> None:
        self._settings = settings
        self.draw()


def _drawn(parent: Widget, selector: str) -> list[Drawn | Page]:
    return [widget for widget in parent.query(selector) if isinstance(widget, Drawn | Page)]


def _overview() -> ComposeResult:
    with Container(id="curves"):
        yield Chart("loss")
        with Container(id="side-curves"):
            yield from (Chart(key, aside=True) for key in dict.fromkeys((*ASIDE_OF_PAIRS, *ASIDE)))
    with Container(id="words"):
        with Container(id="numbers"):
            with Container(id="learning"):
                yield from map(Number, LEARNING)
            with Container(id="machine"):
                yield from map(Number, MACHINE)
        yield Drawn(panes.digest, id="digest")
        yield Drawn(panes.last_sample, id="sample")
