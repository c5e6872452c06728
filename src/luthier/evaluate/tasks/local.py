"""Tasks out of a file: JSON lines, plain or in gzip."""

from __future__ import annotations

import difflib
import gzip
import os
import zlib
from pathlib import Path

from luthier.errors import DataError, Problem
from luthier.evaluate.tasks.task import Task, read_tasks


def load(path: Path, sets: tuple[str, ...] = ()) -> tuple[Task, ...]:
    """All tasks of a user's own file, in its order.

    Args:
        path: The file.
        sets: Names of the built-in sets, for those who misspell one.

    Raises:
        DataError: E-EVAL-021 when it cannot be read or holds no task, E-EVAL-022 for each line that is no task.
    """
    close = difflib.get_close_matches(str(path), sets, n=1)
    fix = f"did you mean {close[0]}?" if close else f"give a JSON lines file, or {' or '.join(sets)}"
    return read_tasks(read_lines(path, fix), str(path))


def read_lines(path: Path, fix: str) -> list[str]:
    """The lines of a text file; one whose name ends in .gz is unpacked.

    Raises:
        DataError: E-EVAL-021 when it cannot be read, with `fix` as the way out.
    """
    place = os.path.expanduser(path)  # noqa: PTH111 (raises nothing)
    try:
        content = Path(place).read_bytes()
        text = (gzip.decompress(content) if place.endswith(".gz") else content).decode("utf-8-sig")
    except (OSError, ValueError, EOFError, zlib.error) as error:
        said = error.strerror or str(error) if isinstance(error, OSError) else "damaged"
        said = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else said
        raise DataError(Problem("E-EVAL-021", f"cannot be read: {said}", fix, str(path))) from error
    return text.split("\n")
