"""Pairs of a chosen and a rejected answer to one prompt: two rows that stand next to each other in the store.

    store     ... | c0 | r0 | c1 | r1 | ...          each row: the prompt and one answer, whole
    PairRows  pair i = rows (chosen[i], chosen[i] + 1)

A pair is what a selection counts, deals and packs, so its two rows are always in one pass.

Shapes: R pairs of a selection, I of them chosen for something, K rows of each (2; 1 where rows are no pairs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from luthier.data.rows import Bool, Int32, Int64, Keys, RowStore, TokenRow

ROWS_OF_A_PAIR = 2
R = TypeVar("R")


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
        each: Rows of the store that make one of the selection.
    """

    each: ClassVar[int] = ROWS_OF_A_PAIR

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


def named(each: int) -> str:
    """What is counted where `each` rows belong together."""
    return "pairs" if each == ROWS_OF_A_PAIR else "rows"


class _Lengths(Protocol):
    @property
    def lengths(self) -> NDArray[np.int32]: ...


def single_lengths(rows: _Lengths, indices: Sequence[int]) -> Int32:
    """Tokens of single rows, shape (I, K): of a pair both, of anything else the row itself."""
    found: Int32 = rows.both[list(indices)] if isinstance(rows, PairRows) else rows.lengths[list(indices)][:, None]
    return found


def single_rows(items: Iterable[R | Pair]) -> list[R | TokenRow]:
    """Rows one by one: of a pair the chosen one and then the rejected one."""
    return [row for item in items for row in ((item.chosen, item.rejected) if isinstance(item, Pair) else (item,))]


def whole(rows: Bool, each: int) -> Bool:
    """Which rows [N] are left when of `each` rows that stand together all go with any one that goes."""
    left: Bool = rows.reshape(-1, each).all(axis=1).repeat(each)
    return left


def alike(store: RowStore, limit: int) -> Bool:
    """Which rows [N] of a store of pairs have the same tokens as the other one of their pair, cut to `limit`."""
    lengths = np.minimum(store.lengths, limit).reshape(-1, ROWS_OF_A_PAIR)
    same: Bool = lengths[:, 0] == lengths[:, 1]
    for number in np.flatnonzero(same):
        first = ROWS_OF_A_PAIR * int(number)
        one, other = store.row(first, limit), store.row(first + 1, limit)
        same[number] = np.array_equal(one.input_ids, other.input_ids)
    return same.repeat(ROWS_OF_A_PAIR)


def both_ways_round(prompt_keys: Keys, row_keys: Keys) -> int:
    """Prompts of which two answers are preferred to each other, in different pairs.

    Args:
        prompt_keys: uint64 [N], two rows a pair.
        row_keys: uint64 [N].
    """
    chosen, rejected = row_keys[::2], row_keys[1::2]
    turned = np.isin(pair_keys(rejected, chosen), pair_keys(chosen, rejected))
    return len(np.unique(prompt_keys[::2][turned]))


def pair_keys(chosen: Keys, rejected: Keys) -> Keys:
    """One key [R] for each pair; another one for the pair turned round."""
    return chosen * np.uint64(0x9E3779B97F4A7C15) + rejected  # wraps round; any odd factor keeps all bits
