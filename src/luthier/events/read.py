"""The reader of events.jsonl.

A run that crashed leaves a torn line, and a run that resumed leaves steps that it took twice. Reading passes over the
first and drops the first telling of the second: what comes out is the run as it stands.

Not covered: following a file that grows, logs of other programs (`luthier.events.follow`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from luthier.events.codecs.jsonl import parse_record
from luthier.events.types import Event, Resumed, RunStarted

_LONGEST_LINE = 64 * 1024 * 1024


def read(path: str | Path) -> Iterator[tuple[Event, dict[str, Any]]]:
    """The events of a file in order, each with its `time`, `attempt` and the fields that this version does not know.

    Args:
        path: An events.jsonl.

    Raises:
        OSError: The file cannot be read.
    """
    restarts = list(_restarts(path))
    with Path(path).open("rb") as file:
        for index, line in _lines(file):
            parsed = parse_record(line)
            if parsed is not None and not any(restart.undoes(index, *parsed) for restart in restarts):
                yield parsed


@dataclass(frozen=True)
class _Restart:
    line: int
    attempt: str | None
    """Whose events it does not concern; None: a run that goes back concerns its own too."""
    step: int
    """The last step that still counts; -1: nothing does."""

    def undoes(self, line: int, event: Event, about: dict[str, Any]) -> bool:
        if line >= self.line or about["attempt"] == self.attempt:
            return False
        step = getattr(event, "step", None)
        return self.step < 0 or (step is not None and step > self.step)


def _restarts(path: str | Path) -> Iterator[_Restart]:
    with Path(path).open("rb") as file:
        for index, line in _lines(file):
            if RunStarted.kind.encode() not in line and Resumed.kind.encode() not in line:
                continue
            match parse_record(line):
                case (RunStarted(first_step=step), about):
                    yield _Restart(index, about["attempt"], step or -1)
                case (Resumed(step=step), _):
                    yield _Restart(index, None, step)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; one that is longer than any event is passed over without being held in memory."""
    index, whole = 0, True
    while line := file.readline(_LONGEST_LINE):
        ended = line.endswith(b"\n")
        if whole and (ended or len(line) < _LONGEST_LINE):
            yield index, line
        index += ended
        whole = ended
