"""What every codec hands out, and the shape of those that read a log line by line.

A line decoder is given whole lines in order and gives back events. It may hold an event back until a later line has
completed it (a step that the next progress bar tells, a sentence of several lines); `flush` ends the waiting.

Not covered: files (`luthier.events.tail`, `luthier.events.follow`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from luthier.events.types import Event

COUNT = r"(\d[\d,]{0,24})"
"""A whole number as programs write it, with commas or without; a group of a pattern."""
QUIET_POLLS = 2
"""After so many looks without news, what was held back is told."""


@dataclass(frozen=True)
class Told:
    """An event with its surroundings.

    Attributes:
        event: What happened.
        time: When, in epoch seconds; for a log without times an estimate (`luthier.events.follow`).
        attempt: Which start of the run it belongs to.
    """

    event: Event
    time: float
    attempt: str


class LineDecoder(ABC):
    """Base of the line codecs: what they need not say.

    Attributes:
        words: The format, for the screen.
        sure: A line was seen that only this format has.
        marker: What is in the many lines that a long history can do without, those of log steps, and in few others.
        wall_clock: The times it tells are epoch seconds; else seconds since some moment of that attempt, or nan.
    """

    words = ""
    sure = False
    marker = b"loss"
    wall_clock = True

    @abstractmethod
    def feed(self, line: bytes) -> list[Told]:
        """The events that one more line completes; the line comes without its line break."""

    def glimpse(self, start: bytes, end: bytes) -> list[Told]:
        """The events that an unfinished line completes; given its first and last bytes. The whole line still comes."""
        return []

    def flush(self) -> list[Told]:
        """What was held back; called when the log has been quiet for a while."""
        return []

    def skip(self, lines: Sequence[bytes]) -> list[Told]:
        """Lines with the `marker` are passed over, at least one; the events that this completes."""
        return []

    def gap(self) -> None:  # noqa: B027 - most have nothing to forget
        """A part of the log is passed over, its lines unknown."""

    @abstractmethod
    def is_whole(self, partial: bytes) -> bool:
        """Whether a line without its line break can be read as it is."""


def first_step_before(step: int, first_logged: int) -> int:
    """Up to which step the earlier events stand when a run that starts again logs `step` first.

    A first log step that is not later than that of the first attempt is a run from the beginning: 0.
    """
    return 0 if step <= first_logged else step - 1
