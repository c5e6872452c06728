"""events.jsonl: every event in full, one JSON object a line. `luthier.events.read` is its reader."""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from pathlib import Path

from luthier.events.record import to_record
from luthier.events.types import Event


class JsonlSink:
    """Appends to a file; each event is one write, so that a crash tears the last line at most.

    Args:
        path: The file; made if it is not there. A last line that an earlier crash tore is ended first.
        attempt: The name of this start of the run in its events.

    Raises:
        OSError: The file cannot be opened, or (in `write`) the disk is full.
    """

    def __init__(self, path: str | Path, attempt: str = "") -> None:
        self.attempt = attempt or secrets.token_hex(4)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._append(b"\n")

    def write(self, event: Event) -> None:
        """Append one event, stamped with the wall clock."""
        record = to_record(event, time=time.time(), attempt=self.attempt)
        self._append(json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
