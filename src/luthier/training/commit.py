"""A folder that is either whole on disk or not there at all.

    .inflight-NAME-<random>/   files are written, flushed to the device and hashed
            manifest.json      {file: SHA-256, ...} and the SHA-256 of itself, flushed last
    rename ---> NAME/          one atomic step; then the parent folder is flushed

A crash at any point leaves the old state and at most an .inflight- folder, which the next run deletes; when a folder is
replaced, the old one is renamed just before the new one and deleted after it. `verify` reads
every byte back, so a truncated or flipped file is found before anything is loaded from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

MANIFEST = "manifest.json"
INFLIGHT = ".inflight-"
TRASH = ".trash-"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers tell what the system refused; tokenizers raise a bare Exception."""


def commit(target: Path, fill: Callable[[Path], None]) -> int:
    """Create `target` with what `fill` writes into the folder it is given; replaces an older `target`.

    Returns:
        Bytes written.

    Raises:
        OSError: The system refused; also where a library wraps that into an exception of its own.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    inflight = target.parent / f"{INFLIGHT}{target.name}-{uuid.uuid4().hex[:8]}"
    inflight.mkdir()
    try:
        fill(inflight)
        files = sorted(p for p in inflight.rglob("*") if p.is_file())
        hashes = {str(p.relative_to(inflight)): _flush_and_hash(p) for p in files}
        (inflight / MANIFEST).write_bytes(_seal(hashes).encode())
        _flush_and_hash(inflight / MANIFEST)
        size = sum(p.stat().st_size for p in files)
        _flush_folder(inflight)
        old = _set_aside(target) if target.exists() else None
        try:
            inflight.rename(target)
        except OSError:
            if old:
                old.rename(target)
            raise
        _flush_folder(target.parent)
        if old:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(inflight, ignore_errors=True)
        if hidden := _OS_ERROR.search(str(error)):
            number = int(hidden[1])
            raise OSError(number, os.strerror(number), str(target)) from error
        raise
    return size


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    return ""


def remove(folder: Path) -> None:
    """Delete a folder so that a crash never leaves half of it under its name; a failure to delete is left for later."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    trash = folder.parent / f"{TRASH}{folder.name}-{uuid.uuid4().hex[:8]}"
    folder.rename(trash)
    return trash


def sweep(parent: Path) -> None:
    """Delete what earlier crashes left half-written or half-deleted."""
    for prefix in (INFLIGHT, TRASH):
        for folder in parent.glob(f"{prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)


def _seal(hashes: dict[str, str]) -> str:
    """The manifest's text: the hashes and a hash over them."""
    own = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": hashes, "sha256": own}, indent=1, sort_keys=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_and_hash(path: Path) -> str:
    """Make the file durable and readable like any other file of the user, and hash it."""
    path.chmod(0o666 & ~_UMASK)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return _hash(path)


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
