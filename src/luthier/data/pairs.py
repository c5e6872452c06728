"""Pairs of a chosen and a rejected answer to one prompt: two rows that stand next to each other in the store.

    store     ... | c0 | r0 | c1 | r1 | ...          each row: the prompt and one answer, whole
    PairRows  pair i = rows (chosen[i], chosen[i] + 1)

A pair is what a selection counts, deals and packs, so its two rows are always in one pass.

Shapes: R pairs of a selection, I of them chosen for something, K rows of each (2; 1 where rows are no pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.data.rows import Bool, Int32, Int64, RowStore, TokenRow

ROWS_OF_A_PAIR = 2


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the better one first."""

    chosen: TokenRow
    rejected: TokenRow

    @property
    def place(self) -> str:
        """``file:line`` of the row that both come from."""
        return self.chosen.place


class PairRows:
    """Pairs chosen from a store; a pair may be chosen more than once.

    Attributes:
        store: All rows, those of pairs that were not chosen too.
        chosen: int64 [R]: number of each pair's first row in the store, the chosen answer; the next one is rejected.
        limit: Longest row in tokens; what goes beyond is cut.
        both: int32 [R, 2]: tokens of each pair's rows.
        lengths: int32 [R]: tokens of each pair, both rows together; the prompt counts twice.
        trained: int32 [R]: trained tokens of each pair, both answers together.
    """

    def __init__(self, store: RowStore, chosen: Int64, limit: int) -> None:
        self.store = store
        self.chosen = chosen
        self.limit = limit
        rows = chosen[:, None] + np.arange(ROWS_OF_A_PAIR)
        self.both: Int32 = np.minimum(store.lengths[rows], limit).astype(np.int32)
        self.lengths: Int32 = self.both.sum(axis=1, dtype=np.int32)
        self.trained: Int32 = store.trained_within(limit)[rows].sum(axis=1, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.chosen)

    def row(self, index: int) -> Pair:
        """Pair `index` of the selection. Tokens are read from disk (or the page cache) now.

        Raises:
            IndexError: No such pair.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = int(self.chosen[index])
        return Pair(self.store.row(first, self.limit), self.store.row(first + 1, self.limit))


class _Lengths(Protocol):
    @property
    def lengths(self) -> NDArray[np.int32]: ...


def single_lengths(rows: _Lengths, indices: Sequence[int]) -> Int32:
    """Tokens of single rows, shape (I, K): of a pair both, of anything else the row itself."""
    found: Int32 = rows.both[list(indices)] if isinstance(rows, PairRows) else rows.lengths[list(indices)][:, None]
    return found


def whole_pairs(rows: Bool) -> Bool:
    """Which rows [N] of a store of pairs are left when a pair goes with either of its rows."""
    left: Bool = rows.reshape(-1, ROWS_OF_A_PAIR).all(axis=1).repeat(ROWS_OF_A_PAIR)
    return left
