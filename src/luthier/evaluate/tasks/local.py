"""Tasks out of a user's own file: JSON lines."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from luthier.errors import DataError, Problem
from luthier.evaluate.tasks.task import Task, read_tasks


def load(path: Path, sets: tuple[str, ...] = ()) -> tuple[Task, ...]:
    """All tasks of a file, in its order.

    Args:
        path: The file.
        sets: Names of the built-in sets, for those who misspell one.

    Raises:
        DataError: E-EVAL-021 when it cannot be read or holds no task, E-EVAL-022 for each line that is no task.
    """
    try:
        text = Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")  # noqa: PTH111 (raises nothing)
    except (OSError, UnicodeDecodeError) as error:
        said = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        close = difflib.get_close_matches(str(path), sets, n=1)
        fix = f"did you mean {close[0]}?" if close else f"give a JSON lines file, or {' or '.join(sets)}"
        raise DataError(Problem("E-EVAL-021", f"cannot be read: {said}", fix, str(path))) from error
    return read_tasks(text.split("\n"), str(path))
