"""SIGINT, SIGTERM and SIGUSR1: finish the step, save, and leave so that the run can go on.

Schedulers announce the end of a job's time with SIGTERM or, where asked, SIGUSR1 (Slurm: `--signal=USR1@120`).
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether a stop was asked for. A second SIGINT interrupts at once.

    Outside the main thread, where Python delivers no signals, it never does.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def request(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        sys.stderr.write("stopping: this step is finished and saved first (Ctrl-C again: now)\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        numbers.append(signal.SIGUSR1)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
