"""SIGINT, SIGTERM, SIGUSR1 and SIGHUP: finish the step, save, and leave so that the run can go on.

Schedulers announce the end of a job's time with SIGTERM or, where asked, SIGUSR1 (Slurm: `--signal=USR1@120`).
A terminal that is closed, or a connection that is lost, sends SIGHUP; under nohup it does not count.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from luthier.machine import worker


class Interrupted(KeyboardInterrupt):
    """A stop that does not wait.

    Python ends itself by SIGINT, whatever exit code is asked for, when exactly a KeyboardInterrupt has passed through
    code that was made from text, as dataclasses are; not when a subclass has.
    """


class Stop:
    """Says, when called, whether a stop was asked for.

    Attributes:
        at_once: There is nothing to finish yet: a request interrupts, as a second Ctrl-C always does.
        shown: Somebody shows that a stop was asked for: it is not written to standard error, where it would move what
            stands on the terminal.
    """

    def __init__(self) -> None:
        self._asked = False  # no Event: its lock could be held by what the signal interrupts
        self.at_once = False
        self.shown = False

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked

    def request(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals.

        Raises:
            Interrupted: At once, or at a second SIGINT.
        """
        again, self._asked = self._asked, True
        if (again and number == signal.SIGINT) or self.at_once:
            raise Interrupted
        worker.told_to_stop()
        # said once, as a pipe that nobody reads fills up; one of several speaks for all
        if again or self.shown or worker.AGENT in os.environ or os.environ.get("RANK", "0") != "0":
            return
        with suppress(OSError):  # its reader may be gone: `2>&1 | tee log` hears Ctrl-C too
            os.write(2, worker.STOPPING)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Yields a function that says whether a stop was asked for. A second SIGINT interrupts at once.

    Outside the main thread, where Python delivers no signals, it never does.

    Raises:
        Interrupted: Also where a library swallowed it, and then fails of what it had left half-done: torch goes on
            without the NumPy whose import was interrupted.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.request) for number in worker.signals_to_stop()}
    try:
        yield stop
    except Exception as error:
        if stop.at_once and stop():
            raise Interrupted from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
