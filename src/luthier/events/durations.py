"""Seconds, of durations and of the clock, as people say them, and back."""

from __future__ import annotations

import math
import re
import time

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"\d[\d,]{0,24}(?:\.\d{1,9})?"
_MOMENT = "%Y-%m-%d %H:%M"
_PART = re.compile(rf"({_NUMBER}) (s|min|h|d)")
DURATION = rf"(?:{_NUMBER} (?:s|min|h|d)(?: \d\d (?:s|min|h))?|–)"
"""What `duration` and `each` write, as a pattern without groups."""


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`; a dash when it is not known."""
    if not math.isfinite(seconds) or seconds < 0:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400:,} d {whole % 86400 // 3600:02} h"


def each(seconds: float) -> str:
    """The same of one of many: below 10 s with two digits, as `2.1 s` and `0.034 s`."""
    if not 0 <= seconds < 9.95:
        return duration(seconds)
    decimals = 1 if seconds >= 0.95 or not seconds else 1 - math.floor(math.log10(seconds))
    return f"{seconds:.{min(decimals, 9)}f} s"


def seconds_of(text: str) -> float:
    """What `duration` and `each` write, as seconds again; nan for what they do not write."""
    parts = _PART.findall(text)
    return sum(float(number.replace(",", "")) * _UNITS[unit] for number, unit in parts) if parts else math.nan


def moment(seconds: float) -> str:
    """Epoch seconds as `2026-01-31 16:40`, by the clock here; a dash for what is no date."""
    try:
        return time.strftime(_MOMENT, time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "–"


def seconds_at(text: str) -> float:
    """What `moment` writes, as epoch seconds again; nan for what it does not write."""
    try:
        return time.mktime(time.strptime(text, _MOMENT))
    except (ValueError, OverflowError):
        return math.nan
