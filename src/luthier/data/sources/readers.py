"""One reader a file type, each a generator of (place, row) that holds one row (JSON lines, CSV) or batch (Parquet).

Lines are cut at the newline byte alone: U+2028 and its like may stand inside a JSON string. JSON lines are parsed
here and not by a library for columns, because those name the wrong row and take the types of a column for granted.

Not covered: .json arrays larger than memory (their text is held; their objects are made one at a time).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.data.problems import Problems, refuse
from luthier.data.sources.first_bytes import convert_command, decode, describe_decode_error

MAX_LINE_BYTES = 16 * 2**20
_PARQUET_BATCH_ROWS = 1000
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_FIX_JSON = "correct the line or delete it"
_FIX_TWICE = "keep one of the two, or delete the row"

Rows = Iterator[tuple[str, dict[str, Any]]]


def read_jsonl(path: Path, shown: str, problems: Problems) -> Rows:
    """One JSON object a line; blank lines are passed over."""
    with path.open("rb") as stream:
        for number, raw in _lines(stream):
            place = f"{shown}:{number}"
            if len(raw) > MAX_LINE_BYTES:
                found = f"a line of more than {MAX_LINE_BYTES // 2**20} MiB"
                problems.add("E-DATA-012", found, "split it into rows, or delete it", place)
                continue
            text = _decoded(raw, number == 1, shown, place, problems)
            if text is None or not text.strip(" \t\r\n"):
                continue
            if number == 1 and text.strip() == "[":
                fix = "rename the file to end in .json"
                raise refuse("E-DATA-010", "this is one JSON array, not JSON lines", fix, place)
            row = _parsed(text, place, problems)
            if isinstance(row, dict):
                yield place, row
            elif row is not _BROKEN:
                found = f"the row is {_type(row)}: {_excerpt(text, 0)}"
                problems.add("E-DATA-011", found, 'make it an object: {"instruction": ..., "output": ...}', place)


def read_json(path: Path, shown: str, problems: Problems) -> Rows:
    """A list of objects, or an object with such a list under "data"; JSON lines under this name are read as such."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found, fix = describe_decode_error(error), convert_command(shown, "WINDOWS-1252")
        raise refuse("E-DATA-007", found, fix, shown) from error
    start = _skip(text, 0)
    if text[start : start + 1] == "[":
        yield from _array(text, start + 1, shown, problems)
    elif _is_jsonl(text):
        yield from read_jsonl(path, shown, problems)
    else:
        whole = _parsed(text, shown, problems, whole=True) if text[start:] else {}
        if whole is _BROKEN or not text[start:]:
            return
        rows = whole.get("data") if isinstance(whole, dict) else None
        if not isinstance(rows, list):
            found = f'neither a list of objects nor {{"data": [...]}}, but {_type(whole)}'
            raise refuse("E-DATA-011", found, "write the rows as a list, or as .jsonl with one object a line", shown)
        for number, row in enumerate(rows):
            yield from _object(row, f"{shown}:data[{number}]", problems)


def read_csv(path: Path, shown: str, problems: Problems) -> Rows:
    """Comma-separated values with a header; a place is the line where the row begins."""
    previous_limit = csv.field_size_limit(MAX_LINE_BYTES)
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            _check_header(header, shown)
            line = reader.line_num
            for fields in reader:
                place, line = f"{shown}:{line + 1}", reader.line_num
                if not fields:
                    continue
                if len(fields) != len(header):
                    found = f"{len(fields)} fields, but the header has {len(header)}"
                    problems.add("E-DATA-013", found, "quote fields that hold commas or line breaks", place)
                    continue
                yield place, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        place = f"{shown}:{line + 1}"
        problems.add("E-DATA-013", str(error), "quote fields that hold commas, quotes or line breaks", place)
    except UnicodeDecodeError as error:
        found, fix = describe_decode_error(error), convert_command(shown, "WINDOWS-1252")
        raise refuse("E-DATA-007", found, fix, f"{shown}:{line + 1}") from error
    finally:
        csv.field_size_limit(previous_limit)


def read_parquet(path: Path, shown: str, problems: Problems) -> Rows:
    """Parquet, a batch at a time; a place is the row's number, from 1."""
    del problems  # a Parquet file is either whole or refused
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{shown}:{number}", row
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, ValueError) as error:
        found = f"damaged Parquet file: {str(error)[:160]}"
        raise refuse("E-DATA-009", found, "write or download the file again", f"{shown}:{number + 1}") from error


READERS: dict[str, Callable[[Path, str, Problems], Rows]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}

_BROKEN: Any = object()


class _TwiceError(ValueError):
    """A field that stands twice in one object: JSON would keep the last one, and say nothing."""


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(f'the field "{next(name for name in names if names.count(name) > 1)[:60]}" stands twice')
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_fields)


def _lines(stream: Any) -> Iterator[tuple[int, bytes]]:
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
        if whole:
            place = f"{place}:{error.lineno}"
        found = f"{error.msg} at column {error.colno}: {_excerpt(text, error.pos)}"
        problems.add("E-DATA-010", found, _FIX_JSON, place)
    except _TwiceError as error:
        problems.add("E-DATA-016", str(error), _FIX_TWICE, place)
    except RecursionError:
        problems.add("E-DATA-012", "nested too deeply", "flatten the row, or delete it", place)
    except ValueError as error:
        problems.add("E-DATA-012", str(error), "write the number as text, or delete the row", place)
    return _BROKEN


def _array(text: str, position: int, shown: str, problems: Problems) -> Rows:
    """Objects of an array one after another; after a syntax error there is no telling where the next one starts."""
    line, counted = 1, 0
    position = _skip(text, position)
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        place = f"{shown}:{line}"
        try:
            row, position = _DECODER.raw_decode(text, position)
            yield from _object(row, place, problems)
            position = _skip(text, position)
            if text[position : position + 1] not in (",", "]") or not text[position:]:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
            if text[position] == ",":
                position = _skip(text, position + 1)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at column {error.colno}: {_excerpt(text, error.pos)}"
            problems.add("E-DATA-010", found, _FIX_JSON, f"{shown}:{error.lineno}")
            return
        except _TwiceError as error:
            problems.add("E-DATA-016", str(error), _FIX_TWICE, place)
            return
        except (RecursionError, ValueError) as error:
            problems.add("E-DATA-012", f"cannot be parsed: {error}", _FIX_JSON, place)
            return


def _object(row: Any, place: str, problems: Problems) -> Rows:
    if isinstance(row, dict):
        yield place, row
    else:
        found = f"the row is {_type(row)}"
        problems.add("E-DATA-011", found, 'make it an object: {"instruction": ..., "output": ...}', place)


def _is_jsonl(text: str) -> bool:
    """Whether the first line is a whole object and more follows."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and (bool(rest.strip()) or "data" not in json.loads(first))
    except (ValueError, RecursionError):
        return False


def _check_header(header: list[str], shown: str) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not header or "" in header or repeated:
        found = f"column name used twice: {', '.join(repeated)}" if repeated else "a column without a name"
        raise refuse("E-DATA-013", found, "give every column its own name in the first line", f"{shown}:1")


def _skip(text: str, position: int) -> int:
    match = _WHITESPACE.match(text, position)
    return match.end() if match else position


def _excerpt(text: str, position: int) -> str:
    """About 60 characters around a position, on one line."""
    start = max(0, position - 30)
    piece = text[start : start + 60].strip("\r\n")
    return f"{'…' if start else ''}{piece}{'…' if start + 60 < len(text.rstrip()) else ''}"


def _type(value: Any) -> str:
    names: dict[type, str] = {list: "a list", dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
