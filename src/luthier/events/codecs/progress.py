"""The progress bar of a training loop, as tqdm draws it: ` 17%|█▋        | 2/12 [00:05<00:40,  2.1it/s]`.

Bars with a name before the percentage (`Map: 100%|…`, `Loading weights: …`) are other work and are not read.
Source: tqdm 4.67 `std.py`, `format_meter`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_BAR = re.compile(
    r"\s*\d{1,3}%\|?[^|\[]{0,400}\|? {0,20}(\d{1,18})/(\d{1,18}) "
    r"\[([\d:]{4,20})<(\?|[\d:]{4,20}),\s*((?:\?|[\d.]{1,20})(?:it/s|s/it))[^\]\r\n]{0,400}\]"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One drawing of the bar.

    Attributes:
        step, total: Done, and to do.
        end: Where the bar ends in the text.
    """

    step: int
    total: int
    end: int
    _elapsed: str
    _left: str
    _rate: str

    @property
    def elapsed(self) -> float:
        """Seconds since the loop began; nan where the bar does not say."""
        return seconds_of(self._elapsed)

    @property
    def remaining(self) -> float:
        """Seconds until it ends."""
        return seconds_of(self._left)

    @property
    def step_seconds(self) -> float:
        """Seconds a step, smoothed by tqdm; nan before the first."""
        rate = _float(self._rate[:-4])
        return rate if self._rate.endswith("s/it") else 1 / rate if rate else math.nan


NO_BAR = Bar(0, 0, 0, "?", "?", "?it/s")


def parse_bar(text: str) -> Bar | None:
    """The bar at the start of a text; None where there is none, or where it is not yet whole."""
    match = _BAR.match(text)
    if match is None:
        return None
    step, total, elapsed, left, rate = match.groups()
    return Bar(int(step), int(total), match.end(), elapsed, left, rate)


def seconds_of(clock: str) -> float:
    """Seconds in `5:07`, `1:02:03` or `1 day, 2:03:04`; nan for what is no duration."""
    days, _, rest = clock.rpartition(" day")
    try:
        parts = [int(part) for part in rest.lstrip("s, ").split(":")]
        seconds = float(sum(part * 60**power for power, part in enumerate(reversed(parts))))
        return seconds + 86400.0 * int(days or 0)
    except (ValueError, OverflowError):
        return math.nan


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
