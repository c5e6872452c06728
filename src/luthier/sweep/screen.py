"""A sweep on a screen: a table that grows while it runs, or a line for each trial where there is no terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from luthier.config.tree import shown
from luthier.events.printable import one_line
from luthier.sweep.standing import Row, Standing

_STYLES = {"running": "cyan", "done": "", "pruned": "dim", "failed": "red"}


class Screen:
    """Shows each standing. A context manager that gives the terminal back; the last table stays.

    Args:
        console: Where to draw.
        plain: Lines, also on a terminal.
        stop: Whether a stop was asked for.
    """

    def __init__(self, console: Console, plain: bool, stop: Callable[[], bool]) -> None:
        self._console, self._stop = console, stop
        self._live = None if plain or not console.is_terminal else Live(console=console, refresh_per_second=4)
        self._told: set[int] = set()

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether a table stands there, under which nobody else may write a line."""
        return self._live is not None

    def show(self, standing: Standing) -> None:
        """Draw it, or tell of trials that have ended since."""
        if self._live:
            self._live.update(Group(table(standing), _progress(standing, self._stop())))
            return
        for row in standing.rows:
            if row.state != "running" and row.number not in self._told:
                self._told.add(row.number)
                values = "  ".join(f"{_name(key)}={_value(value)}" for key, value in row.values.items())
                self._console.print(
                    f"trial {row.number}: {_state(row)}  {_loss(row)}  {values}", markup=False, soft_wrap=True
                )

    def close(self, standing: Standing) -> None:
        """The table at the end; on a terminal it is there already."""
        if not self._live:
            self._console.print(table(standing))


def table(standing: Standing) -> Table:
    """All trials; the best is marked."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    drawn.add_column("trial", justify="right")
    for key in standing.keys:
        drawn.add_column(_name(key), justify="right", overflow="fold")
    drawn.add_column("eval_loss", justify="right")
    drawn.add_column("evaluations", justify="right")
    drawn.add_column("time", justify="right")
    drawn.add_column("")
    best = standing.best
    for row in standing.rows:
        mark = "best" if best and row.number == best.number else _state(row)
        cells = [_value(row.values[key]) for key in standing.keys]
        drawn.add_row(
            str(row.number), *cells, _loss(row), str(len(row.losses)), _time(row.seconds), Text(one_line(mark)),
            style="bold green" if mark == "best" else _STYLES[row.state],
        )  # fmt: skip
    return drawn


def _progress(standing: Standing, stopping: bool) -> Text:
    ended = sum(row.state != "running" for row in standing.rows)
    running = next((row for row in standing.rows if row.state == "running"), None)
    watch = f"; luthier watch {running.folder}" if running else ""
    watch = "; stopping: a step is finished and saved first (Ctrl-C again: now)" if running and stopping else watch
    return Text(f"\n{ended} of {standing.trials} trials{watch}", style="dim")


def _state(row: Row) -> str:
    if row.state == "running":
        return f"step {row.step:,} of {row.total_steps:,}" if row.total_steps else "starting"
    if row.state == "pruned":
        return f"ended early, at step {row.step:,} of {row.total_steps:,}"
    return f"failed: {row.reason}" if row.state == "failed" else "done"


def _loss(row: Row) -> str:
    return f"{row.eval_loss:.4f}" if math.isfinite(row.eval_loss) else "-"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _value(value: Any) -> str:
    """Four digits say enough; best.yaml and the JSON have all of them."""
    return shown(float(f"{value:.4g}") if isinstance(value, float) else value)


def _name(key: str) -> str:
    """The bare key: no two sections share a name."""
    return key.partition(".")[2]
