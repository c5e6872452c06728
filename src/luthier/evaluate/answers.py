"""What a model has answered, kept on disk as it comes: a killed evaluation goes on, a repeated one asks nothing.

    luthier/answers in the user's cache folder
        <hash of the model>.jsonl     line 1: which files, numbers and libraries the model is
                                      then {"key": hash of prompt and settings, "value": the answer}

The model's hash covers its weights, tokenizer and template, the number format, the device, the versions of the
libraries that compute and of how answers are written: whatever changes one of these finds nothing here. Lines are only
ever added, each in one write; one that a kill cut off is passed over. A disk that cannot be written costs the memory
between two commands, no answer.

Not covered: sharing between machines.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from luthier.machine import cache_folder

Say = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how many; 0 of 0 where that is not known."""


def hashed(content: Any) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Answers:
    """The answers of one model.

    Attributes:
        path: Their file; None: they live as long as this object.
    """

    def __init__(self, about: Mapping[str, Any] | None = None, fresh: bool = False) -> None:
        """Read what is there.

        Args:
            about: What the model is, in plain values; None: nothing is kept.
            fresh: Forget what was answered before; new answers are kept all the same.
        """
        self.path = None if about is None else cache_folder("answers") / f"{hashed(about)}.jsonl"
        self._about = about
        self._known: dict[str, Any] = {}
        if self.path and not fresh:
            self._known = _read(self.path)

    def __contains__(self, key: str) -> bool:
        """Whether there is an answer under a key."""
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        """The answer under a key."""
        return self._known[key]

    def keeping(self, wanted: Iterable[str], tell: Say) -> tuple[int, Callable[[str, Any], None]]:
        """How many of some answers are known, and who keeps the others as they come and tells how far that is.

        Args:
            wanted: Their keys; what is wanted several times counts so often.
            tell: Told at once, too.
        """
        times = Counter(wanted)
        total, done = times.total(), sum(count for key, count in times.items() if key in self)
        tell("answers", done, total)

        def keep(key: str, answer: Any) -> None:
            nonlocal done
            self.add({key: answer})
            done += times[key]
            tell("answers", done, total)

        return done, keep

    def add(self, new: Mapping[str, Any]) -> None:
        """Keep answers, all of them in one write."""
        self._known.update(new)
        if self.path is None:
            return
        lines = [{"key": key, "value": value} for key, value in new.items()]
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                lines.insert(0, {"about": self._about})
            text = "".join(json.dumps(line) + "\n" for line in lines)
            with self.path.open("a+b") as file:
                file.write((_unended(file) + text).encode())


def _unended(file: Any) -> str:
    """A line end, where a kill has left half a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return ""
    file.seek(-1, os.SEEK_END)
    return "" if file.read(1) == b"\n" else "\n"


def _read(path: Path) -> dict[str, Any]:
    known: dict[str, Any] = {}
    with suppress(OSError):
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                known[str(entry["key"])] = entry["value"]
    return known
