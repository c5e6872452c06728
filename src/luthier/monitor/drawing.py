"""Small drawings and numbers in text: sparkline, bar, duration, count."""

from __future__ import annotations

import math
from collections.abc import Sequence

ACCENT = "cyan"
BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of at most `width` characters: each the mean of its share of the values, lowest block = least value.

    A share without a finite value is a blank.
    """
    if not values or width < 1:
        return ""
    width = min(width, len(values))
    means = []
    for column in range(width):
        share = values[column * len(values) // width : (column + 1) * len(values) // width]
        finite = [value for value in share if math.isfinite(value)]
        means.append(math.fsum(value / len(finite) for value in finite) if finite else math.nan)
    seen = [mean for mean in means if math.isfinite(mean)]
    if not seen:
        return " " * width
    low, high = min(seen), max(seen)
    # Halved, so that the span of two huge values of unlike sign does not overflow.
    span = high / 2 - low / 2
    levels = len(BLOCKS) - 1
    return "".join(
        " " if not math.isfinite(mean) else BLOCKS[round((mean / 2 - low / 2) / span * levels) if span > 0 else 0]
        for mean in means
    )


def bar(share: float, width: int) -> tuple[str, str]:
    """The full and the empty part of a bar of `width` characters, in halves of one; told apart without colour."""
    share = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    halves = round(share * width * 2)
    full = "━" * (halves // 2) + "╸" * (halves % 2)
    return full, "─" * (width - len(full))


def count(number: float) -> str:
    """`812`, `35.2 k`, `1.24 G`: three digits that can be read at a glance."""
    if not math.isfinite(number):
        return str(number)
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(number) >= size:
            scaled = number / (1e3 if unit == "k" else size)
            return f"{scaled:.2f} {unit}" if abs(scaled) < 10 else f"{scaled:,.1f} {unit}"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def epochs(done: float, total: float) -> tuple[str, str]:
    """How many are done and how many there will be, rounded alike: two decimals, more where that is most of it.

    The second is empty where it is not known.
    """
    known = math.isfinite(total) and total > 0
    places = 2 if not known or total >= 1 else min(9, 1 - math.floor(math.log10(total)))
    of = f"{total:.{places}f}" if known else ""
    return f"{done:.{places}f}", of.rstrip("0").rstrip(".") if "." in of else of


def decimal(number: float) -> str:
    """A loss or a length: four decimals, few enough digits to read."""
    if not math.isfinite(number):
        return str(number)
    return f"{number:.4f}" if abs(number) < 1e3 else f"{number:.4g}"
