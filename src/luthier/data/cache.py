"""Tokenized rows on disk: an Arrow stream a source, memory-mapped when read, under a key of all that decides it.

A shard is two files: ``KEY.arrow`` and, written after it, ``KEY.json`` with its hash and what reading it noticed. Both
are written aside and renamed, so a shard is whole or absent; one that does not match its hash is built again.

Not covered: removing old shards (the folder may be deleted at any time).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from luthier import machine
from luthier.data.problems import refuse
from luthier.data.tokenize import Batch, Found
from luthier.machine.files import sweep_drafts, whole_file, write_whole

ROWS_VERSION = 4
"""Raise it with every change of this room that changes the tokens of a row."""

_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),
        ("prompt_key", pa.uint64()),
        ("row_key", pa.uint64()),
        ("place", pa.string()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """The tokenized rows of one source."""

    table: pa.Table
    found: Found
    hit: bool


def cache_folder(configured: str | None, base_dir: Path) -> Path:
    """Where shards lie: `data.cache_dir`, or `luthier/rows` in the user's cache folder."""
    if configured is not None:
        return base_dir / Path(configured).expanduser()
    return machine.cache_folder("rows")


def load_shard(folder: Path, key: str) -> Shard | None:
    """The shard under a key; ``None`` if it is absent or not whole."""
    try:
        note = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        with (folder / f"{key}.arrow").open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != note["sha256"]:
                return None
        if set(note["found"]) != {field.name for field in fields(Found)}:
            return None  # of a version that noticed something else
        return Shard(_mapped(folder / f"{key}.arrow"), Found(**note["found"]), hit=True)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def build_shard(folder: Path, key: str, batches: Iterator[Batch], found: Found) -> Shard:
    """Write a shard and map it.

    Args:
        folder: Cache folder; made if absent.
        key: Name of the shard.
        batches: The rows; if it raises, nothing is kept.
        found: What reading notices; whole when `batches` has ended.

    Raises:
        DataError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_drafts(folder)  # those of rows are large, and a stop while they are read leaves one
        with whole_file(folder / f"{key}.arrow") as sink:
            with pa.ipc.new_stream(sink, _SCHEMA) as writer:
                for batch in batches:
                    writer.write_batch(_record_batch(batch))
            sink.flush()
            sink.seek(0)
            note = {"sha256": hashlib.file_digest(sink, "sha256").hexdigest(), "found": asdict(found)}
        write_whole(folder / f"{key}.json", json.dumps(note))
        return Shard(_mapped(folder / f"{key}.arrow"), found, hit=False)
    except OSError as error:
        found_text = f"cannot write tokenized rows: {error.strerror or error}"
        raise refuse("E-DATA-043", found_text, "set data.cache_dir to a folder with space", str(folder)) from error


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
    if table.schema != _SCHEMA:
        raise ValueError("another schema")
    return table


def _record_batch(batch: Batch) -> pa.RecordBatch:
    return pa.record_batch(
        [
            _lists(batch.input_ids),
            _lists(batch.spans),
            pa.array(batch.prompt_keys, pa.uint64()),
            pa.array(batch.row_keys, pa.uint64()),
            pa.array(batch.places, pa.string()),
        ],
        schema=_SCHEMA,
    )


def _lists(rows: list[list[int]]) -> pa.ListArray:
    """Lists as one array of values and one of offsets: ten times faster than converting row by row."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(offsets, values)
