"""The output folder of a run: writable, not in use, and never silently overwritten."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from luthier.config.outputs import EVENTS, FINAL, RECORD
from luthier.errors import EXIT_WRONG_REQUEST, CheckpointError, LuthierError, MissingError, Problem
from luthier.machine.lock import LOCK, locked
from luthier.training.checkpoint import checkpoints
from luthier.training.commit import ABANDONED, DAMAGED, sweep
from luthier.training.reference import FOLDER as REFERENCE

KEY = "training.output_dir"
_LIBRARY_LOGS = "library*.log"
_FAILED = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) ", re.MULTILINE)

OWN = (
    "checkpoint-*", f"{DAMAGED}*", f"{ABANDONED}*", FINAL, REFERENCE, "logs", EVENTS, RECORD, _LIBRARY_LOGS,
    "error.log", "stacks*.log",
)  # fmt: skip
"""What a run writes; other things in the folder, other runs among them, are left alone."""


@contextmanager
def open_folder(output_dir: Path, *, resume: bool, overwrite: bool) -> Iterator[Path | None]:
    """Create and lock the folder for the time of a run; what was created and got nothing is taken away again.

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
    new = list(itertools.takewhile(lambda folder: not folder.exists(), (output_dir, *output_dir.parents)))
    logs = set(output_dir.glob(_LIBRARY_LOGS))
    with ExitStack() as stack:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            probe = output_dir / ".write-test"
            probe.write_bytes(b"luthier")
            probe.unlink()
            stack.enter_context(locked(output_dir))
            moved = _make_ready(output_dir, resume=resume, overwrite=overwrite)
        except OSError as error:
            if isinstance(error, LuthierError):
                raise
            found = f"cannot write to {output_dir}: {error.strerror}"
            fix = "write a folder that you may write to"
            if output_dir.is_file():
                found, fix = f"{output_dir} is a file, not a folder", "write the name of a folder"
            raise MissingError(Problem("E-ENV-002", found, fix, KEY)) from error
        try:
            yield moved
        except BaseException as error:
            if isinstance(error, LuthierError) and error.exit_code == EXIT_WRONG_REQUEST:
                _drop_warnings(output_dir, logs)
            _take_away(output_dir, new)
            raise


def _drop_warnings(output_dir: Path, earlier: set[Path]) -> None:
    """Remove what libraries said of a request that was refused before it became a run, where nothing of it failed."""
    with suppress(OSError):
        if any((output_dir / name).exists() for name in (EVENTS, RECORD)):
            return
        for log in {*output_dir.glob(_LIBRARY_LOGS)} - earlier:
            if not _FAILED.search(log.read_text("utf-8", errors="replace")):
                log.unlink()


def _take_away(output_dir: Path, new: list[Path]) -> None:
    """Remove the folders that were made for a run that ended before it wrote anything; the run's lock is held."""
    with suppress(OSError):
        if new and [path.name for path in output_dir.iterdir()] == [LOCK]:
            (output_dir / LOCK).unlink()
            for folder in new:
                folder.rmdir()


def begun_near(output_dir: Path) -> list[Path]:
    """Runs beside a folder and in it that have a checkpoint and no result yet, the ones that saved last first."""
    found: dict[Path, float] = {}
    with suppress(OSError):
        for top in (output_dir.parent, output_dir):
            for path in top.glob("*/checkpoint-*"):
                if path.parent != output_dir and not (path.parent / FINAL).is_dir():
                    found[path.parent] = max(found.get(path.parent, 0.0), path.stat().st_mtime)
    return sorted(found, key=lambda run: found[run], reverse=True)


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
