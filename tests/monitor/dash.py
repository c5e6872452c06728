"""Helpers for the tests of the dashboard: the recorded run, a clock that stands still, and the screen as text.

The recorded run `runs/by_heart` is a real one, made by `python guide/measure.py dashboard`. The screens that it should
give are in `screens/`; to renew them after a change that is meant, and then read the difference:

    python -m tests.monitor.dash
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from luthier.events.read import read
from luthier.events.record import to_record
from luthier.events.types import Event, Log
from luthier.monitor.dashboard.app import Dashboard
from luthier.monitor.dashboard.watching import Watch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RECORDED = HERE / "runs" / "by_heart" / "events.jsonl"
SCREENS = HERE / "screens"
SIZES = {"80x24": (80, 24), "200x60": (200, 60)}
VIEWS = {"overview": (), "help": ("down", "question_mark"), "charts": ("escape", "2"), "findings": ("3",),
         "samples": ("4",), "run": ("5",)}  # fmt: skip
MIDDLE = 112
FRAME_SECONDS = 0.025

Act = Callable[[Pilot[None], Dashboard], Awaitable[Any]]


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def screen(app: Dashboard) -> str:
    """What a reader sees, line by line, without colours."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def flat(shown: str) -> str:
    """The words of a screen as if no line had ended: of the box that lies over it, where there is one."""
    rows = shown.split("\n")
    top = next((row for row in rows if "╭" in row), None)
    if top is not None:
        rows = [row[top.index("╭") + 1 : top.index("╮")] for row in rows]
    return " ".join(" ".join(rows).split())


async def settled(pilot: Pilot[None], app: Dashboard) -> str:
    """The screen when nothing on it changes any more."""
    before = ""
    while True:
        for _ in range(2):  # a message and what follows from it; the next round is the next frame
            await pilot.pause(FRAME_SECONDS)
        now = screen(app)
        if now == before:
            return now
        before = now


def drive(watch: Watch, act: Act, size: tuple[int, int] = (80, 24), **options: Any) -> Any:
    """Show a watch on a terminal of that size and let `act` use it; returns what `act` returns."""

    async def driven() -> Any:
        # It looks only when the test says so, and processor time costs nothing.
        app = Dashboard(watch, **{"refresh": 3600.0, "used": lambda: 0.0, **options})
        async with app.run_test(size=size, tooltips=True) as pilot:
            await settled(pilot, app)
            return await act(pilot, app)

    return asyncio.run(driven())


def look(watch: Watch, *keys: str, size: tuple[int, int] = (80, 24)) -> str:
    """The screen after some keys."""

    return tour(watch, {"seen": keys}, size)["seen"]


def tour(watch: Watch, views: dict[str, tuple[str, ...]], size: tuple[int, int] = (80, 24)) -> dict[str, str]:
    """The screens after some keys each, one after the other in one dashboard (starting one is what takes the time)."""

    async def act(pilot: Pilot[None], app: Dashboard) -> dict[str, str]:
        seen = {}
        for view, keys in views.items():
            for key in keys:
                await pilot.press(key)
                await settled(pilot, app)
            seen[view] = await settled(pilot, app)
        return seen

    return dict(drive(watch, act, size))


def in_the_middle(path: Path = RECORDED, step: int = MIDDLE) -> Watch:
    """A replay of the recorded run, standing still at the moment a step was logged."""
    clock = Clock()
    with contextlib.chdir(ROOT):  # the screen shows the path as it was given
        watch = Watch([path.relative_to(ROOT)], 1.0, clock=clock)
    told = list(read(path))
    logged = next(about["time"] for event, about in told if isinstance(event, Log) and event.step == step)
    clock.seconds = logged - told[0][1]["time"] + 0.5
    watch.advance()
    return watch


def write(path: Path, stream: Iterable[Event], start: float = 1_000.0, every: float = 1.0) -> Path:
    """Events as an events.jsonl, one after the other in time."""
    with path.open("a", encoding="utf-8") as file:
        for index, event in enumerate(stream):
            record = to_record(event, time=start + every * index, attempt="a1")
            file.write(json.dumps(record, allow_nan=False) + "\n")
    return path


def name(view: str, size: str) -> Path:
    """Where a screen is kept."""
    return SCREENS / f"{view}_{size}.txt"


def main() -> None:
    """Keep the screens as they are now."""
    SCREENS.mkdir(exist_ok=True)
    for size, cells in SIZES.items():
        for view, shown in tour(in_the_middle(), VIEWS, cells).items():
            name(view, size).write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
