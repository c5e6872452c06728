"""Axes with labels at round numbers, for whoever draws curves: in dots of a terminal, or as a picture.

Not covered: the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Ticks = tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Axis:
    """What lies between two ends, and the values that get a label; on a logarithmic one all are logarithms."""

    low: float
    high: float
    ticks: Ticks

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def step_axis(low: float, high: float, ticks: int) -> Axis:
    """Whole steps, without a margin."""
    if low == high:
        return Axis(low - 0.5, high + 0.5, ((low, label(low, 1.0)),))
    size = max(1.0, nice((high - low) / ticks, (1, 2, 2.5, 5, 10) if high - low > 25 * ticks else (1, 2, 5, 10)))
    return Axis(low, high, multiples(low, high, size))


def value_axis(low: float, high: float, ticks: int, *, logarithmic: bool = False, from_zero: bool = False) -> Axis:
    """Ends with a margin, and about so many labels; with `logarithmic` the values are logarithms already."""
    low, high = ends(low, high, from_zero and not logarithmic)
    pad = (high - low) * 0.04
    if logarithmic:
        return Axis(low - pad, high + pad, logarithmic_ticks(low - pad, high + pad, ticks))
    bottom = low if from_zero and low == 0 else low - pad
    return Axis(bottom, high + pad, multiples(bottom, high + pad, nice((high - low) / ticks)))


def ends(low: float, high: float, from_zero: bool) -> tuple[float, float]:
    """The ends of an axis: never the same value, and with 0 between them where that is asked."""
    if from_zero:
        low, high = min(0.0, low), max(0.0, high)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-30):
        pad = max(abs(high) * 0.1, 1e-12)
        low, high = low - pad, high + pad
    return low, high


def multiples(low: float, high: float, size: float) -> Ticks:
    """All multiples of `size` between the ends; the lower end where there is none."""
    first = math.ceil(low / size - 1e-9)
    values = [(first + index) * size for index in range(int((high - low) / size) + 2)]
    found = tuple((value, label(value, size)) for value in values if low <= value <= high)
    return found or ((low, label(low, size)),)


def logarithmic_ticks(low: float, high: float, ticks: int) -> Ticks:
    """Powers of ten, with 2 and 5 between them where there is room; round numbers within less than a decade."""
    if high - low < 1:
        least, most = 10**low, 10**high
        round_numbers = multiples(least, most, nice((most - least) / ticks))
        return tuple((math.log10(value), label) for value, label in round_numbers)
    digits = (1, 2, 5) if (high - low) * 3 <= ticks * 1.5 else (1,)
    every = math.ceil((high - low) / ticks)
    least, most = max(math.floor(low), -307), min(math.ceil(high), 308)  # beyond, powers are 0 or no numbers
    powers = (power for power in range(least, most + 1) if power % every == 0)
    values = (digit * 10.0**power for power in powers for digit in digits)
    found = tuple((math.log10(value), label(value, 0.0)) for value in values if low <= math.log10(value) <= high)
    return found or ((low, label(10.0**low, 0.0)),)


def nice(size: float, digits: Sequence[float] = (1, 2, 5, 10)) -> float:
    """The least of these digits times a power of ten that is not below `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return float(next(digit for digit in digits if digit * power >= size * (1 - 1e-9)) * power)


def label(value: float, size: float) -> str:
    """A number as short as the distance of the ticks allows; `size` 0: by itself."""
    if value == 0:
        return "0"
    if abs(value) >= 1e4 or (size and size < 1e-3) or abs(value) < 1e-3:
        for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= scale and abs(value) < 1e12:
                return f"{value / scale:.4g}{unit}"
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    decimals = next(places for places in range(6) if abs(round(size, places) - size) <= 1e-9 * size)
    return f"{value:,.{decimals}f}" if size else f"{value:g}"
