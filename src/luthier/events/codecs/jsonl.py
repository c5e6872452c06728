"""The lines of Luthier's own events.jsonl; `luthier.events.record` knows what is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from luthier.events.codecs.base import LineDecoder, Told
from luthier.events.record import Unknown, from_record
from luthier.events.types import Event

_COMPANIONS = re.compile(rb'\{"event":"(?:gradients|timing|machine)"')


def parse_record(line: bytes) -> tuple[Event, dict[str, Any]] | None:
    """The event of a line, with its `time`, `attempt` and unknown fields; None for a line that is no event's."""
    try:
        record = json.loads(line)
        return from_record(record) if isinstance(record, dict) else None
    except (ValueError, RecursionError):
        return None


class RecordDecoder(LineDecoder):
    """events.jsonl; kinds that this version does not know are told as `Unknown`.

    In a thinned history the events that come with a log step (gradients, timing, machine) go with it.
    """

    words = "Luthier events.jsonl"
    sure = True
    marker = b'"event":"log"'

    def __init__(self) -> None:
        self._kept = True

    @staticmethod
    def matches(line: bytes) -> bool:
        """Whether a line is an event of a kind that there is."""
        if b'"event"' not in line[:64]:
            return False
        parsed = parse_record(line)
        return parsed is not None and not isinstance(parsed[0], Unknown)

    def feed(self, line: bytes) -> list[Told]:
        """The event of the line."""
        if not self._kept and _COMPANIONS.match(line):
            return []
        self._kept = True
        parsed = parse_record(line)
        if parsed is None:
            return []
        event, about = parsed
        return [Told(event, about["time"], about["attempt"])]

    def skip(self, lines: Sequence[bytes]) -> list[Told]:
        """What belongs to these log steps is left out too."""
        self._kept = False
        return []

    def is_whole(self, partial: bytes) -> bool:
        """Whether it is a whole record."""
        return parse_record(partial) is not None
