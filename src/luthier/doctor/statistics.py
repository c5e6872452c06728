"""Robust statistics: numbers that a few wild values do not move.

    noise    typical b - (a + c) / 2 of neighbours a, b, c, x sqrt(2/3) x 1.4826 (for normal values the standard
             deviation): what no straight line explains
    trend    Theil-Sen: the median of the slopes of all pairs, with Sen's interval (Kendall 1970): the slope lies in it
             with the given certainty, whatever the distribution of the noise
    latest   the last two fifths of a curve: where it goes now, whatever it did at the beginning

Everything is plain Python: a few hundred numbers at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TypeVar

__all__ = ["Trend", "latest", "median", "noise", "trend"]

NORMAL = 1.4826
"""Standard deviations in a median distance, of normal values."""
MOST_POINTS = 48
"""Longer curves are first cut into so many pieces, each its median: 48 points have 1,128 slopes, a millisecond."""
LATEST, FEWEST_LATEST = 0.4, 12

_T = TypeVar("_T")


def noise(values: Sequence[float]) -> float:
    """Robust standard deviation of one value around a smooth curve; 0 for fewer than four values."""
    bends = [abs(b - (a + c) / 2) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return NORMAL * median(bends) * math.sqrt(2 / 3) if len(bends) > 1 else 0.0


def latest(curve: Sequence[_T]) -> Sequence[_T]:
    """The last two fifths of the points of a curve, at least 12 of them."""
    return curve[-max(FEWEST_LATEST, round(LATEST * len(curve))) :]


@dataclass(frozen=True)
class Trend:
    """A slope and the interval that holds it; infinite where the points are too few to say."""

    slope: float
    low: float
    high: float


def trend(points: Sequence[tuple[float, float]], sigmas: float = 3.0) -> Trend:
    """Slope of y over x.

    Args:
        points: (x, y), x rising.
        sigmas: Half width of the interval, in standard deviations of Kendall's statistic; 3 is wrong once in 370.
    """
    points = binned(points)
    n = len(points)
    slopes = sorted((y2 - y1) / (x2 - x1) for i, (x1, y1) in enumerate(points) for x2, y2 in points[i + 1 :] if x2 > x1)
    if not slopes:
        return Trend(0.0, -math.inf, math.inf)
    width = sigmas * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first, last = math.floor((len(slopes) - width) / 2), math.ceil((len(slopes) + width) / 2)
    low = slopes[first] if first >= 0 else -math.inf
    high = slopes[last] if last < len(slopes) else math.inf
    return Trend(median(slopes), low, high)


def binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: pieces of equal length, each its median."""
    count = len(points)
    if count <= MOST_POINTS:
        return list(points)
    edges = [round(i * count / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    pieces = [points[a:b] for a, b in pairwise(edges)]
    return [(median(x for x, _ in piece), median(y for _, y in piece)) for piece in pieces]
