"""Tracebacks in a log: what a run died of is the last line of the last one.

Of several (an exception raised while another was handled) the last counts, but for those of launchers (torchrun,
accelerate), which only say that their child failed. A prefix `[rank0]: ` is taken off.
"""

from __future__ import annotations

import re
from typing import Literal

from luthier.events.printable import one_line

_RANK = re.compile(r"^\[(?:default|rank)\d+\]: ?")
_LAUNCHERS = ("ChildFailedError", "CalledProcessError")
_LONGEST = 500


class Failure:
    """Follows a log line by line.

    Attributes:
        reason: The last line of the latest traceback; empty without one.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._inside = False

    def take(self, line: str) -> bool:
        """Whether a line belongs to a traceback."""
        line = _RANK.sub("", line)
        if line.startswith("Traceback (most recent call last)"):
            self._inside = True
            return True
        if not self._inside:
            return False
        if line.strip() and not line[0].isspace():
            self._inside = False
            if not (self.reason and any(name in line.partition(":")[0] for name in _LAUNCHERS)):
                self.reason = one_line(line[:_LONGEST])
        return True

    @property
    def status(self) -> Literal["stopped", "failed"]:
        """How it ended: Ctrl-C is no failure."""
        return "stopped" if self.reason.startswith("KeyboardInterrupt") else "failed"

    def clear(self) -> str:
        """Forget it; returns the reason."""
        reason, self.reason = self.reason, ""
        return reason


def explained(reason: str) -> str:
    """The reason, with its kind said first where it is that the memory ran out."""
    if "CUDA out of memory" in reason or "OutOfMemoryError" in reason:
        return f"out of GPU memory: {reason}"
    if reason.startswith("MemoryError") or "can't allocate memory" in reason:
        return f"out of memory: {reason}"
    return reason
