"""How wide a terminal is, and text in its width. What is not a terminal gets lines that people can grep."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from typing import TextIO

WIDTH = 100
"""Columns of text at most, and where there is no terminal."""
_LEAST = 40
_COPIED = re.compile(r"`[^`]*`|\b(?:luthier|hf|pip) .*|\S+(?: --?[a-z]\S*)+")
_KEPT_SPACE = "\0"


def columns(stream: TextIO) -> int | None:
    """Columns of the terminal behind a stream; None where there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError, AttributeError):  # no terminal; closed; a stream without a file
        return None


def width() -> int:
    """Columns for text on standard output."""
    return max(_LEAST, min(WIDTH, columns(sys.stdout) or WIDTH))


def wrapped(text: str, first: str, rest: str, room: int) -> str:
    """A text in `room` columns, words with hyphens whole.

    Args:
        text: One paragraph.
        first: In front of the first line.
        rest: In front of each further line.
        room: Columns.
    """
    return textwrap.fill(text, room, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def hanging(line: str, indent: str, room: int | None) -> str:
    """A line wrapped at `room` columns with what follows below its text.

    What may be copied stays whole: a path, what stands in backticks, a command (it begins a line of its own).

    Args:
        line: One line.
        indent: In front of each further line.
        room: None leaves it as it is.
    """
    if room is None or len(line) <= room:
        return line
    kept = _COPIED.sub(lambda found: found[0].replace(" ", _KEPT_SPACE), line)
    body = kept.lstrip()
    first = kept[: len(kept) - len(body)]
    wrapped = textwrap.fill(
        body,
        max(_LEAST, room),
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped.replace(_KEPT_SPACE, " ")
