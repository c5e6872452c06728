"""SHA-256 of a base model's files: what a run's record says of its weights.

In the hub's cache a large file is stored under its SHA-256 already, so that nothing is read; files of a local folder
are read, one core for a second or two each GiB.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from luthier.config.schema import ModelSection

_SHA256 = re.compile(r"[0-9a-f]{64}")


def base_hashes(section: ModelSection) -> dict[str, str]:
    """File name -> SHA-256 of config.json and of each safetensors file; empty while the model is not on this machine.

    A model that starts from scratch has no weights, only the config.
    """
    folder = base_folder(section)
    if folder is None:
        return {}
    return file_hashes(folder, "config.json", *([] if section.from_scratch else ["*.safetensors"]))


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


def _sha256(path: Path) -> str:
    blob = path.resolve().name
    if path.is_symlink() and _SHA256.fullmatch(blob):
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
