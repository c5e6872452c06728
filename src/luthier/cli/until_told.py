"""Going on until Ctrl-C or SIGTERM, both of which are the ordinary end of what only watches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def until_told() -> Iterator[None]:
    """What is inside is ended by either signal, and what comes behind it is done; in the main thread."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End like Ctrl-C, so that a terminal is given back as it was."""
    raise KeyboardInterrupt
