"""The process of a trial, from outside: what it says, and the answers to it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "luthier.sweep.trial")
_TICK_SECONDS = 0.2


class TrialProcess:
    """A trial at work. A context manager: when the block is left, the process is gone.

    It has a session of its own, so that Ctrl-C reaches the sweep alone, which then stops it in order.

    Args:
        arguments: As `luthier.sweep.trial` takes them.
        log: Gets its standard error, appended.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> TrialProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()

    def words(self, stop: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """What it says, until it ends; an empty dict where it says nothing for a moment.

        Args:
            stop: Polled; True asks it to finish its step, to save and to end.
        """
        asked = False
        while True:
            if stop() and not asked:
                self._process.terminate()
                asked = True
            try:
                line = self._said.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                yield {}
                continue
            if line is None:
                return
            with suppress(ValueError):  # a line that a kill tore
                yield json.loads(line)

    def answer(self, go_on: bool) -> None:
        """Answer an evaluation."""
        assert self._process.stdin
        with suppress(OSError):  # it is gone, which its exit code tells
            os.write(self._process.stdin.fileno(), b"go\n" if go_on else b"stop\n")

    @property
    def exit_code(self) -> int:
        """How it ended; waits for it."""
        return self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put(None)
