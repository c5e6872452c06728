"""training.log: one dict a line to a text stream, for when the output is not a terminal."""

from __future__ import annotations

from typing import TextIO

from luthier.events.line import format_line
from luthier.events.types import Event


class TextSink:
    """Writes each line to `stream` and flushes it, so that `tail -f training.log` shows the present.

    Characters that the stream's encoding lacks become escapes. The stream belongs to the caller and stays open.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: Event) -> None:
        """Write the line of one event, if it has one."""
        line = format_line(event)
        if line is None:
            return
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Flush what is left."""
        self._stream.flush()
