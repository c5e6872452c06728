"""The charts: which numbers of a run are drawn, under which title. Pure functions from a scene to a picture.

With one run a chart shows the values as they are, faintly, and their exponential mean over it. With several it shows
the means alone, each run in its colour, its number at the end of its curve.

Not covered: the drawing (`canvas`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rich.text import Text

from luthier.events.printable import one_line
from luthier.monitor.dashboard.canvas import Curve, Picture, draw
from luthier.monitor.dashboard.palette import ACCENT, QUIET, RUNS, WARNING
from luthier.monitor.dashboard.scene import Scene, Settings, WatchedRun
from luthier.monitor.statistics import smooth, usable


@dataclass(frozen=True)
class Chart:
    """One number over the steps."""

    key: str
    """The metric that explains it."""
    title: str
    field: str
    """Of a `Point`; of an evaluation, where no log line has it."""
    evaluated: str = ""
    """Of an evaluation, drawn as marks; empty: it has none."""
    smoothed: bool = True
    from_zero: bool = False
    pairs: bool = False
    """Whether only a run that learns from pairs of answers has it."""


CHARTS = {
    chart.key: chart
    for chart in (
        Chart("loss", "loss", "loss", "eval_loss"),
        Chart("eval", "eval loss", "eval_loss", "eval_loss", smoothed=False),
        Chart("margin", "margin of pairs", "reward_margin", "reward_margin", from_zero=True, pairs=True),
        Chart("accuracy", "pairs told apart", "reward_accuracy", "reward_accuracy", from_zero=True, pairs=True),
        Chart("learning_rate", "learning rate", "learning_rate", smoothed=False, from_zero=True),
        Chart("gradient", "gradient norm", "grad_norm", from_zero=True),
        Chart("speed", "tokens a second", "tokens_per_second", from_zero=True),
        Chart("step", "seconds a step", "step_seconds", from_zero=True),
        Chart("memory", "memory, GiB", "memory_gib", smoothed=False, from_zero=True),
        Chart("gpu", "GPU busy, percent", "gpu_utilization", from_zero=True),
    )
}


ASIDE, ASIDE_OF_PAIRS = ("learning_rate", "gradient", "speed"), ("margin", "accuracy", "learning_rate")
"""What stands beside the loss, where there is room for three."""


def aside(scene: Scene) -> tuple[str, ...]:
    """The charts that stand beside the loss."""
    return ASIDE_OF_PAIRS if scene.run.state.on_pairs else ASIDE


def chart(key: str, scene: Scene, width: int, height: int) -> Text:
    """A title line and the picture below it: at most `height` lines of at most `width` cells."""
    found = CHARTS[key]
    text = _title(found, scene, width)
    if height < 2:
        return text
    drawn = picture(key, scene)
    if not any(usable(y) for curve in drawn.curves for _, y in curve.points):
        below = Text("\n  not in these steps" if _logged(scene) else "\n  waiting for log lines", "dim")
    else:
        below = draw(drawn, width, height - 1)
    return Text("\n", no_wrap=True).join((text, below))


def _logged(scene: Scene) -> bool:
    return any(run.state.logged for run in scene.runs)


def is_worth_a_place(key: str, scene: Scene) -> bool:
    """Whether a chart has, or may get, anything to show: one whose number the logs do not have is left out."""
    if CHARTS[key].pairs and not any(run.state.on_pairs for run in scene.runs):
        return False
    if key == "loss" or not _logged(scene):
        return True
    whole = replace(scene, settings=replace(scene.settings, span=None))
    return any(usable(y) for curve in picture(key, whole).curves for _, y in curve.points)


def picture(key: str, scene: Scene) -> Picture:
    """The curves of a chart."""
    found, settings = CHARTS[key], scene.settings
    several = len(scene.runs) > 1
    curves: list[Curve] = []
    for index, run in enumerate(scene.runs):
        color = RUNS[index % len(RUNS)]
        first = run.state.step - settings.span if settings.span else -1
        evaluations = _evaluated(found, run, first)
        points = run.points(settings.span) if key != "eval" else ()
        values = [(float(point.step), float(getattr(point, found.field))) for point in points] or evaluations
        smoothed = found.smoothed and settings.weight < 1
        if smoothed and not several:
            curves.append(Curve(values, QUIET))
        if smoothed:
            values = _means(run, values, settings)
        curves.append(Curve(values, color, end=_number(index) if several else ""))
        if evaluations:
            curves.append(Curve(evaluations, color if several else WARNING, mark="◆"))
    rule = scene.run.state.max_grad_norm if key == "gradient" else math.nan
    return Picture(tuple(curves), settings.logarithmic, rule, found.from_zero)


def _evaluated(found: Chart, run: WatchedRun, first: int) -> list[tuple[float, float]]:
    """What evaluations after a step say of a number; nothing where they do not."""
    if not found.evaluated:
        return []
    told = [
        (float(event.step), getattr(event, found.evaluated)) for event in run.state.evaluations if event.step > first
    ]
    return [(step, math.nan if value is None else value) for step, value in told]


def _means(run: WatchedRun, values: list[tuple[float, float]], settings: Settings) -> list[tuple[float, float]]:
    """Smoothed as the setting says, as if no line had been left out of the history."""
    thinned = run.state.stride if len(values) == len(run.state.history) else 1
    weight = 1 - (1 - settings.weight) ** thinned
    return list(zip((step for step, _ in values), smooth([value for _, value in values], weight), strict=True))


def _title(found: Chart, scene: Scene, width: int) -> Text:
    """The name, and of what stands behind it as much as fits."""
    settings, parts = scene.settings, []
    if len(scene.runs) == 1 and found.smoothed and settings.weight < 1:
        parts.append(Text.assemble(("  ━", QUIET), (" each line", "dim"), ("  ━", ACCENT), (" mean", "dim")))
    if found.evaluated and found.key != "eval" and scene.run.state.evaluations:
        parts.append(Text.assemble(("  ◆", WARNING if len(scene.runs) == 1 else ""), (" eval", "dim")))
    if found.key == "gradient" and scene.run.state.max_grad_norm > 0:
        parts.append(Text("  ╌ limit", "dim"))
    if settings.span:
        parts.append(Text(f"  last {settings.span:,} steps", "dim"))
    if settings.logarithmic:
        parts.append(Text("  log", "dim"))
    title = Text.assemble((found.title, "bold"), no_wrap=True)
    for part in parts:
        if title.cell_len + part.cell_len <= width:
            title.append_text(part)
    title.truncate(width, overflow="ellipsis")
    return title


def legend(scene: Scene, width: int) -> Text:
    """The runs, each with its number and colour; the one whose numbers are shown is marked."""
    text = Text(no_wrap=True)
    for index, run in enumerate(scene.runs):
        mark = "▸" if index == scene.selected else " "
        text.append(f"{mark}{_number(index)} ", f"bold {RUNS[index % len(RUNS)]}")
        text.append(one_line(run.name)[:28], "bold" if index == scene.selected else "dim")
        loss = run.state.smoothed_loss
        text.append(f" {loss:.4g}  " if loss is not None else "  ", "")
    text.truncate(width, overflow="ellipsis")
    return text


def _number(index: int) -> str:
    return str((index + 1) % 10)
