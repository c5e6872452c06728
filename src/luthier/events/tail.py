"""A file that grows: its new lines at each look, whatever happens to the file meanwhile.

    start           size
      |#####|. . # . . # . . # . .|########|
       head        backlog          tail

A last line without a line break is held back. A long backlog is marked as old, so that the reader may thin it; of one
that is longer than `BUDGET` only evenly spaced parts are read. A line of more than `LONGEST` bytes is passed over
without being held in memory. A file that was replaced (another inode), cut (smaller than what was read) or written
anew (other first bytes) is read from its start; before that the rest of a replaced one is read.

Not covered: a file that is cut and has grown past the old size with the same first bytes between two looks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 2**20
LONGEST = 16 * 2**20
WHOLE = 2 * 2**20
HEAD = 128 * 2**10
TAIL = 512 * 2**10
BUDGET = 512 * 2**20
_FIRST_BYTES = 256
_ENDS = 1024
_MOST_PIECES = 1024


@dataclass(frozen=True)
class Chunk:
    """Lines that are new.

    Attributes:
        lines: Whole lines without their line breaks.
        start, end: The first and the last bytes of the next line, which is not there whole yet.
        old: They belong to a long backlog.
        backlog: Bytes of that backlog that are read.
        share: Share of the backlog that is read at all.
        gap: Between these lines and those before there are others, which are passed over.
        fresh: The file is read from its start: for the first time, or again.
    """

    lines: list[bytes]
    start: bytes = b""
    end: bytes = b""
    old: bool = False
    backlog: int = 0
    share: float = 1.0
    gap: bool = False
    fresh: bool = False


class Tail:
    """Follows one file.

    Args:
        path: The file, which need not be there yet.
        whole: Read all of a long backlog, none of it marked as old.

    Attributes:
        trouble: Why there is nothing to read, in words; empty while the file can be read.
        changed: When the file was written last, in epoch seconds.
    """

    def __init__(self, path: Path, whole: bool = False) -> None:
        self.path = path
        self.trouble = ""
        self.changed = 0.0
        self._whole = whole
        self._file = -1
        self._identity = (0, 0)
        self._offset = 0
        self._first = b""
        self._fresh = True
        self._gap = False
        self._splitter = _Splitter()

    def chunks(self) -> Iterator[Chunk]:
        """What is new, in order; nothing where there is nothing. Never raises for the state of the file."""
        try:
            if not self._is_current():
                yield from self._grown()
                self._open()
            yield from self._grown()
            self.trouble = ""
        except (OSError, ValueError) as error:
            self.trouble = _words(error, self.path)
            self.close()

    @property
    def partial(self) -> bytes:
        """The last line, of which the line break is missing."""
        return self._splitter.partial()

    def forget_partial(self) -> None:
        """The last line was read although its line break is missing."""
        self._splitter.drop()

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_current(self) -> bool:
        """Whether the open file is the one that the path names."""
        if self._file < 0:
            return False
        try:
            there = self.path.stat()
        except FileNotFoundError:
            # Renamed by a rotation whose next file is yet to come: what is written to the old one still counts.
            return True
        return (there.st_dev, there.st_ino) == self._identity

    def _open(self) -> None:
        self.close()
        # O_NONBLOCK: opening a pipe would wait for its writer.
        self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        about = os.fstat(self._file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "not a file")
        if self._identity != (about.st_dev, about.st_ino):
            self._identity = (about.st_dev, about.st_ino)
            self._restart()

    def _restart(self) -> None:
        self._offset, self._first, self._fresh = 0, b"", True
        self._splitter = _Splitter()

    def _grown(self) -> Iterator[Chunk]:
        if self._file < 0:
            return
        about = os.fstat(self._file)
        self.changed = about.st_mtime
        if about.st_size < self._offset or os.pread(self._file, len(self._first), 0) != self._first:
            self._restart()
        if about.st_size == self._offset:
            return
        if len(self._first) < _FIRST_BYTES:
            self._first = os.pread(self._file, min(_FIRST_BYTES, about.st_size), 0)
        yield from self._read(about.st_size)

    def _read(self, size: int) -> Iterator[Chunk]:
        if not self._whole and size - self._offset > WHOLE:
            if self._offset == 0:
                yield from self._range(HEAD)
            yield from self._backlog(size - TAIL)
        yield from self._range(size)

    def _range(self, end: int) -> Iterator[Chunk]:
        while self._offset < end and (data := os.pread(self._file, min(CHUNK, end - self._offset), self._offset)):
            self._offset += len(data)
            fresh, self._fresh = self._fresh, False
            lines = self._splitter.feed(data)
            yield Chunk(lines, *self._splitter.ends(), fresh=fresh, gap=self._no_gap())

    def _backlog(self, end: int) -> Iterator[Chunk]:
        start, length = self._offset, end - self._offset
        windows = max(1, min(length, BUDGET) // CHUNK)
        share = 1.0 if length <= BUDGET else windows * CHUNK / length
        for window in range(windows):
            at = start + length * window // windows
            size = min(CHUNK, end - at) if share < 1 else start + length * (window + 1) // windows - at
            if at != self._offset:
                self._pass_over()
            data = os.pread(self._file, size, at)
            self._offset = at + len(data)
            lines = self._splitter.feed(data)
            yield Chunk(lines, old=True, backlog=round(length * share), share=share, gap=self._no_gap())
        if self._offset < end:
            self._pass_over()
            self._offset = end

    def _pass_over(self) -> None:
        self._splitter.drop(skipping=True)
        self._gap = True

    def _no_gap(self) -> bool:
        """Whether there was a gap; from now on there is none."""
        gap, self._gap = self._gap, False
        return gap


class _Splitter:
    """Cuts bytes into lines, in memory that does not grow with the length of a line."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`."""
        first, newline, rest = data.partition(b"\n")
        if not newline:
            self._keep(data)
            return []
        lines = rest.split(b"\n")
        last = lines.pop()
        if not self._skipping and self._size + len(first) <= LONGEST:
            lines.insert(0, b"".join((*self._pieces, first)))
        self.drop()
        self._keep(last)
        return lines

    def partial(self) -> bytes:
        """The unfinished line."""
        return b"".join(self._pieces)

    def ends(self) -> tuple[bytes, bytes]:
        """The first and the last bytes of the unfinished line."""
        return self._some(self._pieces)[:_ENDS], self._some(self._pieces[::-1], first=False)[-_ENDS:]

    @staticmethod
    def _some(pieces: list[bytes], first: bool = True) -> bytes:
        some = b""
        for piece in pieces:
            some = some + piece[:_ENDS] if first else piece[-_ENDS:] + some
            if len(some) >= _ENDS:
                break
        return some

    def drop(self, skipping: bool = False) -> None:
        """Forget the unfinished line; `skipping`: also what is yet to come of it."""
        self._pieces, self._size, self._skipping = [], 0, skipping

    def _keep(self, data: bytes) -> None:
        if self._skipping or not data:
            return
        self._pieces.append(data)
        self._size += len(data)
        if len(self._pieces) > _MOST_PIECES:
            self._pieces = [b"".join(self._pieces)]
        if self._size > LONGEST:
            # A bar that is redrawn for hours is one line; its last drawing is all that matters.
            _, found, last = self.partial().rpartition(b"\r")
            self.drop(skipping=not found or len(last) > LONGEST // 2)
            self._keep(last)


def _words(error: OSError | ValueError, path: Path) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"waiting for {path}"
    return f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
