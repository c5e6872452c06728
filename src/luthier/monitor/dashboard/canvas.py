"""Curves in braille dots: a chart and a size in, the lines of a picture out.

A cell holds 2 x 4 dots (Unicode braille, U+2800 with one bit a dot). Curves that meet in a cell share its dots, and the
last drawn gives the colour. Within a column of dots a curve is drawn from its least to its greatest value, so no spike
is lost, however many values share the column. Not-a-numbers leave a gap.

Not covered: what the curves are of (`charts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from luthier.monitor.axes import Axis, ends, logarithmic_ticks, multiples, step_axis
from luthier.monitor.statistics import usable

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800
_RULE = "╌"
_LEAST_WIDTH, _LEAST_HEIGHT = 16, 3


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order of x, joined by a line; or, with a mark, one character a point."""

    points: Sequence[tuple[float, float]]
    style: str
    mark: str = ""
    end: str = ""
    """A character at its last point, to tell curves apart without colour."""


@dataclass(frozen=True)
class Picture:
    """What is drawn below a title line of its own."""

    curves: tuple[Curve, ...]
    logarithmic: bool = False
    rule: float = math.nan
    """A level that is marked by a line across, where it lies between the values."""
    from_zero: bool = False
    """Whether the axis begins at 0."""


_Points = list[tuple[float, float | None]]


def draw(picture: Picture, width: int, height: int) -> Text:
    """Exactly `height` lines of at most `width` cells; empty ones where there is nothing to draw, or no room."""
    curves = [(curve, _visible(curve, picture.logarithmic)) for curve in picture.curves]
    seen = [(x, y) for _, points in curves for x, y in points if y is not None]
    if not seen or width < _LEAST_WIDTH or height < _LEAST_HEIGHT:
        return Text("\n" * max(0, height - 1), no_wrap=True)
    steps, values = zip(*seen, strict=True)
    rows = height - 1
    y_axis = _axis(min(values), max(values), rows, picture.logarithmic, picture.from_zero)
    margin = max(len(label) for _, label in y_axis.ticks)
    columns = width - margin - 1
    x_axis = step_axis(min(steps), max(steps), max(2, columns // 10))
    cells = _Cells(columns, rows)
    if usable(picture.rule):
        level = math.log10(picture.rule) if picture.logarithmic and picture.rule > 0 else picture.rule
        cells.rule(y_axis.share(level))
    for curve, points in curves:
        cells.add(curve, points, x_axis, y_axis)
    labels = {round((1 - y_axis.share(value)) * (rows - 1)): label for value, label in y_axis.ticks}
    text = Text(no_wrap=True)
    for row in range(rows):
        label = labels.get(row)
        text.append(f"{label or '':>{margin}}{'┤' if label is not None else '│'}", "dim")
        for part, style in cells.row(row):
            text.append(part, style)
        text.append("\n")
    return text.append(f"{'':>{margin}}└{_foot(x_axis, columns)}", "dim")


def _visible(curve: Curve, logarithmic: bool) -> _Points:
    """The points on their axis: logarithms where asked, None for what has none."""
    if logarithmic:
        return [(x, math.log10(y) if y > 0 and usable(y) else None) for x, y in curve.points]
    return [(x, y if usable(y) else None) for x, y in curve.points]


class _Cells:
    """The grid of cells: dots, styles and characters."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns, self._rows = columns, rows
        self._bits = [[0] * columns for _ in range(rows)]
        self._styles = [[""] * columns for _ in range(rows)]
        self._characters: dict[tuple[int, int], str] = {}

    def rule(self, share: float) -> None:
        if 0 <= share <= 1:
            row = round((1 - share) * (self._rows - 1))
            for column in range(self._columns):
                self._characters[row, column] = _RULE
                self._styles[row][column] = "dim"

    def add(self, curve: Curve, points: _Points, x_axis: Axis, y_axis: Axis) -> None:
        left, across = x_axis.low, (self._columns * 2 - 1) / (x_axis.high - x_axis.low)
        top, down = y_axis.high, (self._rows * 4 - 1) / (y_axis.high - y_axis.low)
        dots = [(round((x - left) * across), None if y is None else round((top - y) * down)) for x, y in points]
        if curve.mark:
            for x, y in dots:
                if y is not None:
                    self._put(x // 2, y // 4, curve.mark, curve.style)
            return
        for x, (top, bottom) in _strokes(dots).items():
            self._stroke(x, top, bottom, curve.style)
        last = next((dot for dot in reversed(dots) if dot[1] is not None), None)
        if curve.end and last is not None and last[1] is not None:
            self._put(last[0] // 2, last[1] // 4, curve.end, curve.style)

    def _stroke(self, x: int, top: int, bottom: int, style: str) -> None:
        """All dots of a column of dots from `top` to `bottom`."""
        column, dots = x // 2, _DOTS[x % 2]
        for row in range(top // 4, bottom // 4 + 1):
            first, last = max(top - row * 4, 0), min(bottom - row * 4, 3)
            if self._characters.get((row, column)) == _RULE:
                del self._characters[row, column]
            self._bits[row][column] |= sum(dots[first : last + 1])
            self._styles[row][column] = style

    def _put(self, column: int, row: int, character: str, style: str) -> None:
        if 0 <= row < self._rows and 0 <= column < self._columns:
            self._characters[row, column] = character
            self._styles[row][column] = style

    def row(self, row: int) -> Iterator[tuple[str, str]]:
        """The row as (characters, style) parts."""
        part, style = "", ""
        for column in range(self._columns):
            bits = self._bits[row][column]
            character = self._characters.get((row, column)) or (chr(_BRAILLE + bits) if bits else " ")
            here = self._styles[row][column] if character != " " else style
            if here != style and part:
                yield part, style
                part = ""
            part, style = part + character, here
        yield part, style


def _strokes(dots: Sequence[tuple[int, int | None]]) -> dict[int, tuple[int, int]]:
    """Column of dots -> top and bottom of what a line through the dots fills there."""
    filled: dict[int, tuple[int, int]] = {}

    def fill(x: int, top: int, bottom: int) -> None:
        if top > bottom:
            top, bottom = bottom, top
        known = filled.get(x)
        filled[x] = (top, bottom) if known is None else (min(top, known[0]), max(bottom, known[1]))

    before: tuple[int, int] | None = None
    for x, y in dots:
        if y is None:
            before = None
            continue
        x0, y0 = before or (x, y)
        if x == x0:
            fill(x, y0, y)
        reached = y0
        for column in range(x0 + 1, x + 1):
            level = round(y0 + (y - y0) * (column - x0) / (x - x0))
            # From the neighbour's height on, so that a steep line has no holes.
            fill(column, reached + (level > reached) - (level < reached), level)
            reached = level
        before = (x, y)
    return filled


def _axis(low: float, high: float, rows: int, logarithmic: bool, from_zero: bool) -> Axis:
    """Ends and labelled ticks; with `logarithmic` the values are logarithms already."""
    low, high = ends(low, high, from_zero and not logarithmic)
    if logarithmic:
        pad = (high - low) * 0.04
        return Axis(low - pad, high + pad, logarithmic_ticks(low - pad, high + pad, (rows + 1) // 2))
    return _even(low, high, rows)


def _even(low: float, high: float, rows: int) -> Axis:
    """The closest axis on which every k-th row is exactly a round number, 2 <= k <= 6."""
    power = 10.0 ** math.floor(math.log10((high - low) / rows))
    spaces = [k for k in range(2, 7) if rows / 8 <= k <= max(2, rows / 2)] or [6]
    sizes = [(digit * power, k) for digit in (1, 2, 2.5, 5, 10, 20, 25, 50, 100) for k in spaces]
    for size, k in sorted(sizes, key=lambda pair: pair[0] / pair[1]):
        row = size / k
        bottom = math.floor(low / row + 1e-9) * row
        top = bottom + row * (rows - 1)
        if top >= high - 1e-9 * row:
            break
    # The middle of a row of cells lies between its second and third dot.
    half = 0.375 * row
    return Axis(bottom - half, top + half, multiples(bottom - half, top + half, size))


def _foot(axis: Axis, columns: int) -> str:
    """The axis of the steps, its labels laid into the line."""
    line = ["─"] * columns
    free = 0
    for value, label in axis.ticks:
        start = round(axis.share(value) * (columns - 1)) - len(label) // 2
        start = min(max(start, 0), columns - len(label))
        if start >= free:
            line[start : start + len(label)] = label
            free = start + len(label) + 2
    return "".join(line)
