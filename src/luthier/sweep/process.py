"""The process of a trial, from outside: what it says, and the answers to it. And where trials run: here.

    sweep  -- place.begin(words, log, hear) -->  a process:  luthier.sweep.trial
           <-- hear({"evaluated": 10, ...}) --               one dict for each line that it says, None when it has ended
           -- answer(go on?) -->

Not covered: other machines (`luthier.sweep.cluster`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

COMMAND = (sys.executable, "-m", "luthier.sweep.trial")
PARENT = "LUTHIER_SWEEP"
"""Environment variable of a trial: the process number of who began it; another parent means that that one is gone."""
Hear = Callable[[dict[str, Any] | None], None]
"""Called from another thread."""


class Trial(Protocol):
    """A trial at work, wherever that is."""

    def answer(self, go_on: bool) -> None:
        """Answer an evaluation."""

    def stop(self) -> None:
        """Ask it to finish its step, to save and to end."""

    def end(self) -> int:
        """Wait for its end; returns its exit code, negative for a signal."""

    def kill(self) -> None:
        """End it at once."""


class Place(AbstractContextManager["Place"], Protocol):
    """Where trials run.

    Attributes:
        jobs: How many at a time.
        loses: Whether it can take a trial's machine away: one that was stopped or lost without being asked is begun
            again. Elsewhere whoever stopped a trial wants the machine.
    """

    jobs: int
    loses: bool

    def begin(self, arguments: Sequence[str], log: Path, hear: Hear) -> Trial:
        """Begin a trial.

        Args:
            arguments: As `luthier.sweep.trial` takes them.
            log: Gets its standard error, appended.
            hear: Gets what it says.
        """


class TrialProcess:
    """A trial at work in a process of this machine.

    It has a session of its own, so that Ctrl-C reaches the sweep alone, which then stops it in order.

    Args:
        arguments: As `luthier.sweep.trial` takes them.
        log: Gets its standard error, appended.
        hear: Gets what it says.
        changes: To its environment.
        folder: Where it runs; None: here.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        hear: Hear,
        changes: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", PARENT: str(os.getpid()), **(changes or {})},
                cwd=folder,
            )
        self._hear = hear
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def answer(self, go_on: bool) -> None:
        """Answer an evaluation."""
        assert self._process.stdin
        with suppress(OSError):  # it is gone, which its exit code tells
            os.write(self._process.stdin.fileno(), b"go\n" if go_on else b"stop\n")

    def stop(self) -> None:
        """Ask it to finish its step, to save and to end."""
        self._process.terminate()

    def end(self) -> int:
        """Wait for its end; returns its exit code, negative for a signal."""
        code = self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        return code

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with suppress(ValueError):  # a line that a kill tore
                self._hear(json.loads(line))
        self._hear(None)


class Here:
    """This machine. Trials that run at the same time share its processors, and its GPUs one by one.

    Args:
        jobs: How many trials at a time.
    """

    loses = False

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        self._gpus = _visible_gpus() if jobs > 1 else []
        self._at_work: list[tuple[str, TrialProcess]] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, arguments: Sequence[str], log: Path, hear: Hear) -> TrialProcess:
        """Begin a trial, on the GPU that has the fewest of them."""
        changes = {}
        if self.jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            changes["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        self._at_work = [(gpu, trial) for gpu, trial in self._at_work if trial.runs]
        taken = [gpu for gpu, _ in self._at_work]
        gpu = min(self._gpus, key=taken.count, default="")
        if gpu:
            changes["CUDA_VISIBLE_DEVICES"] = gpu
        trial = TrialProcess(arguments, log, hear, changes)
        self._at_work.append((gpu, trial))
        return trial


def _visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    from luthier.machine.gpu import read_gpus

    return [str(number) for number in range(len(read_gpus().gpus))]
