"""Tokenized rows as numpy views on memory-mapped Arrow.

    RowStore   all rows of all sources, numbered through      tokens stay on disk until a row is asked for
    TokenRows  a selection of them, cut to max_seq_length     what training sees

Shapes: N rows of the store, R rows of a selection, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Keys = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class TokenRow:
    """One row.

    Attributes:
        input_ids: int32 [T].
        trained: bool [T]: which tokens are labels.
        place: ``file:line``.
    """

    input_ids: Int32
    trained: Bool
    place: str


@dataclass(frozen=True)
class _Chunk:
    """One Arrow batch, without copies; row r has ids[ids_at[r]:ids_at[r+1]] and likewise spans."""

    ids: Int32
    ids_at: Int32
    spans: Int32
    spans_at: Int32
    places: pa.StringArray


class RowStore:
    """All rows, numbered from 0 through all tables."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        batches = [batch for table in tables for batch in table.to_batches() if batch.num_rows]
        self._chunks = [_chunk(batch) for batch in batches]
        self._first = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self.prompt_keys: Keys = _joined([batch.column("prompt_key").to_numpy() for batch in batches], np.uint64)
        self.row_keys: Keys = _joined([batch.column("row_key").to_numpy() for batch in batches], np.uint64)
        self.lengths: Int32 = _joined([np.diff(chunk.ids_at) for chunk in self._chunks], np.int32)

    def __len__(self) -> int:
        return int(self._first[-1])

    def trained_within(self, limit: int) -> Int32:
        """Trained tokens of every row [N] among its first `limit` tokens."""
        counts = []
        for chunk in self._chunks:
            clipped = np.minimum(chunk.spans, limit)
            counts.append(np.add.reduceat(clipped[1::2] - clipped[::2], chunk.spans_at[:-1] // 2))
        return _joined(counts, np.int32)

    def begins_once(self, bos: int, *, ends_too: bool) -> Bool:
        """Which rows [N] begin with `bos` and have it nowhere else (`ends_too`: the same token also ends rows)."""
        found = []
        for chunk in self._chunks:
            is_bos = chunk.ids == bos
            starts = chunk.ids_at[:-1]
            second = is_bos[np.minimum(starts + 1, len(is_bos) - 1)] & (np.diff(chunk.ids_at) > 2)
            alone = ~second if ends_too else np.add.reduceat(is_bos, starts, dtype=np.int32) == 1
            found.append(is_bos[starts] & alone)
        return _joined(found, np.bool_)

    def largest_id(self) -> int:
        """The largest token id of all rows."""
        return max(int(chunk.ids.max()) for chunk in self._chunks)

    def ends_trained(self, stop: list[int], limit: int) -> Bool:
        """Which rows [N] still end with a trained stop token when cut to `limit` tokens."""
        found = []
        for chunk in self._chunks:
            lengths = np.diff(chunk.ids_at)
            last_trained = chunk.spans[chunk.spans_at[1:] - 1] == lengths
            found.append(np.isin(chunk.ids[chunk.ids_at[1:] - 1], stop) & last_trained & (lengths <= limit))
        return _joined(found, np.bool_)

    def place(self, number: int) -> str:
        """Where row `number` comes from."""
        chunk, row = self._find(number)
        return str(chunk.places[row].as_py())

    def row(self, number: int, limit: int) -> TokenRow:
        """Row `number`, cut to `limit` tokens."""
        chunk, row = self._find(number)
        ids = chunk.ids[chunk.ids_at[row] : chunk.ids_at[row + 1]][:limit]
        trained = np.zeros(len(ids), dtype=np.bool_)
        for start, end in chunk.spans[chunk.spans_at[row] : chunk.spans_at[row + 1]].reshape(-1, 2):
            trained[start:end] = True
        return TokenRow(ids, trained, str(chunk.places[row].as_py()))

    def _find(self, number: int) -> tuple[_Chunk, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        chunk = int(np.searchsorted(self._first, number, side="right")) - 1
        return self._chunks[chunk], number - int(self._first[chunk])


class TokenRows:
    """Rows chosen from a store; a row may be chosen more than once.

    Attributes:
        store: All rows, those that were not chosen too.
        chosen: int64 [R]: the numbers of the chosen ones in the store.
        limit: Longest row in tokens; what goes beyond is cut.
        lengths: int32 [R]: tokens of each row.
        trained: int32 [R]: trained tokens of each row.
    """

    def __init__(self, store: RowStore, chosen: Int64, limit: int) -> None:
        self.store = store
        self.chosen = chosen
        self.limit = limit
        self.lengths: Int32 = np.minimum(store.lengths[chosen], limit).astype(np.int32)
        self.trained: Int32 = store.trained_within(limit)[chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def row(self, index: int) -> TokenRow:
        """Row `index` of the selection. Tokens are read from disk (or the page cache) now.

        Raises:
            IndexError: No such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.store.row(int(self.chosen[index]), self.limit)


def _chunk(batch: pa.RecordBatch) -> _Chunk:
    ids, spans = batch.column("input_ids"), batch.column("spans")
    return _Chunk(
        ids.values.to_numpy(), ids.offsets.to_numpy(), spans.values.to_numpy(), spans.offsets.to_numpy(),
        batch.column("place"),
    )  # fmt: skip


def _joined(parts: list[Any], dtype: type[T]) -> NDArray[T]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype=dtype)
