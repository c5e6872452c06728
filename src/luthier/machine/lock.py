"""The locks of folders: of a run, of a sweep, or of one that is being written. Needs no torch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import CheckpointError, Problem
from luthier.machine.worker import AGENT, ORPHAN_SECONDS, is_gone

LOCK = ".lock"
_LAST_BREATH = 5.0  # seconds


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system releases it even when the process is killed.

    Raises:
        CheckpointError: E-CKPT-006 when another process holds it.
    """
    if os.name == "nt":  # no advisory locks of this kind
        yield
        return
    path = folder / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        began = time.monotonic()
        while not _taken(descriptor):
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            if time.monotonic() - began >= _patience(holder):
                raise CheckpointError(_in_use(folder, holder))
            time.sleep(0.2)
        of = f" of launcher {agent}" if (agent := os.environ.get(AGENT)) else ""
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}{of}".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock a folder itself while the block runs and this process lives. Gives False where another process has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        yield True
        return
    try:
        yield _taken(descriptor)
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    """Whether a file's lock is this process's now; also where system or file system know none."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


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
