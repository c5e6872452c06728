"""The output folder of a run: writable, not in use, and never silently overwritten."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from luthier.config.load import RECORD
from luthier.errors import CheckpointError, LuthierError, MissingError, Problem
from luthier.machine.torchrun import AGENT, ORPHAN_SECONDS, is_gone
from luthier.training.checkpoint import checkpoints
from luthier.training.commit import ABANDONED, DAMAGED, sweep
from luthier.training.final import FINAL

KEY = "training.output_dir"


OWN = (
    "checkpoint-*", f"{DAMAGED}*", f"{ABANDONED}*", FINAL, "logs", "events.jsonl", RECORD, "library*.log",
    "error.log", "stacks*.log",
)  # fmt: skip
"""What a run writes; other things in the folder, other runs among them, are left alone."""


@contextmanager
def open_folder(output_dir: Path, *, resume: bool, overwrite: bool) -> Iterator[Path | None]:
    """Create and lock the folder for the time of a run.

    Args:
        output_dir: `training.output_dir`.
        resume: The run goes on from what is there.
        overwrite: Move what an earlier run has left aside first.

    Yields:
        Where an earlier run was moved to; None if none was.

    Raises:
        CheckpointError: E-CKPT-005 when a run is there and neither was asked for, E-CKPT-006 when it is in use,
            E-CKPT-007 when both were asked for.
        MissingError: E-ENV-002 when nothing can be written there.
    """
    if resume and overwrite:
        fix = "leave out one of them"
        raise CheckpointError(Problem("E-CKPT-007", "--resume goes on, --overwrite starts over", fix, "--overwrite"))
    with ExitStack() as stack:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            probe = output_dir / ".write-test"
            probe.write_bytes(b"luthier")
            probe.unlink()
            stack.enter_context(_locked(output_dir))
            moved = _make_ready(output_dir, resume=resume, overwrite=overwrite)
        except OSError as error:
            if isinstance(error, LuthierError):
                raise
            found = f"cannot write to {output_dir}: {error.strerror}"
            fix = "write a folder that you may write to"
            if output_dir.is_file():
                found, fix = f"{output_dir} is a file, not a folder", "write the name of a folder"
            raise MissingError(Problem("E-ENV-002", found, fix, KEY)) from error
        yield moved


def _make_ready(output_dir: Path, *, resume: bool, overwrite: bool) -> Path | None:
    """Deal with what an earlier run has left; the folder's lock is held."""
    sweep(output_dir)
    taken = bool(checkpoints(output_dir)) or (output_dir / FINAL).is_dir()
    if taken and overwrite:
        return _move_aside(output_dir)
    if taken and not resume:
        fix = (
            "go on with --resume auto, start over with --overwrite (from Python: resume='auto', overwrite=True), or "
            "write another output_dir"
        )
        raise CheckpointError(Problem("E-CKPT-005", f"{output_dir} holds an earlier run", fix, KEY))
    return None


def _move_aside(output_dir: Path) -> Path:
    """Move an earlier run's files to a folder beside it; returns that folder."""
    whole = output_dir.resolve()
    name = f"{whole.name}.old-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = itertools.count(2)
    aside = whole.with_name(name)
    while aside.exists():  # twice in a second, or a clock that was set back
        aside = whole.with_name(f"{name}-{next(taken)}")
    aside.mkdir()
    for pattern in OWN:
        for path in whole.glob(pattern):
            path.rename(aside / path.name)
    return aside


@contextmanager
def _locked(output_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the system releases it even when the process is killed."""
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind
        yield
        return
    path = output_dir / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + ORPHAN_SECONDS + 5
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = path.read_text(encoding="utf-8").strip() or "another process"
                if _ends_soon(holder) and time.monotonic() < end:
                    time.sleep(0.2)
                    continue
                raise CheckpointError(_in_use(output_dir, holder)) from error
            except OSError:
                pass  # a file system without locks
            break
        of = f" of launcher {agent}" if (agent := os.environ.get(AGENT)) else ""
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}{of}".encode())
        yield
    finally:
        os.close(descriptor)


def _in_use(output_dir: Path, holder: str) -> Problem:
    if holder.startswith(f"process {os.getpid()} "):
        found = f"{output_dir} is in use by this program: an earlier luthier.train(...) was not read to its end"
        fix = "close that one: run.close(); or read it to its end (stop=... ends it, resumable)"
        return Problem("E-CKPT-006", found, fix, KEY)
    fix = "wait for it or stop it, or write another output_dir"
    return Problem("E-CKPT-006", f"{output_dir} is in use by {holder}", fix, KEY)


def _ends_soon(holder: str) -> bool:
    """Whether the process that holds a lock has lost its launcher: it saves, and ends."""
    agent = holder.rpartition(" of launcher ")[2]
    return agent.isdecimal() and is_gone(int(agent))
