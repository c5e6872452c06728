"""`--json FILE`: checked before the work begins, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from luthier.errors import MissingError, Problem


def check_writable(path: Path) -> None:
    """Fail now instead of after minutes of work.

    Raises:
        MissingError: E-ENV-002 when the file cannot be written there.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if path.is_dir() else f"{folder} is no folder that you may write to"
        raise MissingError(
            Problem("E-ENV-002", f"cannot write {path}: {why}", "name a file in such a folder", "--json")
        )


def write_json(path: Path, content: Any) -> None:
    """Write the file beside its place first, then move it there.

    Raises:
        MissingError: E-ENV-002 when that fails.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(json.dumps(content, indent=2, allow_nan=False, default=str) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        problem = Problem("E-ENV-002", f"cannot write {path}: {error.strerror}", "name another file", "--json")
        raise MissingError(problem) from error
