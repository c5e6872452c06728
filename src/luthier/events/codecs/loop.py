r"""Which step a line belongs to that was printed past a progress bar.

To print, tqdm clears the bar with spaces, writes the line, and draws the bar again, at the step of that moment:

    \r 17%|██ | 2/12 […] \r          \r {'loss': …}\n \r 17%|██ | 2/12 […]      as it is printed
    \r 17%|██ | 2/12 […] \r          \r               \r 17%|██ | 2/12 […]      with stdout redirected:
    \r 33%|███| 4/12 […] \r          \r {'loss': …}\n{'loss …                    the lines come later, in blocks

So each bar after spaces is the mark of one line, and the n-th line belongs to the n-th mark, whether the line comes
before its mark or long after it. A line without a mark belongs to the latest bar.

Not covered: a program that prints other lines through tqdm into the same, buffered stream.
Source: tqdm 4.67 `std.py`, `external_write_mode`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.events.codecs.progress import Bar, parse_bar

_CLEARED = 8
_CLEARED_AND_DRAWN = b" \r\r"
_MOST = 100_000

Values = Mapping[str, Any]
Placed = tuple[Values, Bar]


class Loop:
    """The bar of the training loop, and the lines and marks that wait for each other.

    Attributes:
        bar: As it was drawn last; None before it was drawn.
        torn: The start of a line has just come, the rest of it will come in another block.
    """

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.torn = False
        self._cleared = False
        self._printed = False
        self._moved = False
        self._late = False
        self._marks: deque[Bar | bytes] = deque(maxlen=_MOST)
        self._lines: deque[Values] = deque()

    @property
    def waits(self) -> bool:
        """Whether a line waits for its mark."""
        return bool(self._lines)

    @property
    def moved(self) -> bool:
        """Whether a bar says that one more line is due: it was cleared or drawn since the last one, or then had one."""
        return self._moved or bool(self._marks)

    def clear(self, spaces: str) -> None:
        """The bar was overwritten with spaces."""
        if len(spaces) >= _CLEARED:
            self._cleared, self._printed, self._moved = True, False, True

    def text(self) -> None:
        """Something else was printed; where it came after spaces, the next bar is its mark."""
        self._cleared = False

    def draw(self, bar: Bar) -> list[Placed]:
        """The bar was drawn; the lines that have their place thereby."""
        placed: list[Placed] = []
        if self.bar is not None and (bar.step == 0 or bar.total != self.bar.total):
            # Another loop. What its predecessor printed and never wrote out is lost.
            placed += self.flush()
            self._marks.clear()
        self.bar, self._moved = bar, True
        if self._cleared:
            if self.torn:
                # The mark is that of the torn line, not of the one before it, which never had one.
                placed += self.flush()
            if self.torn or self._printed:
                # All lines before have come: marks that are left are of nothing that comes here.
                self._marks.clear()
            self.torn = False
            self._cleared = False
            self._marks.append(bar)
        while self._lines and self._marks:
            placed += self._place(self._lines.popleft())
        return placed

    def print(self, values: Values) -> list[Placed]:
        """A line has come; the lines that have their place thereby. There has to be a bar."""
        self._printed, self._moved = True, False
        if self._marks:
            self._late = True
            return self._place(values)
        self._late = False
        if not self._cleared:
            assert self.bar is not None
            return [(values, self.bar)]
        placed = self.flush()
        self._lines.append(values)
        return placed

    def flush(self) -> list[Placed]:
        """The lines that wait, at the latest bar."""
        lines, self._lines = self._lines, deque()
        return [(values, self.bar) for values in lines if self.bar is not None]

    def forget(self) -> None:
        """A part of the log was passed over."""
        self._cleared = self.torn = False
        self._marks.clear()
        self._lines.clear()

    def skip(self, lines: Sequence[bytes]) -> None:
        """So many lines are passed over, with what was drawn before each; where lines come late their marks count."""
        if not self._late:
            self._cleared = False
            self._marks.clear()
            return
        for line in lines:
            if b"\r" in line:
                if line.startswith(b"{"):
                    self._marks.clear()
                self._skip_bars(line)
            if self._marks:
                self._marks.popleft()
            else:
                # The next mark would be this line's.
                self._cleared = False

    def _skip_bars(self, line: bytes) -> None:
        first, *marks = line.split(_CLEARED_AND_DRAWN)
        if self._cleared and b"%|" in first:
            self._marks.append(first)
        self._marks.extend(marks)
        self._cleared = line.rpartition(b"\r")[0].endswith(b" " * _CLEARED)

    def _place(self, values: Values) -> list[Placed]:
        mark: Bar | bytes | None = self._marks.popleft()
        if isinstance(mark, bytes):
            drawn = next((segment for segment in mark.split(b"\r") if b"%|" in segment), b"")
            mark = parse_bar(drawn.decode("utf-8", "replace")) or self.bar
        return [(values, mark)] if mark else []
