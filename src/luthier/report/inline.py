"""A run in the output of a notebook's cell: the live page's parts, drawn anew while it trains, which stay when it ends.

    events --write--> is it time? --Watch on the run's own files--> Scene --PARTS--> HTML of the cell

It is read from the run's files, as the page in a browser is, so a run that goes on shows its past, too. There is no
frame around it: a frame would jump back to its top with each update. So the style is scoped to the cell, and colours
are those of the notebook.

Not covered: notebooks that show no HTML; they get the few lines that `luthier train` leaves on a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from luthier.events.page import STYLE as PLAIN
from luthier.events.page import text
from luthier.events.printable import one_line
from luthier.events.types import Event, Notice, RunStarted
from luthier.monitor.dashboard.watching import Watch, rest_after
from luthier.monitor.state import RunState
from luthier.monitor.view import summary
from luthier.report.live import STYLE
from luthier.report.live_parts import PARTS

WHILE_TRAINING = ("top", "curves", "findings")
AT_THE_END = ("top", "curves", "numbers", "findings", "samples")
"""Numbers unfold when they are clicked, which an update would undo."""
_SECONDS = 2.0
_WIDTH = 100
_OWN = """
:scope { max-width: 72rem; }
:scope h1 { font-size: 1.25rem; } :scope h2 { font-size: 1.05rem; margin-top: 1.2rem; }
:scope .curves, :scope .numbers { grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
:scope { --line: color-mix(in srgb, currentColor 25%, transparent);
  --soft: color-mix(in srgb, currentColor 7%, transparent); }
"""


class Shown(Protocol):
    """What `IPython.display.display(..., display_id=True)` returns."""

    def update(self, data: object, *, raw: bool) -> None:
        """Put something else in its place."""


class Inline:
    """A sink.

    Args:
        display: Shows a MIME bundle and returns what can replace it.
        clock: A steady clock, in seconds.
    """

    def __init__(self, display: Callable[[dict[str, str]], Shown], clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._shown: Shown | None = None
        self._watch: Watch | None = None
        self._next = 0.0

    def write(self, event: Event) -> None:
        """Take one event; draws when the last drawing is old enough."""
        if isinstance(event, RunStarted):
            self._watch = Watch([Path(str(event.plan["training.output_dir"])).expanduser()])
        if self._watch is None:
            words = event.text if isinstance(event, Notice) else event.kind
            self._put(f"<p>{text(words)}</p>", one_line(words))
        elif self._clock() >= self._next:
            began = time.thread_time()
            self._watch.advance()
            self._draw(self._watch, WHILE_TRAINING)
            self._next = self._clock() + max(_SECONDS, rest_after(time.thread_time() - began))

    def close(self) -> None:
        """Draw what stays."""
        if self._watch is not None:
            self._watch.settle()
            self._draw(self._watch, AT_THE_END)

    def _draw(self, watch: Watch, names: tuple[str, ...]) -> None:
        scene = watch.scene()
        self._put("\n".join(PARTS[name](scene) for name in names), in_words(scene.run.state))

    def _put(self, html: str, words: str) -> None:
        bundle = {"text/html": cell(html), "text/plain": words}
        if self._shown is None:
            self._shown = self._display(bundle)
        else:
            self._shown.update(bundle, raw=True)


def cell(html: str) -> str:
    """HTML of a page's parts in a style of its own, which reaches nothing else of the notebook."""
    style = (PLAIN + STYLE + _OWN).replace(":root", ":scope").replace("body {", ":scope {")
    return f'<div class="luthier"><style>@scope (.luthier) {{ {style} }}</style>\n{html}</div>'


def in_words(state: RunState) -> str:
    """The run in a few lines of text."""
    return "\n".join(line.plain for line in summary(state, _WIDTH))
