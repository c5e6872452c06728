"""A run as a page that stays open: the facts of the dashboard's overview, drawn as the report draws them.

    files --Watch--> Scene --Live.parts--> {name: Part} --page, or what changed of it--> a browser (`live.js`)

The page is made of parts, each a function from a scene to HTML. A part has a tag that is another one when its HTML is,
so that a browser asks only for what it does not have.

Not covered: HTTP (`live_server`), and what the report alone tells: settings with reasons, comparisons, attempts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from luthier.errors.secrets import hide
from luthier.events.page import page as document
from luthier.events.page import text
from luthier.events.printable import one_line
from luthier.monitor.dashboard import panes
from luthier.monitor.dashboard.scene import Scene
from luthier.monitor.dashboard.watching import rest_after
from luthier.report import page as report
from luthier.report.live_parts import PARTS, SLOW
from luthier.version import __version__

SCRIPT = "live.js"
STYLE = (
    report.STYLE
    + "\n".join(f".bar > .c{n}, .swatch.c{n} {{ background: var(--c{n}); }}" for n in range(6))
    + """
#connection { position: sticky; top: 0; z-index: 1; margin: 0; padding: .5rem .8rem; border: 2px solid var(--bad);
  background: Canvas; } body.lost main { opacity: .55; }
h1 { margin-bottom: .6rem; overflow-wrap: anywhere; } h1 small { font-size: .6em; font-weight: normal; }
.training { border-color: var(--c0); } .stopped, .silent { border-color: var(--c1); } .warn { color: var(--c1); }
.summary dl { margin: .5rem 0 .3rem; }
.bar { display: flex; height: .7rem; border-radius: 4px; overflow: hidden; background: var(--line); }
.bar > .bad { background: var(--bad); } .bar > .warn { background: var(--c1); }
.swatch { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; } .parts { margin: .5rem 0; }
.parts > span { margin-right: 1.2rem; white-space: nowrap; } .meaning { opacity: .7; font-size: .87rem; }
.curves, .numbers { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.curves { align-items: end; } .curves figure { margin-bottom: .4rem; }
.curves > :first-child { grid-column: 1 / -1; } .curves figure + figure svg { min-width: 0; }
.numbers details, .boxes > div { border-bottom: 1px solid var(--line); padding: .35rem 0; }
.numbers summary { display: grid; grid-template-columns: 6.5rem 1fr; cursor: pointer; }
.numbers summary > :first-child::before { content: "▸ "; opacity: .6; }
.numbers [open] summary > :first-child::before { content: "▾ "; } .numbers summary .meaning { grid-column: 2; }
.numbers details p { margin: .4rem 0 .4rem 6.5rem; }
.boxes > div { display: grid; grid-template-columns: 8rem minmax(6rem, 14rem) 9rem 1fr; gap: .2rem 1rem;
  align-items: center; }
@media (max-width: 40rem) { body { margin: 1rem auto; } .numbers details p { margin-left: 0; }
  .boxes > div { grid-template-columns: 6.5rem 1fr auto; } .boxes .meaning { grid-column: 1 / -1; } }
"""
)


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        tag: Another one when the HTML is; no two parts have the same.
        html: Empty where there is nothing to tell.
    """

    tag: str
    html: str


@dataclass(frozen=True)
class _Kept:
    """What was drawn last, from what, and until when that has to do."""

    given: object
    part: Part
    until: float


class Live:
    """Draws the parts of the page, and keeps what did not change. Not for several threads at once.

    Args:
        clock: A steady clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[int, str], _Kept] = {}

    def parts(self, scene: Scene) -> dict[str, Part]:
        """All parts by their names, in the order of the page."""
        return {name: self._part(name, draw, scene) for name, draw in PARTS.items()}

    def _part(self, name: str, draw: Callable[[Scene], str], scene: Scene) -> Part:
        before, began = self._kept.get((scene.selected, name)), time.thread_time()
        given = _curves_of(scene) if name in SLOW else None  # these two take long
        if before and given is not None and (given == before.given or self._clock() < before.until):
            return before.part
        html = draw(scene)
        tag = hashlib.blake2b(f"{name} {html}".encode("utf-8", "replace"), digest_size=6).hexdigest()
        kept = _Kept(given, Part(tag, html), self._clock() + rest_after(time.thread_time() - began))
        self._kept[scene.selected, name] = kept
        return kept.part


def page(scene: Scene, parts: dict[str, Part]) -> str:
    """The whole page."""
    body = [
        '<p id="connection" class="bad" role="status" hidden>Connection lost, trying again: what stands here may be '
        "old. Where luthier watch was ended, start it again.</p>",
        "<main>",
        *(f'<section id="{name}" data-tag="{part.tag}">{part.html}</section>' for name, part in parts.items()),
        "</main>",
        f"<footer><p>Drawn from files alone by Luthier {text(__version__)}: nothing here touches the run. Click a "
        "number to read what it is.</p></footer>",
    ]
    return document(title(scene), STYLE, body, SCRIPT)


def title(scene: Scene) -> str:
    """Of the window: how far it is, and its name."""
    state = scene.run.state
    share = f"{state.step / state.total_steps:.0%}" if state.total_steps else ""
    words = share if share and state.status == "training" and not scene.run.silent else panes.status(scene.run)
    return hide(f"{words} {one_line(state.run or scene.run.name)}")


def _curves_of(scene: Scene) -> object:
    return [(run.name, run.state.history, run.state.evaluations, run.state.plan) for run in scene.runs]
