"""The output folder of a run: writable, not in use, and never silently overwritten."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import CheckpointError, MissingError, Problem
from luthier.training.checkpoint import checkpoints
from luthier.training.commit import sweep
from luthier.training.final import FINAL

KEY = "training.output_dir"


@contextmanager
def open_folder(output_dir: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Create and lock the folder for the time of a run.

    Args:
        output_dir: `training.output_dir`.
        resume: The run goes on from what is there.
        overwrite: Move an earlier run's folder aside first.

    Raises:
        CheckpointError: E-CKPT-005 when a run is there and neither was asked for; E-CKPT-006 when it is in use.
        MissingError: E-ENV-002 when nothing can be written there.
    """
    taken = bool(checkpoints(output_dir)) or (output_dir / FINAL).is_dir()
    if taken and overwrite:
        output_dir.rename(output_dir.with_name(f"{output_dir.name}.old-{time.strftime('%Y%m%d-%H%M%S')}"))
    elif taken and not resume:
        fix = "go on with --resume auto, start over with --overwrite, or write another output_dir"
        raise CheckpointError(Problem("E-CKPT-005", f"{output_dir} holds an earlier run", fix, KEY))
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".write-test"
        probe.write_bytes(b"luthier")
        probe.unlink()
    except OSError as error:
        found = f"cannot write to {output_dir}: {error.strerror}"
        raise MissingError(Problem("E-ENV-002", found, "write a folder that you may write to", KEY)) from error
    with _locked(output_dir):
        sweep(output_dir)
        yield


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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            fix = "wait for it or stop it, or write another output_dir"
            raise CheckpointError(Problem("E-CKPT-006", f"{output_dir} is in use by {holder}", fix, KEY)) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
        yield
    finally:
        os.close(descriptor)
