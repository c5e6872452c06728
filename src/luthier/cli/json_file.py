"""`--json FILE` and its like: checked before the work begins, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from luthier.errors import MissingError, Problem
from luthier.errors.secrets import hide, hide_in
from luthier.machine.files import write_whole


def file_to_write(option: str, words: str, default: Any = None) -> Any:
    """An option for a file that is written after the work: a place where it cannot be is refused before all else.

    Args:
        option: How it is written: ``--json``.
        words: Its help.
        default: `...` where it has to be given.
    """

    def checked(path: Path | None) -> Path | None:
        if path is not None:
            check_writable(path, option)
        return path

    return typer.Option(default, option, metavar="FILE", help=words, callback=checked)


JsonFile: Any = file_to_write("--json", "Also write the result there.")


def check_writable(path: Path, option: str = "--json") -> None:
    """Fail now instead of after minutes of work.

    Args:
        path: Where the file shall be.
        option: What the user wrote it behind.

    Raises:
        MissingError: E-ENV-002 when the file cannot be written there.
    """
    folder = path.absolute().parent
    why = ""
    try:
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            why = f"{folder} is no folder that you may write to"
        elif path.is_dir():
            why = "it is a folder"
        elif path.exists() and not path.is_file():
            why = "it is not an ordinary file"
    except OSError as error:  # a name that is too long
        why = error.strerror or str(error)
    if why:
        raise MissingError(Problem("E-ENV-002", f"cannot write {path}: {why}", "name a file in a folder", option))


def keep(read: str | Path, path: Path | None, option: str) -> None:
    """Fail where the result would be written over what the command reads.

    Args:
        read: A file that is read; a name that is no file is none.
        path: Where the result shall be.
        option: What the user wrote `path` behind.

    Raises:
        MissingError: E-ENV-002 when both are one file.
    """
    try:
        same = path is not None and path.samefile(read)
    except (OSError, ValueError):  # one of them is not there, or no name of a file at all
        return
    if same:
        found = f"cannot write {path}: {read} is what this command reads"
        raise MissingError(Problem("E-ENV-002", found, "name another file", option))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON; see `write_text`."""
    _write(path, _as_json(content, indent=2), "--json")


def write_json_lines(path: Path, rows: Iterable[Any], option: str) -> None:
    """Write each row as a line of JSON; see `write_text`."""
    _write(path, "".join(map(_as_json, rows)), option)


def write_text(path: Path, text: str, option: str) -> None:
    """Write the file, without secrets, beside its place first, then move it there.

    Raises:
        MissingError: E-ENV-002 when that fails.
    """
    _write(path, hide(text), option)


def _write(path: Path, text: str, option: str) -> None:
    try:
        write_whole(path.resolve(), text)  # a link stays a link
    except OSError as error:
        problem = Problem("E-ENV-002", f"cannot write {path}: {error.strerror}", "name another file", option)
        raise MissingError(problem) from error


def _as_json(content: Any, indent: int | None = None) -> str:
    """Without secrets, and with what any reader of JSON takes: rows of a file can hold dates and NaN."""
    # what is hidden in the text of a JSON file can be a quote or its backslash: so not there
    return json.dumps(_finite(hide_in(content)), indent=indent, allow_nan=False, default=str) + "\n"


def _finite(content: Any) -> Any:
    """The same with null for numbers that JSON has not."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
