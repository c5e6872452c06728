"""Runs that are loaded side by side and train one after the other: `PLACE.awaited` by a run, `PLACE.given` to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

VARIABLE = "LUTHIER_BENCH_TURN"
"""Environment variable of a run that waits: the place."""
_T = TypeVar("_T")


class Turn:
    """The turn of one run.

    Args:
        place: Files are named after it; none is there yet.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._awaited, self._given = (place.with_name(f"{place.name}.{end}") for end in ("awaited", "given"))
        for file in (self._awaited, self._given):
            file.unlink(missing_ok=True)
        self._began = time.time()

    @property
    def is_awaited(self) -> bool:
        """Whether the run is loaded and waits."""
        return self._awaited.is_file()

    def taken(self, run: Future[tuple[_T, float]]) -> tuple[_T, float]:
        """Give the turn: what the run returns, and the seconds that it loaded and trained, without those it waited."""
        loaded = self._awaited.stat().st_mtime - self._began if self.is_awaited else 0.0
        given = time.time()
        self._given.touch()
        found, _ = run.result()
        return found, loaded + time.time() - given


def wait_for_turn(sleep: Callable[[float], None] = time.sleep) -> None:
    """In a run: go on when it has its turn; at once where it is not told to wait."""
    if place := os.environ.get(VARIABLE):
        Path(f"{place}.awaited").touch()
        while not Path(f"{place}.given").is_file():
            sleep(0.05)
