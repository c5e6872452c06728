"""Reading again and again, and showing it: on a terminal a screen that stays in place, elsewhere plain text or JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel as Box
from rich.text import Text

from luthier.machine.gpu import read_gpus, read_system
from luthier.monitor.gpu.record import Reading, Table, as_json
from luthier.monitor.gpu.view import LOWEST, lines, render
from luthier.monitor.panel import Panel

_REFRESHES_PER_SECOND = 4
_FIRST_LOOK_SECONDS = 0.2
_TEXT_WIDTH = 100

Show = Callable[[Reading], None]


def watch(output_dir: Path, interval_seconds: float, show: Show, table: Table | None = None, *, once: bool) -> None:
    """Read, record and show, once or until interrupted.

    Args:
        output_dir: The disk that holds this folder is shown.
        interval_seconds: From one reading to the next; one that takes longer skips a beat.
        show: What to do with each reading.
        table: Where readings are recorded, too.
        once: Stop after the first.
    """
    read_system(output_dir)  # the load of the processor is counted from here
    time.sleep(_FIRST_LOOK_SECONDS)
    start = time.monotonic()
    while True:
        reading = Reading(time.time(), read_gpus(detailed=True), read_system(output_dir))
        if table is not None:
            table.write(reading)
        show(reading)
        if once:
            return
        late = (time.monotonic() - start) % interval_seconds
        time.sleep(interval_seconds - late)


def json_lines(file: TextIO) -> Show:
    """Writes each reading as one line of JSON."""

    def show(reading: Reading) -> None:
        file.write(f"{as_json(reading)}\n")
        file.flush()

    return show


@contextmanager
def screen(console: Console, *, once: bool) -> Iterator[Show]:
    """What suits the console: a screen that is drawn in place, or else text, reading after reading."""
    if once or not Panel.suits(console):
        yield lambda reading: _print(console, reading)
        return
    latest: list[Reading] = []

    def draw() -> RenderableType:
        return _frame(console, latest[0]) if latest else Text("reading …")

    def show(reading: Reading) -> None:
        if not console.file.isatty():
            raise KeyboardInterrupt  # the terminal is gone
        latest[:] = [reading]

    with Live(console=console, get_renderable=draw, screen=True, refresh_per_second=_REFRESHES_PER_SECOND):
        yield show


def _frame(console: Console, reading: Reading) -> Box:
    clock = time.strftime("%H:%M:%S", time.localtime(reading.time))
    return render(reading.readings, reading.system, console.width, max(LOWEST, console.height), clock)


def _print(console: Console, reading: Reading) -> None:
    """The same as text, one reading after the other; on a terminal its width is kept, elsewhere nothing is cut."""
    bars = console.encoding.lower().replace("-", "") == "utf8"
    width = console.width if console.is_terminal else _TEXT_WIDTH
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(reading.time))
    console.print(Text(moment, "dim"))
    for line in lines(reading.readings, reading.system, width, bars=bars):
        if console.is_terminal:
            line.truncate(width, overflow="ellipsis")
        console.print(line, soft_wrap=True)
    console.print()
