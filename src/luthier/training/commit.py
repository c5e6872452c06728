"""A folder that is either whole on disk or not there at all.

    .inflight-NAME-<random>/   files are written, flushed to the device and hashed
            manifest.json      {file: SHA-256, ...} and the SHA-256 of itself, flushed last
    rename ---> NAME/          one atomic step; then the parent folder is flushed
    read back                  from the device where the system allows it; only then may anything older be deleted

A crash at any point leaves the old state and at most an .inflight- folder, which the next run or export deletes. When a
folder is replaced, the old one is `.replaced-` for a moment, and `sweep` puts it back if the new one never came.
`verify` reads every byte, so a truncated or flipped file is found before anything is loaded from it.

Not covered: several machines that write into one folder over a network file system.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.config.outputs import MANIFEST
from luthier.machine.lock import held

INFLIGHT = ".inflight-"
TRASH = ".trash-"
REPLACED = ".replaced-"
DAMAGED = "damaged-"
ABANDONED = "abandoned-"
_RANDOM = 8
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell what the system refused; tokenizers raise a bare Exception."""


def commit(target: Path, fill: Callable[[Path], None]) -> int:
    """Create `target` with what `fill` writes into the folder it is given; replaces an older `target`.

    Returns:
        Bytes written.

    Raises:
        OSError: It could not be written, also where a library wraps that into an exception of its own, or reads back
            as something else; an older `target` is as before.
    """
    return written(target, fill)()


def written(target: Path, fill: Callable[[Path], None]) -> Callable[[], int]:
    """The first part of `commit`, now: `fill` writes. Calling the result, in any thread, is the rest.

    Both raise what `commit` raises.
    """
    inflight = _begun(target)
    with _or_nothing(target, inflight):
        fill(inflight)
    return lambda: _named(target, inflight)


@contextmanager
def committed(target: Path) -> Iterator[Path]:
    """`commit` as a block, which fills the folder that it is given."""
    inflight = _begun(target)
    with _or_nothing(target, inflight):
        yield inflight
    _named(target, inflight)


def _begun(target: Path) -> Path:
    """An empty folder beside its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    inflight = _aside(target, INFLIGHT)
    inflight.mkdir()
    return inflight


def _named(target: Path, inflight: Path) -> int:
    """Make what was written durable, seal it, give it its name, and read it back."""
    old: Path | None = None
    try:
        with _or_nothing(target, inflight):
            files = sorted(p for p in inflight.rglob("*") if p.is_file())
            hashes = {str(p.relative_to(inflight)): _flush_and_hash(p) for p in files}
            (inflight / MANIFEST).write_bytes(_seal(hashes).encode())
            _flush_and_hash(inflight / MANIFEST)
            for folder in {p.parent for p in files} | {inflight}:
                _flush_folder(folder)
            size = sum(p.stat().st_size for p in files)
            old = set_aside(target, REPLACED) if target.exists() else None
            inflight.rename(target)
            _flush_folder(target.parent)
            if broken := verify(target):
                target.rename(inflight)
                raise OSError(errno.EIO, f"reads back damaged ({broken})", str(target))
    except BaseException:
        if old and not target.exists():
            old.rename(target)
        raise
    if old:
        shutil.rmtree(old, ignore_errors=True)
    return size


@contextmanager
def _or_nothing(target: Path, inflight: Path) -> Iterator[None]:
    """A failure leaves no `inflight`, and is the system's own where a library has wrapped that."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(inflight, ignore_errors=True)
        if hidden := _OS_ERROR.search(str(error)):
            number = int(hidden[1])
            raise OSError(number, os.strerror(number), str(target)) from error
        raise


def verify(folder: Path) -> str:
    """Why the folder is not whole; empty when it is."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
        hashes = dict(json.loads(manifest)["files"])
        if _seal(hashes).encode() != manifest:
            return "its manifest was changed"
        for name, expected in hashes.items():
            if _hash(folder / name) != expected:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except OSError as error:
        return f"{Path(str(error.filename or folder)).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return ""


def remove(folder: Path) -> None:
    """Delete a folder so that a crash never leaves half of it under its name; a failure to delete is left for later."""
    shutil.rmtree(set_aside(folder, TRASH), ignore_errors=True)


def set_aside(folder: Path, why: str) -> Path:
    """Move a folder out of the way and keep it: somebody may want to look at it.

    Args:
        folder: A committed one.
        why: `DAMAGED`, or `ABANDONED` when the run went back to before it.

    Returns:
        Its new place.
    """
    aside = _aside(folder, why)
    folder.rename(aside)
    return aside


def sweep(parent: Path, name: str | None = None, holding: str = "") -> None:
    """Put back what was about to be replaced, and delete what earlier crashes left half-written or half-deleted.

    Args:
        parent: Where to look. What another process has `held` is let be.
        name: Of the folder that it is about; None: all of them.
        holding: A file without which nothing is touched.
    """
    names = "*" if name is None else f"{glob.escape(name)}-{'?' * _RANDOM}"

    def left(prefix: str) -> list[Path]:
        return [folder for folder in parent.glob(prefix + names) if (folder / holding).exists()]

    for old in left(REPLACED):
        target = parent / old.name.removeprefix(REPLACED)[: -_RANDOM - 1]
        if not target.exists() and not verify(old):
            old.rename(target)
    for folder in (*left(INFLIGHT), *left(TRASH), *left(REPLACED)):
        with held(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)


def _aside(folder: Path, prefix: str) -> Path:
    return folder.parent / f"{prefix}{folder.name}-{uuid.uuid4().hex[:_RANDOM]}"


def _seal(hashes: dict[str, str]) -> str:
    """The manifest's text: the hashes and a hash over them."""
    own = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": hashes, "sha256": own}, indent=1, sort_keys=True)


def _hash(path: Path) -> str:
    """SHA-256 of a file as it lies on the device, where the system lets us drop its copy in memory."""
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_and_hash(path: Path) -> str:
    """Make the file durable and readable like any other file of the user, and hash what was written."""
    path.chmod(0o666 & ~_UMASK)
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))  # Windows flushes only what may be written
    try:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # before the flush: still what we wrote
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest


def _flush_folder(path: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's umask; reading it means setting it, so it is done once, at import."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


_UMASK = _umask()
