"""What a run died of, in a log: Luthier's own error block, a traceback, or the line of a memory that ran out.

    E-RUN-002  training.max_tokens_per_micro_batch: cuda:0 ran out of memory with 2,048 tokens in a micro-batch
      why   the forward or backward pass needs more memory than the device has left
      fix   write max_tokens_per_micro_batch: 1024, then --resume auto

Luthier prints no traceback. Of several blocks with nothing between them, which are one error, all count. Of a traceback
the last line does, also below the box that rich draws. Of several (an exception raised while another was handled) the
last one counts, but for those of launchers (torchrun, accelerate), which only say that their child failed. Without
either, a line is a reason that is nothing but such an error, perhaps with a logger's words before it; and `Killed`,
which the shell says. A prefix `[rank0]: ` is taken off.

Sources: torch 2.13 `CUDACachingAllocator.cpp`, `Exceptions.h`; rich 15 `traceback.py`; Slurm 24 `slurmstepd`.
"""

from __future__ import annotations

import re
from typing import Literal

from luthier.events.printable import one_line

_RANK = re.compile(r"^\[(?:default|rank)\d+\]: ?")
_TRACEBACK = re.compile(r"(?:[╭+][─-]+ )?Traceback \(most recent call last\)|╰─{20,200}╯$")
"""Its beginning; or, where that is cut off, the end of rich's box."""
_BOX = "│╰╭|+"
_LAUNCHERS = ("ChildFailedError", "CalledProcessError")
_BLOCK = re.compile(r"(E-[A-Z]{2,8}-\d{3})  (.*)")
_PART = re.compile(r"  (why|fix|more|trace) +(.*)")
_GOES_ON = " " * 8
_NO_MEMORY = re.compile(
    r"(?:.{0,200}?\b(?:ERROR|CRITICAL|error)\b.{0,200}?)?(?:[\w.]{1,60}: )?"
    r"(?:(?:CUDA|HIP|XPU|MPS backend)(?: error:)? out of memory\b|[\w.]{0,60}MemoryError\b"
    r"|.{0,200}?DefaultCPUAllocator: (?:can't allocate|not enough) memory|Detected \d+ oom.kill event)"
)
_KILLED = re.compile(r"(?:\S{1,80}: line \d+: +\d+ )?Killed(?: {2,}\S.*)?$")
_LONGEST = 500


class Failure:
    """Follows a log line by line.

    Attributes:
        reason: What the run died of; empty without a failure.
        code, why, fix: What Luthier's own error says besides; empty for that of another program.
    """

    def __init__(self) -> None:
        self.reason = self.code = self.why = self.fix = ""
        self._inside = False
        self._columns = self._used = 0
        self._last = ""
        self._blank = 0

    def take(self, line: str) -> bool:
        """Whether a line belongs to a failure."""
        line = _RANK.sub("", line)
        if self._block(line):
            return True
        if _TRACEBACK.match(line):
            self._inside, self._columns = True, len(line) if line[0] in _BOX else 0
            return True
        if not self._inside:
            return self._wraps(line) or self._alone(line)
        if line.strip() and not line[0].isspace() and line[0] not in _BOX:
            self._inside = False
            if not self.code and not (self.reason and _is_launcher(line)):
                self.reason, self._used = one_line(line[:_LONGEST]), len(line.rstrip())
        return True

    def blank(self) -> None:
        """A blank line: one lies between the blocks of one error, two between two errors."""
        self._blank += 1
        self._used = 0

    def tells(self, line: str) -> bool:
        """Whether a line that is not ended yet may be the last word of a run."""
        line = _RANK.sub("", line)
        return self._inside or bool(_NO_MEMORY.match(line) or _KILLED.match(line))

    def _block(self, line: str) -> bool:
        """Whether a line belongs to an error of Luthier's."""
        blank, self._blank = self._blank, 0
        if match := _BLOCK.match(line):
            found = one_line(match[2][:_LONGEST])
            if not self._last or blank > 1:
                self.clear()
                self.code, self.reason = match[1], f"{match[1]}  {found}"
            else:
                self.reason = f"{self.reason}; {found}"[: 2 * _LONGEST]
            self._last, self._inside = "reason", False
            return True
        if self._last and (match := _PART.match(line)):
            self._last = match[1]
            self._add(match[2], "; ")
        elif self._last and line.startswith(_GOES_ON):
            self._add(line.strip(), " ")
        else:
            self._last = ""
        return bool(self._last)

    def _add(self, words: str, between: str) -> None:
        """More of the part that was read last; what several blocks say alike stands once."""
        words, before = one_line(words[:_LONGEST]), getattr(self, self._last, None)
        if before is not None and words not in before:
            setattr(self, self._last, f"{before}{between}{words}"[: 2 * _LONGEST] if before else words)

    def _wraps(self, line: str) -> bool:
        """Whether a line goes on with the reason below a box of rich's: its first word did not fit before it."""
        fits = self._used + 1 + len(line.partition(" ")[0]) <= self._columns
        if fits or not self._used or not self._columns or len(self.reason) > _LONGEST:
            self._used = 0
            return False
        self.reason, self._used = f"{self.reason} {one_line(line[:_LONGEST])}", len(line.rstrip())
        return True

    def _alone(self, line: str) -> bool:
        """Whether one line is all that there is of a failure."""
        if not self.reason and (_NO_MEMORY.match(line) or _KILLED.match(line)):
            self.reason = one_line(line[:_LONGEST])
            return True
        return False

    @property
    def status(self) -> Literal["stopped", "failed"]:
        """How it ended: Ctrl-C is no failure."""
        return "stopped" if self.reason.startswith("KeyboardInterrupt") else "failed"

    def clear(self) -> str:
        """Forget it; returns the reason."""
        reason = self.reason
        self.reason = self.code = self.why = self.fix = self._last = ""
        self._used = 0
        return reason


def _is_launcher(line: str) -> bool:
    return any(name in line.partition(":")[0] for name in _LAUNCHERS)


def explained(reason: str) -> str:
    """The reason, with its kind said first where it is that the memory ran out."""
    if re.search(r"CUDA (?:error: )?out of memory|OutOfMemoryError", reason):
        return f"out of GPU memory: {reason}"
    if reason.startswith("MemoryError") or re.search(r"can't allocate memory|not enough memory|oom.kill event", reason):
        return f"out of memory: {reason}"
    if re.match(r"(?:\S{1,80}: line \d+: \d+ )?Killed\b", reason):
        return f"{reason}: by somebody, or by the system because the machine's memory ran out"
    return reason
