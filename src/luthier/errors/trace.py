"""Tracebacks: in a file, never on the screen."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from pathlib import Path

from luthier.errors.secrets import hide

IN_RUN, ELSEWHERE = "error.log", "luthier-error.log"


def keep_trace(error: BaseException, output_dir: Path | None = None) -> Path:
    """Append the traceback with its causes to a file; returns the file.

    Args:
        error: What was raised.
        output_dir: The run's folder. Without one, or when nothing can be written there: the folder we run in, or else
            the one for temporary files.
    """
    text = hide("".join(traceback.format_exception(error)))
    places = [Path.cwd() / ELSEWHERE, Path(tempfile.gettempdir()) / ELSEWHERE]
    for path in ([output_dir / IN_RUN] if output_dir else []) + places:
        try:
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}\n")
        except OSError:
            continue
        return path
    return Path(os.devnull)


def summary(error: BaseException) -> str:
    """`ValueError: its first line`, for a screen."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def brief(error: BaseException) -> str:
    """An exception's text in one line of at most 160 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
