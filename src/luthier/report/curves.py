"""Curves as SVG inside a page: axes with round numbers, a grid, a legend, colours of the page's own style.

No library draws them, so that a page needs none, and light and dark are a matter of CSS. Losses are drawn on a
logarithmic axis where the largest is more than `_WIDE` times the median; the axis says so.

Not covered: dots on a terminal (`luthier.monitor.dashboard.canvas`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from luthier.events.page import text
from luthier.monitor.axes import Axis, step_axis, value_axis
from luthier.monitor.state import RunState
from luthier.monitor.statistics import centred, usable

STYLE = """
:root { --raw: #b6bfca; --c0: #2563eb; --c1: #d97706; --c2: #15803d; --c3: #a21caf; --c4: #0e7490; --c5: #be123c; }
@media (prefers-color-scheme: dark) { :root { --raw: #566070; --c0: #7aa2f7; --c1: #f0a94b; --c2: #5cc97b;
  --c3: #d58be0; --c4: #56c2d6; --c5: #ff8f9f; } }
figure { margin: 1rem 0 1.4rem; overflow-x: auto; } figcaption { font-size: .9rem; }
svg { display: block; width: 100%; min-width: 34rem; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } svg .grid { stroke: var(--line); } svg .axis { stroke: currentColor; opacity: .5; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round;
  stroke-linecap: round; } svg .raw { stroke: var(--raw); stroke-width: 1; }
svg .d1 { stroke-dasharray: 7 3; } svg .d2 { stroke-dasharray: 2 3; }
svg .rule { stroke: currentColor; stroke-dasharray: 4 4; opacity: .6; }
""" + "\n".join(f"svg .c{n} {{ stroke: var(--c{n}); }} svg .mark.c{n} {{ fill: var(--c{n}); }}" for n in range(6))
COLOURS = 6

WIDTH = 760
"""Of a whole picture, in its own units."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 30, 38
_WIDE = 15.0


@dataclass(frozen=True)
class Line:
    """Points (step, value) in order; `marked`: each is a dot, too."""

    name: str
    points: Sequence[tuple[int, float]]
    kind: str
    marked: bool = False


def figures(state: RunState, width: int = WIDTH) -> list[str]:
    """The curves of one run: losses, learning rate, length of the gradient; none where there are no log lines.

    Args:
        state: The run.
        width: Of those below the losses; with half of it two stand beside each other.
    """
    if not state.history:
        return []
    rates = [(point.step, point.learning_rate) for point in state.history]
    norms = [(point.step, point.grad_norm) for point in state.history]
    losses = [Line("training", [(point.step, point.loss) for point in state.history], "raw")]
    losses.append(Line(f"mean of {2 * reach(state) + 1} lines", trend_line(state), "c0"))
    kind, what = ("pairs", "loss of pairs (chance: 0.693)") if state.on_pairs else ("rows", "loss, nats a token")
    losses += [Line(f"held-out {kind}", held_out(state), "c1", marked=True)] * bool(state.evaluations)
    span = _span(state)
    drawn = [
        svg(what, losses, 260, wide=True, span=span),
        *_of_pairs(state, span, width),
        svg("learning rate", [Line("", rates, "c0")], 140, from_zero=True, span=span, width=width),
        svg("length of the gradient before clipping", [Line("", norms, "c0")], 140, from_zero=True,
            rule=state.max_grad_norm, wide=True, span=span, width=width),
    ]  # fmt: skip
    return [figure for figure in drawn if figure]


def pace(state: RunState, width: int = WIDTH) -> list[str]:
    """The curves of the machine under a run: speed, memory, how busy the GPU is; those that its log has."""
    drawn = []
    for title, name in (
        ("tokens a second", "tokens_per_second"),
        ("memory, GiB", "memory_gib"),
        ("GPU busy, percent", "gpu_utilization"),
    ):
        line = Line("", [(point.step, getattr(point, name)) for point in state.history], "c0")
        drawn.append(svg(title, [line], 140, from_zero=True, span=_span(state), width=width) if line.points else "")
    return [figure for figure in drawn if figure]


def _span(state: RunState) -> tuple[int, int]:
    """The first and the last step of which there is a number to draw."""
    ends = [*(point.step for point in state.history), *(event.step for event in state.evaluations)]
    return min(ends), max(ends)


def _of_pairs(state: RunState, span: tuple[int, int], width: int) -> list[str]:
    """How far chosen and rejected answers are apart, and how often the chosen one is ahead, where a run has pairs."""
    drawn = []
    for title, name in (("margin: reward of chosen less rejected", "reward_margin"),
                        ("pairs with the chosen answer ahead", "reward_accuracy")) * state.on_pairs:  # fmt: skip
        seen = [(event.step, getattr(event, name)) for event in state.evaluations if getattr(event, name) is not None]
        lines = [Line("training", [(point.step, getattr(point, name)) for point in state.history], "c0")]
        lines += [Line("held-out pairs", seen, "c1", marked=True)] * bool(seen)
        drawn.append(svg(title, lines, 140, from_zero=True, span=span, width=width))
    return drawn


def trend_line(state: RunState) -> list[tuple[int, float]]:
    """The mean loss around each line of the history: it lags behind nothing, for the run is looked at afterwards."""
    means = centred([point.loss for point in state.history], reach(state))
    return [(point.step, mean) for point, mean in zip(state.history, means, strict=True)]


def reach(state: RunState) -> int:
    """Log lines on each side that make up the trend."""
    return max(2, len(state.history) // 40)


def held_out(state: RunState) -> list[tuple[int, float]]:
    """(step, eval_loss) of all evaluations."""
    return [(event.step, event.eval_loss) for event in state.evaluations]


def svg(
    title: str,
    lines: Sequence[Line],
    height: int,
    *,
    from_zero: bool = False,
    rule: float = math.nan,
    wide: bool = False,
    span: tuple[int, int] | None = None,
    width: int = WIDTH,
) -> str:
    """One figure; empty where no line has a finite value.

    Args:
        title: What the y axis counts.
        lines: What is drawn, the first one lowest.
        height: Of the picture, in the units of its width.
        from_zero: The axis begins at 0.
        rule: A level that is marked across, where it lies between the values.
        wide: A logarithmic axis may be chosen.
        span: First and last step of the axis; None: those of the lines.
        width: Of the picture.
    """
    seen = [(step, value) for line in lines for step, value in line.points if usable(value)]
    if not seen:
        return ""
    values = [value for _, value in seen]
    logarithmic = wide and min(values) > 0 and max(values) > _WIDE * statistics.median(values)
    scaled = [math.log10(value) for value in values] if logarithmic else values
    x_axis = step_axis(*(span or (min(step for step, _ in seen), max(step for step, _ in seen))), width // 95)
    y_axis = value_axis(min(scaled), max(scaled), max(3, height // 45), logarithmic=logarithmic, from_zero=from_zero)
    place = _Place(x_axis, y_axis, width, height, logarithmic)
    name = f"{title}{' (logarithmic)' * logarithmic}"
    start = max(0, min(_LEFT, width - _RIGHT - 6.8 * len(name)))  # a title that is too long begins further left
    parts = [
        f'<text x="{start:.0f}" y="14" font-weight="600">{text(name)}</text>',
        *_legend(lines, width),
        *_axes(place),
    ]
    if usable(rule) and y_axis.low <= place.scaled(rule) <= y_axis.high:
        y = place.y(rule)
        label = f'<text x="{width - _RIGHT}" y="{y - 4:.1f}" text-anchor="end">clipped to {rule:g}</text>'
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>{label}')
    parts += [part for line in lines for part in _drawn(line, place)]
    body = "\n".join(parts)
    return f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(name)}">\n{body}\n</svg></figure>'


@dataclass(frozen=True)
class _Place:
    """Where a step and a value lie in the picture."""

    x_axis: Axis
    y_axis: Axis
    width: int
    height: int
    logarithmic: bool

    def scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def x(self, step: float) -> float:
        return _LEFT + self.x_axis.share(step) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return self.across(self.scaled(value))

    def across(self, scaled: float) -> float:
        return self.height - _BOTTOM - self.y_axis.share(scaled) * (self.height - _BOTTOM - _TOP)


def _axes(place: _Place) -> Iterator[str]:
    foot, right = place.height - _BOTTOM, place.width - _RIGHT
    for value, name in place.y_axis.ticks:
        y = place.across(value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
    yield f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{foot}" y2="{foot}"/>'
    for step, name in place.x_axis.ticks:
        x = place.x(step)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{foot}" y2="{foot + 4}"/>'
        yield f'<text x="{x:.1f}" y="{foot + 17}" text-anchor="middle">{name}</text>'
    yield f'<text x="{(_LEFT + right) / 2:.0f}" y="{place.height - 4}" text-anchor="middle">step</text>'


def _legend(lines: Sequence[Line], width: int) -> Iterator[str]:
    """The names of the lines, right of the title, each with a piece of its line."""
    x = float(width - _RIGHT)
    for line in reversed([line for line in lines if line.name]):
        x -= 6.3 * len(line.name)
        yield f'<text x="{x:.0f}" y="14">{text(line.name)}</text>'
        yield f'<line class="line {line.kind}" x1="{x - 24:.0f}" x2="{x - 6:.0f}" y1="10" y2="10"/>'
        yield f'<circle class="mark {line.kind}" cx="{x - 15:.0f}" cy="10" r="3"/>' * line.marked
        x -= 42


def _drawn(line: Line, place: _Place) -> Iterator[str]:
    """The line in pieces, broken where a value is no number, and its dots."""
    piece: list[str] = []
    for step, value in (*line.points, (0, math.nan)):
        if usable(value):
            piece.append(f"{place.x(step):.1f},{place.y(value):.1f}")
        elif piece:
            dots = " ".join(piece if len(piece) > 1 else piece * 2)  # a line of no length is a dot
            yield f'<polyline class="line {line.kind}" points="{dots}"/>'
            piece = []
    if line.marked:
        for step, value in line.points:
            if usable(value):
                at = f'cx="{place.x(step):.1f}" cy="{place.y(value):.1f}"'
                yield f'<circle class="mark {line.kind}" {at} r="3"><title>step {step:,}: {value:.4f}</title></circle>'
