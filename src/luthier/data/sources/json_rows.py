"""Rows of JSON files: JSON lines, and arrays of objects, a row at a time whatever the size of the file.

Lines are cut at the newline byte alone: U+2028 and its like may stand inside a JSON string. JSON lines are parsed
here and not by a library for columns, because those name the wrong row and take the types of a column for granted.

Not covered: an object around the rows that does not begin with "data" is held whole, so it may have 64 MiB.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from luthier.data.problems import Problems, refuse
from luthier.data.sources.first_bytes import convert_command, decode, describe_decode_error
from luthier.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
LONG = f"a row of more than {MAX_LINE_BYTES // 2**20} MiB"
FIX_LONG = "split it into rows, or delete it"
_MAX_WHOLE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**18
_BLANK = " \t\r\n"
_WHITESPACE = re.compile(f"[{_BLANK}]*")
_AROUND = re.compile(r'\{\s*"data"\s*:\s*(?=\[)')
_FIX_JSON = "correct the line or delete it"
_FIX_TWICE = "keep one of the two, or delete the row"
_FIX_OBJECT = 'make it an object: {"instruction": ..., "output": ...}'

Rows = Iterator[tuple[str, dict[str, Any]]]


def read_jsonl(path: Path, shown: str, problems: Problems) -> Rows:
    """One JSON object a line; blank lines are passed over."""
    with path.open("rb") as stream:
        for number, raw in _lines(stream):
            place = f"{shown}:{number}"
            if len(raw) > MAX_LINE_BYTES:
                problems.add("E-DATA-012", LONG, FIX_LONG, place)
                continue
            text = _decoded(raw, number == 1, shown, place, problems)
            if text is None or not text.strip(_BLANK):
                continue
            if number == 1 and text.strip() == "[":
                fix = "rename the file to end in .json"
                raise refuse("E-DATA-010", "this is one JSON array, not JSON lines", fix, place)
            row = _parsed(text, place, problems)
            if isinstance(row, dict):
                yield place, row
            elif row is not _BROKEN:
                found = f"the row is {_type(row)}: {_excerpt(text, 0)}"
                problems.add("E-DATA-011", found, _FIX_OBJECT, place)


def read_json(path: Path, shown: str, problems: Problems) -> Rows:
    """A list of objects, or an object with such a list under "data"; JSON lines under this name are read as such."""
    with path.open("rb") as stream:
        window = _Window(stream, shown)
        head = window.skip()
        around = _AROUND.match(window.text, window.at)
        if head == "[" or around:
            window.at = around.end() if around else window.at
            yield from _array(window, shown, problems, ends=not around)
            return
        lines = _is_jsonl(window)
    if lines:
        yield from read_jsonl(path, shown, problems)
    elif head:
        yield from _under_data(path, shown, problems)


class _Window:
    """A stretch of a text file that moves on: what stands before `at` is forgotten when more is read.

    Attributes:
        text: The stretch.
        at: Where reading has come to.
        line: Line of the file in which the stretch begins.
    """

    def __init__(self, stream: BinaryIO, shown: str) -> None:
        self._stream, self._shown = stream, shown
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._column = 0
        self.text, self.at, self.line = "", 0, 1

    def more(self) -> bool:
        """Read on; false at the end of the file, where the stretch stays as it is."""
        raw = self._stream.read(max(_CHUNK_BYTES, len(self.text) - self.at))
        try:
            new = self._decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise self._not_utf8(error) from error
        if raw:
            self.line, self._column = self.place(self.at)
            self.text, self.at = self.text[self.at :] + new, 0
        return bool(raw)

    def skip(self) -> str:
        """Pass over white space; the character that follows, empty at the end of the file."""
        self.at = _skip(self.text, self.at)
        while self.at == len(self.text):
            if not self.more():
                return ""
            self.at = _skip(self.text, self.at)
        return self.text[self.at]

    def place(self, position: int) -> tuple[int, int]:
        """Line and column (from 0) of a position in the stretch."""
        breaks = self.text.count("\n", 0, position)
        column = position - self.text.rfind("\n", 0, position) - 1 if breaks else position + self._column
        return self.line + breaks, column

    def value(self) -> Any:
        """The JSON value that begins here.

        Raises:
            ValueError: It is broken, or longer than 16 MiB.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                if end - self.at > MAX_LINE_BYTES:
                    raise _TooLongError(LONG)
                self.at = end
                return value
            except json.JSONDecodeError as error:
                # Nearer to the end than a cut-off word or escape is long, more text may mend it.
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.text) - 16
                if not cut_off:
                    raise
                if len(self.text) - self.at > MAX_LINE_BYTES:
                    raise _TooLongError(LONG) from error
                if not self.more():
                    raise

    def syntax(self, message: str, position: int) -> tuple[str, str]:
        """What is found at a position, and the place of it."""
        position = _before_end(self.text, position)
        line, column = self.place(position)
        return (
            f"{message.removesuffix(' at')} at column {column + 1}: {_excerpt(self.text, position)}",
            f"{self._shown}:{line}",
        )

    def _not_utf8(self, error: UnicodeDecodeError) -> DataError:
        line = self.line + self.text.count("\n") + error.object.count(b"\n", 0, error.start)
        start = error.object.rfind(b"\n", 0, error.start) + 1
        here = UnicodeDecodeError("utf-8", error.object[start:], error.start - start, error.end - start, error.reason)
        fix = convert_command(self._shown, "WINDOWS-1252")
        return refuse("E-DATA-007", describe_decode_error(here), fix, f"{self._shown}:{line}")


def _array(window: _Window, shown: str, problems: Problems, *, ends: bool) -> Rows:
    """Objects of an array one after another; after a syntax error there is no telling where the next one starts.

    Args:
        window: Stands at the opening bracket.
        shown: Name of the file.
        problems: Takes what is wrong.
        ends: Whether nothing may follow the array.
    """
    window.at += 1
    head = window.skip()
    while head != "]":
        place = f"{shown}:{window.place(window.at)[0]}"
        try:
            yield from _object(window.value(), place, problems)
        except json.JSONDecodeError as error:
            found, place = window.syntax(_said(error), error.pos)
            problems.add("E-DATA-010", found, _FIX_JSON, place)
            return
        except (RecursionError, ValueError) as error:
            problems.add(*_beyond(error), place)
            return
        head = window.skip()
        if head not in (",", "]") or not head:
            found, place = window.syntax("Expecting ',' or ']'", window.at)
            problems.add("E-DATA-010", found, _FIX_JSON, place)
            return
        if head == ",":
            window.at += 1
            window.skip()
    window.at += 1
    if ends and window.skip():
        found, place = window.syntax("something follows the array", window.at)
        problems.add("E-DATA-010", found, "keep one array in a file, or write one object a line (.jsonl)", place)


def _under_data(path: Path, shown: str, problems: Problems) -> Rows:
    """Rows of an object that is held whole."""
    size = path.stat().st_size
    if size > _MAX_WHOLE_BYTES:
        found = f"an object of {size // 2**20:,} MiB that does not begin with its rows"
        raise refuse("E-DATA-012", found, 'write {"data": [...]}, an array, or one object a line (.jsonl)', shown)
    whole = _parsed(decode(path.read_bytes(), first_line=True), shown, problems, whole=True)
    if whole is _BROKEN:
        return
    rows = whole.get("data") if isinstance(whole, dict) else None
    if not isinstance(rows, list):
        found = f'neither a list of objects nor {{"data": [...]}}, but {_type(whole)}'
        raise refuse("E-DATA-011", found, "write the rows as a list, or as .jsonl with one object a line", shown)
    for number, row in enumerate(rows):
        yield from _object(row, f"{shown}:data[{number}]", problems)


_BROKEN: Any = object()


class _TwiceError(ValueError):
    """A field that stands twice in one object: JSON would keep the last one, and say nothing."""


class _TooLongError(ValueError):
    """A row that has no end within bounds."""


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(f'the field "{next(name for name in names if names.count(name) > 1)[:60]}" stands twice')
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_fields)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; one that is too long comes cut, and its rest is passed over."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield number, raw
        while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raw = stream.readline(MAX_LINE_BYTES + 1)


def _decoded(raw: bytes, first: bool, shown: str, place: str, problems: Problems) -> str | None:
    try:
        return decode(raw, first)
    except UnicodeDecodeError as error:
        problems.add("E-DATA-007", describe_decode_error(error), convert_command(shown, "WINDOWS-1252"), place)
        return None


def _parsed(text: str, place: str, problems: Problems, *, whole: bool = False) -> Any:
    """The JSON value, or `_BROKEN` after noting why."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        position = _before_end(text, error.pos)
        line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
        place = f"{place}:{line}" if whole else place
        found = f"{_said(error).removesuffix(' at')} at column {column}: {_excerpt(text, position)}"
        problems.add("E-DATA-010", found, _FIX_JSON, place)
    except (RecursionError, ValueError) as error:
        problems.add(*_beyond(error), place)
    return _BROKEN


def _said(error: json.JSONDecodeError) -> str:
    """What the parser says, or the usual mistake behind it."""
    at = error.doc[error.pos : error.pos + 1]
    before = error.doc[: error.pos].rstrip()[-1:]
    if at == "'":
        return "text in single quotes, where JSON has double ones,"
    if at == "," and error.msg.startswith("Illegal trailing comma"):  # as Python says it from 3.13 on
        return "a comma after the last one"
    return "a comma after the last one, before this," if before == "," and at in ("}", "]") else error.msg


def _beyond(error: RecursionError | ValueError) -> tuple[str, str, str]:
    """Code, what was found and the fix for a row that is more than JSON's form allows to say."""
    if isinstance(error, _TwiceError):
        return "E-DATA-016", str(error), _FIX_TWICE
    if isinstance(error, _TooLongError):
        return "E-DATA-012", LONG, FIX_LONG
    if isinstance(error, RecursionError):
        return "E-DATA-012", "nested too deeply", "flatten the row, or delete it"
    return "E-DATA-012", f"cannot be parsed: {error}", "write the number as text, or delete the row"


def _object(row: Any, place: str, problems: Problems) -> Rows:
    if isinstance(row, dict):
        yield place, row
    else:
        problems.add("E-DATA-011", f"the row is {_type(row)}", _FIX_OBJECT, place)


def _is_jsonl(window: _Window) -> bool:
    """Whether the first line is a whole object and more follows."""
    while "\n" not in window.text[window.at :] and len(window.text) <= MAX_LINE_BYTES and window.more():
        pass
    first, _, rest = window.text[window.at :].partition("\n")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and (bool(rest.strip()) or "data" not in row)


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _before_end(text: str, position: int) -> int:
    """A position; where all has been read, that of the end of the last line that has something on it."""
    return min(position, len(text.rstrip(_BLANK)))


def _excerpt(text: str, position: int) -> str:
    """About 60 characters around a position, on one line."""
    start = max(0, position - 30)
    piece = text[start : start + 60].strip("\r\n")
    return f"{'…' if start else ''}{piece}{'…' if start + 60 < len(text.rstrip()) else ''}"


def _type(value: Any) -> str:
    names: dict[type, str] = {list: "a list", dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
