"""Long work in a thread, while the run stays able to speak and to stop.

Not covered: stopping the work itself. A stop leaves the thread behind, and the process ends without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from typing import TypeVar

from luthier.data.prepare import Progress
from luthier.events.types import Notice
from luthier.machine import ranks
from luthier.machine.pulse import BACKGROUND

_T = TypeVar("_T")
SAY_EVERY_SECONDS = 5.0


def in_background(work: Callable[[Progress], _T], stop: Callable[[], bool]) -> Generator[Notice, None, _T]:
    """Do something long in a thread; says every few seconds how far it is. Raises what `awaited` raises."""
    latest: list[str] = []
    result = started(lambda: work(lambda what, rows: latest.append(f"{what}: {rows:,} rows")))
    return (yield from awaited(result, latest, stop))


def awaited(result: Future[_T], latest: list[str], stop: Callable[[], bool]) -> Generator[Notice, None, _T]:
    """Wait, and say the latest word every few seconds.

    Raises:
        KeyboardInterrupt: A stop was asked for; there is nothing to save yet.
    """
    said_at = time.monotonic()
    while not wait([result], timeout=0.2).done:
        if stop():
            raise KeyboardInterrupt
        if latest and time.monotonic() - said_at > SAY_EVERY_SECONDS:
            yield Notice("info", latest[-1])
            latest.clear()
            said_at = time.monotonic()
    return result.result()


def started(work: Callable[[], _T], name: str = BACKGROUND) -> Future[_T]:
    """Do something in a thread that no exit waits for."""
    result: Future[_T] = Future()

    def run() -> None:
        try:
            ranks.use_own_device()  # which device is the current one is a thread's own business
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
