"""One manner for all pictures: white ground, few colours, names written at the lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from luthier.monitor.state import RunState
from luthier.monitor.view import render

PICTURES = Path("docs/pictures")
INK, GREY, BLUE, AMBER, TEAL, RED = "#1e293b", "#94a3b8", "#2563eb", "#d97706", "#0f766e", "#b91c1c"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "luthier",
}


@contextmanager
def picture(
    name: str, rows: int = 1, columns: int = 1, *, height: float = 3.2, heights: tuple[float, ...] | None = None
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure that is saved as docs/pictures/NAME.svg when the block ends."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(8, height), squeeze=False, layout="constrained", height_ratios=heights
        )
        yield figure, list(axes.flat)
        PICTURES.mkdir(parents=True, exist_ok=True)
        figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


def smooth(values: list[float], window: int) -> list[float]:
    """Mean of each value and those before it, so that a curve begins where the run did."""
    cut = [values[max(0, i - window + 1) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in cut]


def save_panel(name: str, state: RunState, moment: float, title: str) -> None:
    """The live panel as it stands on a terminal at that moment, as docs/pictures/NAME.svg."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=100, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(render(state, moment + 0.4, 100, 22))
        text = console.export_svg(title=title, unique_id="luthier")
    (PICTURES / f"{name}.svg").write_text(with_own_fonts(text), encoding="utf-8")


def with_own_fonts(svg: str) -> str:
    """An SVG of a terminal with fonts of the reader's machine instead of a server's."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas")
