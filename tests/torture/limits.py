"""Bounds of one trial, and what an error must look like; shared by the suites of damaged files."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterator
from typing import Any

from luthier.errors import LuthierError

LONGEST_SECONDS = 60
"""Far more than any trial needs, on a machine that does much else besides."""


def bad_form(error: LuthierError, *, with_place: bool = False) -> str:
    """What is wrong with the form of an error: every problem has what was found and a fix, in clean text."""
    for problem in error.problems:
        text = problem.render()
        if not (problem.found and problem.fix and (problem.where or not with_place)):
            return f"a part is missing: {problem}"
        if not all(line.isprintable() for line in text.split("\n")) or len(text) > 2500:
            return f"not fit for a screen: {text!r}"
    return "" if error.problems and error.exit_code in (2, 3) else "no problem"


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class TookTooLongError(Exception):
    """The alarm of `limited`."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TookTooLongError` when the block takes longer; an alarm that was set before goes on afterwards."""

    def ring(*_: Any) -> None:
        raise TookTooLongError

    handler, started = signal.signal(signal.SIGALRM, ring), time.monotonic()
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.1, left - (time.monotonic() - started)))
