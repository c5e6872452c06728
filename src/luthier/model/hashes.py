"""SHA-256 of a base model's files: what a run's record says of its weights.

In the hub's cache a large file is stored under its SHA-256 already, so that nothing is read; files of a local folder
are read, one core for a second or two each GiB. Of large ones the hash is kept with path, size and times of change in
the user's cache folder, so that they are read once. Nobody can set a file's ctime, so that another file in its place is
seen; the hash of one that has just been changed is not kept, as its times might not tell of the next change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from luthier.config.schema import ModelSection
from luthier.machine import cache_folder
from luthier.machine.files import write_whole

KEPT_FROM_BYTES = 16 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = ".safetensors"
_SETTLED_SECONDS = 5.0


def base_hashes(section: ModelSection) -> dict[str, str]:
    """File name -> SHA-256 of config.json and of each safetensors file; empty while the model is not on this machine.

    A model that starts from scratch has no weights, only the config.
    """
    folder = base_folder(section)
    if folder is None:
        return {}
    return file_hashes(folder, "config.json", *([] if section.from_scratch else [f"*{_WEIGHTS}"]))


def file_hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """File name -> SHA-256 of those files of a folder whose names match."""
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    return {path.name: _sha256(path) for path in found if path.is_file()}


def base_folder(section: ModelSection) -> Path | None:
    """The local folder, or the snapshot in the hub's cache, whose name is the commit."""
    folder = Path(section.model_name_or_path).expanduser()
    if folder.is_dir():
        return folder
    try:
        config = try_to_load_from_cache(section.model_name_or_path, "config.json", revision=section.revision)
    except ValueError:  # a path that is no hub id
        return None
    return Path(config).parent if isinstance(config, str) else None


def weights_of(hashes: Mapping[str, str]) -> dict[str, str]:
    """Those of the files that hold weights."""
    return {name: value for name, value in hashes.items() if name.endswith(_WEIGHTS)}


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first file that is another one, in words; empty where all that both know are the same, or nothing is known.

    Files that only one of them has are no matter, as long as not all of the weights are.
    """
    for name, value in then.items():
        if now.get(name, value) != value:
            return f"{name} has SHA-256 {value[:12]} then, {now[name][:12]} now"
    before, after = weights_of(then), weights_of(now)
    lost = before and after and not before.keys() & after.keys()
    return f"there was {next(iter(before))}, and is not now" if lost else ""


def _sha256(path: Path) -> str:
    blob = path.resolve().name
    if path.is_symlink() and _SHA256.fullmatch(blob):
        return blob
    about = path.stat()
    if about.st_size < KEPT_FROM_BYTES:
        return _read(path)
    place = str(path.resolve())
    is_now = [place, about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    note = cache_folder("hashes") / f"{hashlib.sha256(os.fsencode(place)).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError):
        *was, known = json.loads(note.read_text("utf-8"))
        if was == is_now and _SHA256.fullmatch(known):
            return str(known)
    settled = time.time() - max(about.st_mtime, about.st_ctime) > _SETTLED_SECONDS
    found = _read(path)
    if settled:
        with suppress(OSError):  # a disk that cannot be written costs the time of reading it again
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, json.dumps([*is_now, found]))
    return found


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
