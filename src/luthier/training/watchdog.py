"""Says where a run hangs: the stacks of all threads, written to a file of the run when something takes far too long.

A step, an evaluation or a save that takes longer than `hang_seconds` and `USUAL` times what it took so far is taken
for hanging. Python's own faulthandler writes the stacks from a thread that needs neither the interpreter nor its lock,
so a call that never comes back is seen too. Nothing is killed: a slow disk or a busy GPU may still come back.

Not covered: processes on other machines.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from luthier.events.types import Notice
from luthier.machine.ranks import of_rank

STACKS = "stacks.log"
USUAL = 20.0
"""Times what the slowest one so far took."""
_CLOCKS_STEP = 1.0  # seconds; faulthandler's clock and ours need not agree to the last


class Watchdog:
    """Watches one thing at a time."""

    def __init__(self, output_dir: Path, hang_seconds: float) -> None:
        self._path, self._least = output_dir / of_rank(STACKS), hang_seconds
        self._slowest: dict[str, float] = {}
        self._file: TextIO | None = None
        self._said: Notice | None = None

    @contextmanager
    def watching(self, what: str, step: int) -> Iterator[None]:
        """Watch the block. 0 seconds: never."""
        if not self._least or (file := self._open()) is None:
            yield
            return
        limit = max(self._least, USUAL * self._slowest.get(what, 0.0))
        started, written = time.monotonic(), file.tell()
        faulthandler.dump_traceback_later(limit, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            seconds = time.monotonic() - started
            if seconds > limit - _CLOCKS_STEP and self._size() > written:
                text = f"{what} took {seconds:,.0f} s; where every thread was after {limit:,.0f} s is in {self._path}"
                self._said = Notice("warning", text, step=step)
            self._slowest[what] = max(self._slowest.get(what, 0.0), seconds)

    def said(self) -> Iterator[Notice]:
        """What was noticed since the last call."""
        if self._said:
            yield self._said
            self._said = None

    def close(self) -> None:
        """Close the file; an empty one is deleted."""
        if self._file:
            self._file.close()
            if not self._size():
                self._path.unlink(missing_ok=True)

    def _size(self) -> int:
        """Bytes in the file; 0 when somebody has deleted it."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def _open(self) -> TextIO | None:
        """The file; None where it cannot be written, which is no reason to lose a run."""
        if self._file is None:
            try:
                self._file = self._path.open("a", encoding="utf-8")
            except OSError:
                self._least = 0
        return self._file
