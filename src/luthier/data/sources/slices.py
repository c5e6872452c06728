"""Slices of a local file: `train`, `train[:500]`, `train[10%:20%]`, `train[-100:]`; the syntax of `datasets`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from luthier.data.problems import refuse

_SLICE = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclass(frozen=True)
class Slice:
    """The split, and bounds as written; ``None`` is open."""

    split: str
    start: str | None
    stop: str | None

    @property
    def needs_total(self) -> bool:
        """Whether the number of rows must be known first."""
        return any(bound[0] == "-" or bound[-1] == "%" for bound in (self.start, self.stop) if bound)

    def bounds(self, total: int) -> tuple[int, int]:
        """First row and the one after the last, of `total` rows; percentages are rounded to whole rows."""
        return self._row(self.start, 0, total), self._row(self.stop, total, total)

    @staticmethod
    def _row(bound: str | None, default: int, total: int) -> int:
        if bound is None:
            return default
        row = round(int(bound[:-1]) * total / 100) if bound.endswith("%") else int(bound)
        return max(0, min(total, row + total if row < 0 else row))


def parse_slice(split: str, where: str) -> Slice:
    """Read the name of a split, or a slice of it.

    Raises:
        DataError: It is neither.
    """
    match = _SLICE.fullmatch(split.strip())
    if match is None or any(len(match[key] or "") > 15 for key in ("start", "stop")):
        raise refuse("E-DATA-005", f'cannot read the split "{split}"', "write `train` or `train[10%:20%]`", where)
    return Slice(match["name"], match["start"], match["stop"])
