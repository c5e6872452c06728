"""Numbers about a run that its log does not hold: how the loss goes, how long it will take, where the seconds go.

The trend is what the doctor looks at (`luthier.doctor.statistics`): a Theil-Sen slope over the last two fifths of the
log lines, and the interval that holds it with about 95 % certainty. Where 0 lies in it the loss counts as level.

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

from luthier.doctor.statistics import latest, noise
from luthier.doctor.statistics import trend as slope_of
from luthier.events.types import Timing
from luthier.monitor.state import Point, RunState

TIME_LINES = 50
_SIGMAS = 2.0
_LEAST_LINES = 5
_LARGEST = 1e30

Direction = Literal["falling", "rising", "level"]

OUTSTANDING = "outstanding"
WELL_TRAINED, FAR_ABOVE = 0.5, 0.3
"""A loss below the first, with an eval loss that lies higher by the second, is that of rows known by heart."""

BANDS: tuple[tuple[float, str, str], ...] = (
    (2.5, "above 2.5", "very bad, as at the start"),
    (1.5, "1.5 to 2.5", "getting better"),
    (1.0, "1.0 to 1.5", "good progress"),
    (0.5, "0.5 to 1.0", "very good"),
    (0.3, "0.3 to 0.5", "excellent: well trained"),
    (-math.inf, "below 0.3", f"{OUTSTANDING}; overfitting?"),
)
"""(lower end, range, words) of the guide's bands of the loss, worst first. A rule of thumb for code and models of
about a billion parameters; another vocabulary or other rows shift them."""

PAIR_BANDS: tuple[tuple[float, str, str], ...] = (
    (0.72, "above 0.72", "worse than chance"),
    (0.66, "0.66 to 0.72", "chance, as at the start"),
    (0.5, "0.5 to 0.66", "begins to tell them apart"),
    (0.3, "0.3 to 0.5", "tells most pairs apart"),
    (0.1, "0.1 to 0.3", "tells pairs well apart"),
    (-math.inf, "below 0.1", "all told apart; by heart?"),
)
"""The same of a run that learns from pairs of answers, without label smoothing. 0.693 is chance, whatever the rows."""


@dataclass(frozen=True)
class LossTrend:
    """The losses of the latest log lines: their mean, and where they go."""

    mean: float
    spread: float
    """Standard deviation of a log line around the curve, without what single wild ones add."""
    steps: int
    """From the first of them to the last."""
    slope: float
    """Change of the loss a step."""
    low: float
    high: float
    """The slope lies between them with about 95 % certainty."""

    @property
    def direction(self) -> Direction:
        """Where the loss goes."""
        return "falling" if self.high < 0 else "rising" if self.low > 0 else "level"

    @property
    def unit(self) -> int:
        """Steps for which a change is told: not more than were seen."""
        return min(100, self.steps)

    def change(self, slope: float) -> str:
        """What a slope comes to in `unit` steps."""
        return f"{self.unit * slope:+.2g}".replace("-", "−")


@dataclass(frozen=True)
class Remaining:
    """Seconds until the last step, give or take `margin` (NaN: too few log lines to tell)."""

    seconds: float
    margin: float


def trend(points: Sequence[Point]) -> LossTrend | None:
    """The trend of the latest finite losses; None where they are too few to tell: fewer than six."""
    seen = latest([point for point in points if usable(point.loss)])
    found = slope_of([(point.step, point.loss) for point in seen], _SIGMAS)
    if not math.isfinite(found.high - found.low):
        return None
    losses = [point.loss for point in seen]
    steps = seen[-1].step - seen[0].step
    return LossTrend(statistics.fmean(losses), noise(losses), steps, found.slope, found.low, found.high)


def timed_lines(state: RunState) -> list[Point]:
    """The latest log lines with step times, of this attempt: an earlier one may have had another machine."""
    return [p for p in state.recent if p.step > state.first_step and usable(p.step_seconds)][-TIME_LINES:]


def step_times(state: RunState) -> tuple[float, float]:
    """Mean and standard deviation of the latest step times, in seconds; NaN where there are too few."""
    times = [point.step_seconds for point in timed_lines(state)]
    if not times:
        return math.nan, math.nan
    return statistics.fmean(times), deviation(times) if len(times) > 1 else math.nan


def elapsed(state: RunState, now: float) -> float:
    """Seconds since this attempt began; when it is over, as it says, or as long as it was; NaN where nobody knows."""
    if state.finished is not None:
        if state.finished.train_runtime > 0:
            return state.finished.train_runtime
        now = state.updated
    return max(0.0, now - state.started) if state.updated > state.started > 0 else math.nan


def time_left(state: RunState, now: float) -> Remaining | None:
    """How long the run still takes, counted down from its latest log line; None when nobody can tell.

    Before the first log line of an attempt: what was predicted before its first step.

    Args:
        state: The run.
        now: The moment, on the clock that the state was folded with.
    """
    log, remaining = state.log, state.total_steps - state.step
    if remaining < 0 or state.status not in ("starting", "training"):
        return None
    if log is None or not state.logged_at:
        if (forecast := state.forecast) is None:
            return None
        left = forecast.remaining_seconds - max(0.0, now - state.forecast_at)
        return Remaining(left, math.nan) if left > 0 else None  # it should have ended, and has not begun: nobody knows
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
    return Remaining(max(0.0, seconds - max(0.0, now - state.logged_at)), margin)


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


def centred(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and up to `reach` usable ones on both sides, as many on each; NaN where there is none.

    It does not lag behind the values as `smooth` does, and needs those that come after.
    """
    means = []
    for index in range(len(values)):
        side = min(reach, index, len(values) - 1 - index)
        seen = [value for value in values[index - side : index + side + 1] if usable(value)]
        means.append(math.fsum(seen) / len(seen) if seen else math.nan)
    return means


def band(loss: float, pairs: bool = False) -> tuple[str, str]:
    """(range, words) of the guide for a loss: of tokens, or of pairs of answers."""
    if not math.isfinite(loss):
        return "no number", "broken: the loss is not a number"
    return next((span, words) for low, span, words in (PAIR_BANDS if pairs else BANDS) if loss >= low)


def in_words(loss: float, evaluated: float | None, pairs: bool = False) -> tuple[str, ...]:
    """The guide's words for a loss, longest form first; what held-out rows say answers its question of overfitting.

    Args:
        loss: Where the training loss stands.
        evaluated: The latest eval loss; None: there is none.
        pairs: Whether both are those of pairs of answers.
    """
    words = band(loss, pairs)[1]
    if pairs:
        return _pairs_in_words(words, loss, evaluated)
    if evaluated is None or not usable(evaluated) or not usable(loss) or loss >= WELL_TRAINED:
        return (words,)
    seen, here = f"eval {evaluated:.2g}", f"{loss:.2g}"
    if evaluated - loss > FAR_ABOVE:
        return f"learned by heart: {seen} beside {here}", f"by heart: {seen} beside {here}", f"by heart: {seen}"
    if loss >= BANDS[-2][0]:
        return (words,)
    if evaluated < BANDS[-2][0] or evaluated - loss < FAR_ABOVE / 3:
        return f"{OUTSTANDING}, and it carries over: {seen}", f"{OUTSTANDING}, {seen} too", f"good: {seen} too"
    return f"{OUTSTANDING}; less so on held-out rows: {seen}", f"{OUTSTANDING}; {seen}", f"{here}; {seen}"


def _pairs_in_words(words: str, loss: float, evaluated: float | None) -> tuple[str, ...]:
    """As `in_words`; a held-out loss near chance beside a low one is that of pairs known by heart."""
    if evaluated is None or not usable(evaluated) or not usable(loss):
        return (words,)
    seen, here = f"eval {evaluated:.2g}", f"{loss:.2g}"
    if loss < PAIR_BANDS[2][0] and evaluated >= PAIR_BANDS[1][0]:
        return f"learned by heart: {seen} beside {here}", f"by heart: {seen} beside {here}", f"by heart: {seen}"
    if loss >= PAIR_BANDS[-2][0]:
        return (words,)
    if evaluated < PAIR_BANDS[3][0]:
        return f"all told apart, and it carries over: {seen}", f"all told apart, {seen} too", f"good: {seen} too"
    return f"all told apart; less so held-out ones: {seen}", f"all told apart; {seen}", f"{here}; {seen}"


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least two values (that of `statistics` is exact, and ten times as slow)."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def usable(value: float) -> bool:
    """Whether one can calculate with it: a number, and so small that no sum of squares overflows."""
    return -_LARGEST < value < _LARGEST  # neither holds for NaN


def _known(value: float) -> float:
    return value if usable(value) and value > 0 else 0.0
