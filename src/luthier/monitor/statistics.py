"""Numbers about a run that its log does not hold: how the loss goes, how long it will take, where the seconds go.

The trend is a least-squares line through the losses of the latest log lines, loss = a + b step. Its standard error

    SE(b) = spread / sqrt(sum (step - mean step)^2),    spread = sqrt(sum residual^2 / (n - 2))

tells a slope from chance: within 2 SE of zero the loss counts as level.

The time left is N steps at the mean of the latest step times. If these vary with the deviation s from one log interval
(k steps) to the next, and n of them were seen, the sum of the N / k that come, and the mean itself, are off by

    2 N s sqrt(k / N + 1 / n)         (about 95 %, as long as the intervals go on to vary as they did)

Not covered: whether a number is healthy (`luthier.doctor`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luthier.events.types import Timing
from luthier.monitor.state import Point, RunState

TREND_LINES = 100
TIME_LINES = 50
_LEAST_LINES = 5
_LARGEST = 1e30

Direction = Literal["falling", "rising", "level"]

BANDS: tuple[tuple[float, str, str], ...] = (
    (2.5, "above 2.5", "very bad, as at the start"),
    (1.5, "1.5 to 2.5", "getting better"),
    (1.0, "1.0 to 1.5", "good progress"),
    (0.5, "0.5 to 1.0", "very good"),
    (0.3, "0.3 to 0.5", "excellent: well trained"),
    (-math.inf, "below 0.3", "outstanding; overfitting?"),
)
"""(lower end, range, words) of the guide's bands of the loss, worst first. A rule of thumb for code and models of
about a billion parameters; another vocabulary or other rows shift them."""


@dataclass(frozen=True)
class Trend:
    """The latest losses: `count` of them, their mean, and the line through them."""

    count: int
    mean: float
    slope: float
    """Change of the loss a step."""
    slope_error: float
    """Its standard error."""
    spread: float
    """Standard deviation of the losses around the line."""
    steps: int
    """From the first of them to the last."""

    @property
    def direction(self) -> Direction:
        """Where the loss goes; level within two standard errors."""
        if abs(self.slope) <= 2 * self.slope_error:
            return "level"
        return "falling" if self.slope < 0 else "rising"


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last step, give or take `margin` (NaN: too few log lines to tell)."""

    seconds: float
    margin: float


def trend(points: Sequence[Point]) -> Trend | None:
    """The trend of the latest `TREND_LINES` finite losses; None with fewer than five, or all at one step."""
    seen = [point for point in points if usable(point.loss)][-TREND_LINES:]
    if len(seen) < _LEAST_LINES or seen[0].step == seen[-1].step:
        return None
    steps, losses = [float(point.step) for point in seen], [point.loss for point in seen]
    slope, start = statistics.linear_regression(steps, losses)
    residual = math.fsum((loss - start - slope * step) ** 2 for step, loss in zip(steps, losses, strict=True))
    middle = statistics.fmean(steps)
    spread = math.sqrt(residual / (len(seen) - 2))
    error = spread / math.sqrt(math.fsum((step - middle) ** 2 for step in steps))
    return Trend(len(seen), statistics.fmean(losses), slope, error, spread, seen[-1].step - seen[0].step)


def timed_lines(state: RunState) -> list[Point]:
    """The latest log lines with step times, of this attempt: an earlier one may have had another machine."""
    return [p for p in state.recent if p.step > state.first_step and usable(p.step_seconds)][-TIME_LINES:]


def elapsed(state: RunState, now: float) -> float:
    """Seconds since this attempt began; NaN where its log has no times."""
    return max(0.0, now - state.started) if state.updated > state.started > 0 else math.nan


def time_left(state: RunState, now: float) -> TimeLeft | None:
    """How long the run still takes, counted down from its latest log line; None when nobody can tell.

    Args:
        state: The run.
        now: The moment, on the clock that the state was folded with.
    """
    log, remaining = state.log, state.total_steps - state.step
    if log is None or not state.logged_at or remaining < 0 or state.status not in ("starting", "training"):
        return None
    lines = timed_lines(state)
    times = [point.step_seconds for point in lines]
    seconds = log.remaining_seconds
    if not math.isfinite(seconds):
        if not times or not state.total_steps:
            return None
        seconds = remaining * statistics.fmean(times)
    margin = math.nan
    if len(times) >= _LEAST_LINES and lines[-1].step > lines[0].step:
        interval = (lines[-1].step - lines[0].step) / (len(lines) - 1)
        more = max(1.0, remaining / interval)
        margin = 2 * remaining * deviation(times) * math.sqrt(1 / more + 1 / len(times))
    return TimeLeft(max(0.0, seconds - max(0.0, now - state.logged_at)), margin)


def shares(timings: Sequence[Timing]) -> tuple[tuple[str, float], ...]:
    """(part of a step, its share of the seconds) over some timings, in the order of a step; empty: unknown."""
    parts = ["data", "forward", "backward", "optimizer", "other"]
    parts += ["ranks"] * any(timing.ranks_seconds for timing in timings)
    seconds = [math.fsum(_known(getattr(timing, f"{part}_seconds")) for timing in timings) for part in parts]
    total = math.fsum(seconds)
    return tuple((part, value / total) for part, value in zip(parts, seconds, strict=True)) if total > 0 else ()


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """The exponential mean s <- s + a (value - s) at each value; the first 1/a count alike; NaN leaves it as it is."""
    smoothed, seen, means = math.nan, 0, []
    for value in values:
        if usable(value):
            seen += 1
            smoothed = value if seen == 1 else smoothed + max(weight, 1 / seen) * (value - smoothed)
        means.append(smoothed)
    return means


def band(loss: float) -> tuple[str, str]:
    """(range, words) of the guide for a loss."""
    if not math.isfinite(loss):
        return "no number", "broken: the loss is not a number"
    return next((span, words) for low, span, words in BANDS if loss >= low)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least two values (that of `statistics` is exact, and ten times as slow)."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def usable(value: float) -> bool:
    """Whether one can calculate with it: a number, and so small that no sum of squares overflows."""
    return -_LARGEST < value < _LARGEST  # neither holds for NaN


def _known(value: float) -> float:
    return value if usable(value) and value > 0 else 0.0
