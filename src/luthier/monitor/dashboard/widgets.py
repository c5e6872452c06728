"""The widgets: each asks a pure function for its text, and repaints only when that text has changed.

Text from files comes as rich `Text`, so nothing of it is read as markup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Static

from luthier.monitor.dashboard import charts, metrics
from luthier.monitor.dashboard.explain import answer
from luthier.monitor.dashboard.metrics import Metric
from luthier.monitor.dashboard.scene import Scene

Draw = Callable[[Scene, int, int], Text]


class Drawn(Widget):
    """A rectangle that a function fills.

    Args:
        draw: From a scene, a width and a height to at most so many lines of at most so many cells.
        timed: Whether the passing of time alone can change it.
    """

    def __init__(self, draw: Draw, *, timed: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw, self._timed = draw, timed
        self._text = Text()
        self._scene: Scene | None = None
        self._drawn_from: tuple[object, ...] = ()

    def show(self, scene: Scene) -> None:
        """Draw a scene; next to nothing to do when nothing has changed."""
        self._scene = scene
        width, height = self.content_size
        drawn_from = (width, height, self.depends_on(scene))
        if not width or not height or (drawn_from == self._drawn_from and not self._timed):
            return
        self._drawn_from = drawn_from
        text = self._draw(scene, width, height)
        if text != self._text:
            self._text = text
            self.refresh()

    def depends_on(self, scene: Scene) -> object:
        """What of a scene it shows."""
        run = scene.run
        return scene.settings, scene.selected, run.state, run.findings, run.local

    def again(self) -> None:
        """Draw the latest scene anew: the size or the focus has changed."""
        if self._scene is not None:
            self.show(self._scene)

    def render(self) -> Text:
        """What was drawn last."""
        return self._text

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.again()


class Explained(Drawn):
    """A number or a chart that `?` and the mouse can ask for its meaning."""

    can_focus = True

    def __init__(self, key: str, draw: Draw, *, timed: bool = False) -> None:
        super().__init__(draw, timed=timed)
        self.key = key

    def on_enter(self) -> None:
        """The mouse is over it: have the short answer ready."""
        if self._scene is not None:
            self.tooltip = answer(self.key, self._scene.run, short=True)


class Number(Explained):
    """One metric: a line, or two with its meaning."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric.key, self._line, timed=metric.timed)
        self._metric = metric

    def show(self, scene: Scene) -> None:
        """Draw a scene; where another number has its place it goes."""
        self.display = self._metric.shown(scene.run)
        super().show(scene)

    def _line(self, scene: Scene, width: int, height: int) -> Text:
        return metrics.line(self._metric, scene.run, width, height, self.has_focus)

    def depends_on(self, scene: Scene) -> object:
        """Also on the focus, which leaves a mark."""
        return self.has_focus, super().depends_on(scene)

    def watch_has_focus(self, has_focus: bool) -> None:
        """Show the mark, or take it away."""
        super().watch_has_focus(has_focus)
        self.again()


class Chart(Explained):
    """One chart. Enter gives it the whole pane, and takes it back.

    Args:
        key: Which one.
        aside: Beside the loss, where there is room for few.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "enlarge", "Enlarge")]

    def __init__(self, key: str, *, aside: bool = False) -> None:
        super().__init__(key, lambda scene, width, height: charts.chart(key, scene, width, height))
        self._aside = aside

    def show(self, scene: Scene) -> None:
        """Draw a scene; without anything to draw it leaves its place to the others."""
        wanted = not self._aside or self.key in charts.aside(scene)
        self.display = wanted and charts.is_worth_a_place(self.key, scene)
        super().show(scene)

    def depends_on(self, scene: Scene) -> object:
        """The curves of all runs."""
        return scene.settings, scene.selected, tuple((run.state.recent, run.state.evaluations) for run in scene.runs)

    def action_enlarge(self) -> None:
        """The whole pane, or its place again."""
        if self.is_maximized:
            self.screen.minimize()
        else:
            self.screen.maximize(self, container=False)


class Page(VerticalScroll):
    """A pane of text that scrolls.

    Args:
        draw: From a scene and a width to all lines.
    """

    def __init__(self, draw: Callable[[Scene, int], Text]) -> None:
        super().__init__()
        self._draw = draw
        self._text = Text()
        self._scene: Scene | None = None
        self._body = Static(markup=False)

    def compose(self) -> ComposeResult:
        """The text."""
        yield self._body

    def show(self, scene: Scene) -> None:
        """Draw a scene; the place that was scrolled to stays."""
        self._scene = scene
        width = self.scrollable_content_region.width
        if not width:
            return
        text = self._draw(scene, width)
        if text != self._text:
            self._text = text
            self._body.update(text)

    def on_resize(self) -> None:
        """Fold the lines for the new width."""
        if self._scene is not None:
            self.show(self._scene)

    def watch_show_vertical_scrollbar(self) -> None:
        """The scroll bar takes a column of the text, or gives it back."""
        self.call_after_refresh(self.on_resize)


class Help(ModalScreen[None]):
    """The answer to `?`, over everything else."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark,space", "dismiss_help", "Close"),
        Binding("down,j", "scroll(1)", show=False),
        Binding("up,k", "scroll(-1)", show=False),
    ]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """A box with the text."""
        with VerticalScroll(id="answer"):
            yield Static(self._text, markup=False)

    def action_dismiss_help(self) -> None:
        """Back to the dashboard."""
        self.dismiss()

    def action_scroll(self, lines: int) -> None:
        """Up or down, where the answer is longer than the screen."""
        self.query_one("#answer").scroll_relative(y=lines, animate=False)
