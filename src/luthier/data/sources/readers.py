"""One reader a file type, each a generator of (place, row) that holds one row (JSON, CSV) or batch (Parquet).

Not covered: how JSON is read (`luthier.data.sources.json_rows`).
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.data.problems import Problems, refuse
from luthier.data.sources.first_bytes import convert_command, describe_decode_error
from luthier.data.sources.json_rows import FIX_LONG, LONG, MAX_LINE_BYTES, Rows, read_json, read_jsonl

_PARQUET_BATCH_ROWS = 1000
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def read_csv(path: Path, shown: str, problems: Problems) -> Rows:
    """Comma-separated values with a header; a place is the line where the row begins."""
    previous_limit = csv.field_size_limit(MAX_LINE_BYTES)
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(_bounded_lines(stream, shown), strict=True)
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


def _bounded_lines(stream: TextIO, shown: str) -> Iterator[str]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise refuse("E-DATA-012", LONG, FIX_LONG, f"{shown}:{number}")
        yield line


def _with_commas(name: str, separator: str) -> str:
    """How to write the file again with commas, every field as it stands: a spreadsheet may have no such choice."""
    read = f"pandas.read_csv({json.dumps(name)}, sep={json.dumps(separator)}, dtype=str, keep_default_na=False)"
    program = f'import pandas; {read}.to_csv("converted.csv", index=False)'
    return f"write it with commas: python -c {shlex.quote(program)}"


def _check_header(header: list[str], shown: str) -> None:
    if len(header) == 1 and (separator := next((each for each in _OTHER_SEPARATORS if each in header[0]), "")):
        found = f'one column, "{header[0][:80]}": its names are separated by {_OTHER_SEPARATORS[separator]}'
        raise refuse("E-DATA-013", found, _with_commas(shown, separator), f"{shown}:1")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not header or "" in header or repeated:
        found = f"column name used twice: {', '.join(repeated)}" if repeated else "a column without a name"
        raise refuse("E-DATA-013", found, "give every column its own name in the first line", f"{shown}:1")
