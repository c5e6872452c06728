"""The picture of a sweep: each key against the lowest loss on the held-out rows, and the losses as they fell.

matplotlib draws it; without matplotlib there is none, and the sweep says how to get one.
"""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.config.tree import shown
from luthier.sweep.standing import Row, Standing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "sweep.png"
_MOST_TICKS = 4
_GREY, _BLUE, _AMBER, _INK = "#94a3b8", "#2563eb", "#d97706", "#1e293b"
_STYLE: Any = {
    "font.size": 10, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _GREY, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#e2e8f0", "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "figure.facecolor": "white",
}  # fmt: skip


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(standing: Standing, folder: Path, log_keys: frozenset[str]) -> Path | None:
    """Write the picture into `folder`; returns where, or None when no trial has a loss.

    Args:
        standing: What to draw.
        folder: Of the sweep.
        log_keys: Keys whose axis is logarithmic.
    """
    rows = [row for row in standing.rows if math.isfinite(row.eval_loss) and row.state != "running"]
    if not rows:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        count = len(standing.keys) + 1
        figure = Figure(figsize=(3.6 * min(count, 3), 3.2 * math.ceil(count / 3)), layout="constrained")
        axes = figure.subplots(math.ceil(count / 3), min(count, 3), squeeze=False).flat
        for key, place in zip(standing.keys, axes, strict=False):
            _against(place, key, rows, standing.best, key in log_keys)
        _fall(axes[count - 1], rows, standing.best)
        for place in list(axes)[count:]:
            place.set_axis_off()
        path = folder / PICTURE
        figure.savefig(path, dpi=130)
    return path


def _against(place: Axes, key: str, rows: list[Row], best: Row | None, log: bool) -> None:
    """Loss against the values of one key; what is no number stands in the order of the trials' first use."""
    values = [row.values[key] for row in rows]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = list(dict.fromkeys(map(shown, values)))
        values = [names.index(shown(value)) for value in values]
        place.set_xticks(range(len(names)), names)
    else:
        _ticks(place, sorted({float(value) for value in values if isinstance(value, int | float)}), log)
    for x, row in zip(values, rows, strict=True):
        colour = _AMBER if row is best else _BLUE
        place.plot(
            x,
            row.eval_loss,
            "o",
            color=colour,
            fillstyle="none" if row.state != "done" else "full",
            zorder=2 + (row is best),
        )
    place.set_xlabel(key.partition(".")[2])
    place.set_ylabel("lowest eval_loss")


def _ticks(place: Axes, values: list[float], log: bool) -> None:
    """The values themselves where they are few and lie apart, or round numbers; labels are never over each other."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    if log:
        place.set_xscale("log")
    ticks, low, high = values, values[0], values[-1]
    gaps = [math.log(b / a) if log else b - a for a, b in itertools.pairwise(values)]
    if len(values) > 1 and min(gaps) < sum(gaps) / _MOST_TICKS:
        some = _powers(low, high) if log else []
        ticks = next((ticks for ticks in some if 2 <= len(ticks) <= _MOST_TICKS), [])
        ticks = ticks or [tick for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high]
    place.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
    place.xaxis.set_minor_locator(NullLocator())


def _powers(low: float, high: float) -> list[list[float]]:
    """Round numbers between two on a logarithmic axis, from many to few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ways = (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3))
    all_of = ([digit * 10.0**ten for ten in range(first, last + 1, step) for digit in digits] for digits, step in ways)
    return [[tick for tick in ticks if low <= tick <= high] for ticks in all_of]


def _fall(place: Axes, rows: list[Row], best: Row | None) -> None:
    """The losses of each trial, evaluation by evaluation."""
    from matplotlib.ticker import MaxNLocator

    for row in rows:
        colour, width = (_AMBER, 2.2) if row is best else (_GREY, 1.0)
        end = "o" if len(row.losses) == 1 else "-" if row.state == "done" else "--"
        label = f"trial {row.number}, the best" if row is best else None
        place.plot(
            range(1, len(row.losses) + 1),
            row.losses,
            end,
            color=colour,
            linewidth=width,
            label=label,
            zorder=2 + (row is best),
        )
    place.set_xlabel("evaluation (broken, hollow: ended early)")
    place.set_ylabel("eval_loss")
    place.set_xlim(0.5, max(len(row.losses) for row in rows) + 0.5)
    place.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if best:
        place.legend()
