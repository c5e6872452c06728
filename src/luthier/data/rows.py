"""Tokenized rows as numpy views on memory-mapped Arrow.

    RowStore   all rows of all sources, numbered through      tokens stay on disk until a row is asked for;
               long rows of plain text can be several of them
    Selection  examples of them, cut to max_seq_length        what training sees

An example is a row, or a pair of a chosen and a rejected answer to one prompt: rows that stand next to each other.

Shapes: N rows of the store, R examples of a selection, K rows of each, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
    """One Arrow batch, its ids without copies; row r has ids[ids_at[r]:ids_at[r+1]] and likewise spans.

    It may be a part of a row that was read: part `part[r]`, from 0, of the `parts[r]` of row `of[r]`.
    """

    ids: Int32
    ids_at: Int32
    spans: Int32
    spans_at: Int32
    places: pa.StringArray
    prompt_keys: Keys
    row_keys: Keys
    of: Int64
    part: Int64
    parts: Int64

    def __len__(self) -> int:
        return len(self.of)


class RowStore:
    """All rows, numbered from 0 through all tables.

    Args:
        tables: As `luthier.data.cache` writes them.
        split_at: Cut rows of plain text that are longer than so many tokens into parts, each a row of its own.
        each: Rows that belong together, of which all are used or none: 1, or the 2 of a pair.

    Attributes:
        lengths: Tokens of each row [N].
        prompt_keys: 64-bit hash of each row's question [N]; all parts of a row have the same.
        row_keys: The same of question and answer [N]; each part has its own.
        table: From which table each row is [N].
        begins, ends: Whether each row [N] has the beginning and the end of what was read.
    """

    def __init__(self, tables: Iterable[pa.Table], split_at: int | None = None, each: int = 1) -> None:
        self.each = each
        read = [(number, _chunk(batch)) for number, table in enumerate(tables) for batch in table.to_batches()]
        read = [(number, chunk) for number, chunk in read if len(chunk)]
        self._chunks = chunks = [_split(chunk, split_at) if split_at else chunk for _, chunk in read]
        self._first = np.cumsum([0, *map(len, chunks)])
        self.prompt_keys: Keys = _joined([chunk.prompt_keys for chunk in chunks], np.uint64)
        self.row_keys: Keys = _joined([chunk.row_keys for chunk in chunks], np.uint64)
        self.lengths: Int32 = _joined([np.diff(chunk.ids_at) for chunk in chunks], np.int32)
        self.table: Int64 = np.repeat([number for number, _ in read], [len(chunk) for chunk in chunks])
        self.begins: Bool = _joined([chunk.part == 0 for chunk in chunks], np.bool_)
        self.ends: Bool = _joined([chunk.part == chunk.parts - 1 for chunk in chunks], np.bool_)

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def unit(self) -> str:
        """What is counted: `rows` or `pairs`."""
        return "rows" if self.each == 1 else "pairs"

    def whole(self, rows: Bool) -> Bool:
        """Which rows [N] are left when of those that belong together all go with any one that goes."""
        left: Bool = rows.reshape(-1, self.each).all(axis=1).repeat(self.each)
        return left

    def firsts(self, rows: Bool) -> Int64:
        """The number of each example's first row, where `rows` [N] has all of its rows or none."""
        return np.flatnonzero(rows)[:: self.each]

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
        return _place(*self._find(number))

    def row(self, number: int, limit: int) -> TokenRow:
        """Row `number`, cut to `limit` tokens."""
        chunk, row = self._find(number)
        ids = chunk.ids[chunk.ids_at[row] : chunk.ids_at[row + 1]][:limit]
        trained = np.zeros(len(ids), dtype=np.bool_)
        for start, end in chunk.spans[chunk.spans_at[row] : chunk.spans_at[row + 1]].reshape(-1, 2):
            trained[start:end] = True
        return TokenRow(ids, trained, _place(chunk, row))

    def _find(self, number: int) -> tuple[_Chunk, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        chunk = int(np.searchsorted(self._first, number, side="right")) - 1
        return self._chunks[chunk], number - int(self._first[chunk])


class Selection:
    """Examples chosen from a store: rows, or pairs of them. One may be chosen more than once; a pair is never torn.

    Attributes:
        store: All rows, those that were not chosen too.
        chosen: int64 [R]: the number of each example's first row in the store; its others follow it.
        limit: Longest row in tokens; what goes beyond is cut.
        each: Rows of an example (K).
        row_lengths: int32 [R, K]: tokens of each row.
        lengths: int32 [R]: tokens of each example, its rows together; the prompt of a pair counts twice.
        trained: int32 [R]: trained tokens of each example, its rows together.
    """

    def __init__(self, store: RowStore, chosen: Int64, limit: int) -> None:
        self.store = store
        self.chosen = chosen
        self.limit = limit
        self.each = store.each
        self.row_lengths: Int32 = np.minimum(store.lengths[self.rows], limit).astype(np.int32)
        self.lengths: Int32 = self.row_lengths.sum(axis=1, dtype=np.int32)
        self.trained: Int32 = store.trained_within(limit)[self.rows].sum(axis=1, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def rows(self) -> Int64:
        """int64 [R, K]: the numbers of each example's rows in the store."""
        numbers: Int64 = self.chosen[:, None] + np.arange(self.each)
        return numbers

    def members(self, index: int) -> tuple[TokenRow, ...]:
        """The row or rows of example `index`: of a pair the chosen one first. Read from disk (or the page cache) now.

        Raises:
            IndexError: No such example.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = int(self.chosen[index])
        return tuple(self.store.row(number, self.limit) for number in range(first, first + self.each))


def _chunk(batch: pa.RecordBatch) -> _Chunk:
    ids, spans = batch.column("input_ids"), batch.column("spans")
    rows, once = np.arange(batch.num_rows), np.ones(batch.num_rows, dtype=np.int64)
    return _Chunk(
        ids.values.to_numpy(), ids.offsets.to_numpy(), spans.values.to_numpy(), spans.offsets.to_numpy(),
        batch.column("place"), batch.column("prompt_key").to_numpy(), batch.column("row_key").to_numpy(),
        rows, 0 * once, once,
    )  # fmt: skip


def _split(chunk: _Chunk, limit: int) -> _Chunk:
    """Rows of plain text over `limit` tokens in as few parts as it takes, all of about the same length.

    The first token of a part is its context and is not trained, as the first one of a row is not.
    """
    lengths = np.diff(chunk.ids_at).astype(np.int64)
    firsts, lasts = chunk.spans[chunk.spans_at[:-1]], chunk.spans[chunk.spans_at[1:] - 1]
    is_text = (np.diff(chunk.spans_at) == 2) & (firsts <= 1) & (lasts == lengths)
    parts = np.where(is_text, -(-lengths // limit), 1)
    if (parts == 1).all():
        return chunk
    of = np.repeat(np.arange(len(parts)), parts)
    part, parts = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts), parts[of]
    ids_at = np.append(chunk.ids_at[of] + lengths[of] * part // parts, chunk.ids_at[-1]).astype(np.int32)
    numbers = np.diff(chunk.spans_at)[of]
    spans_at = np.cumsum([0, *numbers]).astype(np.int32)
    spans = chunk.spans[np.repeat(chunk.spans_at[of] - spans_at[:-1], numbers) + np.arange(spans_at[-1])]
    cut = parts > 1
    spans[spans_at[:-1][cut]], spans[spans_at[:-1][cut] + 1] = 1, np.diff(ids_at)[cut]
    row_keys = chunk.row_keys[of] ^ part.astype(np.uint64)
    return replace(
        chunk, ids_at=ids_at, spans=spans, spans_at=spans_at, prompt_keys=chunk.prompt_keys[of], row_keys=row_keys,
        of=of, part=part, parts=parts,
    )  # fmt: skip


def _place(chunk: _Chunk, row: int) -> str:
    part = f" (part {chunk.part[row] + 1} of {chunk.parts[row]})" if chunk.parts[row] > 1 else ""
    return f"{chunk.places[int(chunk.of[row])].as_py()}{part}"


def _joined(parts: list[Any], dtype: type[T]) -> NDArray[T]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype=dtype)
