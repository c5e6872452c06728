"""A log of lines, followed: the file, the format that its lines have, and what is left out of a long one.

The format is that of the first line that only one format has; until then the log is read as text. Held-back events
(a last line without its line break, a log step that waits for its progress bar) are told when the log has been quiet
for `QUIET_POLLS` looks.

A long backlog (`tail.WHOLE`) is thinned to `KEEP` log steps, evenly; of the other lines there the first `OTHERS` are
read whole, then as many as of the log steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from luthier.events.codecs.base import QUIET_POLLS, LineDecoder, Told
from luthier.events.codecs.factory import FactoryDecoder
from luthier.events.codecs.jsonl import RecordDecoder
from luthier.events.codecs.text import TextDecoder
from luthier.events.tail import Chunk, Tail

KEEP = 5_000
OTHERS = 10_000


class LineSource:
    """A log of lines.

    Args:
        path: The file.
        run: The name for a run that does not say its own.
        whole: Thin nothing.
    """

    def __init__(self, path: Path, run: str, whole: bool = False) -> None:
        self._tail = Tail(path, whole)
        self._run = run
        self._decoder: LineDecoder = TextDecoder(run)
        self._undecided = True
        self._quiet = 0
        self._every = 1
        self._share = 1.0
        self._logs = self._others = 0

    @property
    def words(self) -> str:
        """The format, and what was left out."""
        if self._tail.trouble:
            return self._tail.trouble
        thinned = f"; history: one log step in {self._every:,}" if self._every > 1 else ""
        part = f" of {self._share:.0%} of the file" if self._share < 1 else ""
        return f"{self._decoder.words}{thinned}{part}"

    def poll(self) -> list[Told]:
        """What is new; what was held back, once nothing has been new for `QUIET_POLLS` looks."""
        told: list[Told] = []
        grown = False
        for chunk in self._tail.chunks():
            grown = True
            told += self._decode(chunk)
        self._quiet = 0 if grown else self._quiet + 1
        if self._quiet == QUIET_POLLS:
            told += self._rest()
        return self._dated(told)

    def everything(self) -> Iterator[Told]:
        """What is there now, to its end; as it is read where the log has times of its own, else all at once."""
        undated: list[Told] = []
        for chunk in self._tail.chunks():
            told = self._decode(chunk)
            if self._decoder.wall_clock:
                yield from told
            else:
                undated += told
        yield from self._dated(undated + self._rest())

    def _rest(self) -> list[Told]:
        told: list[Told] = []
        partial = self._tail.partial
        if partial and self._decoder.is_whole(partial):
            self._tail.forget_partial()
            told += self._feed(partial)
        return told + self._decoder.flush()

    def close(self) -> None:
        """Close the file."""
        self._tail.close()

    def _decode(self, chunk: Chunk) -> list[Told]:
        if chunk.fresh:
            self._undecided = True
            if not isinstance(self._decoder, TextDecoder):
                self._decoder = TextDecoder(self._run)
        told: list[Told] = []
        if chunk.gap:
            self._decoder.gap()
        if chunk.old:
            self._thin(chunk, told)
        else:
            for line in chunk.lines:
                told += self._feed(line)
        if chunk.start:
            told += self._decoder.glimpse(chunk.start, chunk.end)
        return told

    def _thin(self, chunk: Chunk, told: list[Told]) -> None:
        if chunk.lines and self._logs == self._others == 0:
            lines = chunk.backlog * len(chunk.lines) / (1 + sum(map(len, chunk.lines)))
            self._every, self._share = max(1, math.ceil(lines / KEEP)), chunk.share
        marker, every = self._decoder.marker, self._every
        skipped: list[bytes] = []
        for line in chunk.lines:
            # A million times: nothing is called for a line that is left out.
            if marker in line:
                self._logs += 1
                if self._logs % every:
                    skipped.append(line)
                    continue
            else:
                self._others += 1
                if self._others > OTHERS and self._others % every:
                    self._decoder.gap()
                    continue
            if skipped:
                told += self._decoder.skip(skipped)
                skipped = []
            told += self._feed(line)
        if skipped:
            told += self._decoder.skip(skipped)

    def _feed(self, line: bytes) -> list[Told]:
        if self._undecided:
            self._decide(line)
        return self._decoder.feed(line)

    def _decide(self, line: bytes) -> None:
        if RecordDecoder.matches(line):
            self._decoder = RecordDecoder()
        elif FactoryDecoder.matches(line):
            self._decoder = FactoryDecoder(self._run)
        self._undecided = not self._decoder.sure

    def _dated(self, told: list[Told]) -> list[Told]:
        """With times of the wall clock, where the log has none of its own."""
        if self._decoder.wall_clock or not told:
            return told
        clock, later, dated = self._tail.changed, math.nan, []
        for item in reversed(told):
            if item.time <= later:
                clock -= later - item.time
            if not math.isnan(item.time):
                later = item.time
            dated.append(Told(item.event, clock, item.attempt))
        return dated[::-1]
