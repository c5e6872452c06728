"""Files that are whole on disk or not there at all: written beside their place, and renamed when they are.

Not covered: folders, and a power cut, after which a file may be empty (`luthier.training.commit` flushes).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

_DRAFT = ".luthier-{}.part"
_FORGOTTEN_SECONDS = 24 * 3600.0


@contextmanager
def whole_file(path: Path) -> Iterator[BufferedRandom]:
    """A file to write and read that takes its name, in place of an older one, when the block ends in order.

    Raises:
        OSError: It cannot be written; an older one is as before.
    """
    draft = path.with_name(_DRAFT.format(uuid.uuid4().hex[:12]))  # short: `path` may have the longest of names
    file = draft.open("w+b")
    try:
        with file:
            yield file
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """A text in UTF-8; see `whole_file`."""
    with whole_file(path) as file:
        file.write(text.encode())


def sweep_drafts(folder: Path) -> None:
    """Delete what processes that were killed had begun to write there: nobody has gone on with it for a day."""
    with suppress(OSError):
        for draft in folder.glob(_DRAFT.format("*")):
            if time.time() - draft.stat().st_mtime > _FORGOTTEN_SECONDS:
                draft.unlink()
