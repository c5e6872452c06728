"""The lock of a folder that one process writes into: of a run, or of a sweep. Needs no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import CheckpointError, Problem
from luthier.machine.torchrun import AGENT, ORPHAN_SECONDS, is_gone

_LAST_BREATH = 5.0  # seconds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system releases it even when the process is killed.

    Raises:
        CheckpointError: E-CKPT-006 when another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind
        yield
        return
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = path.read_text(encoding="utf-8").strip() or "another process"
                if time.monotonic() - began < _patience(holder):
                    time.sleep(0.2)
                    continue
                raise CheckpointError(_in_use(folder, holder)) from error
            except OSError:
                pass  # a file system without locks
            break
        of = f" of launcher {agent}" if (agent := os.environ.get(AGENT)) else ""
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}{of}".encode())
        yield
    finally:
        os.close(descriptor)


def _in_use(folder: Path, holder: str) -> Problem:
    found, fix = f"{folder} is in use by {holder}", "wait for it or stop it, or write another output_dir"
    if holder.startswith(f"process {os.getpid()} "):
        found = f"{folder} is in use by this program: an earlier luthier.train(...) was not read to its end"
        fix = "close that one: run.close(); or read it to its end (stop=... ends it, resumable)"
    return Problem("E-CKPT-006", found, fix, "training.output_dir")


def _patience(holder: str) -> float:
    """Seconds to wait for who holds a lock.

    One that has lost its launcher saves, and ends. A killed one may leave a process that it was about to start, which
    holds the lock until it has started.
    """
    process, _, agent = holder.removeprefix("process ").partition(" of launcher ")
    if agent.isdecimal() and is_gone(int(agent)):
        return ORPHAN_SECONDS + 5
    number = process.partition(" ")[0]
    return _LAST_BREATH if number.isdecimal() and is_gone(int(number)) else 0.0
