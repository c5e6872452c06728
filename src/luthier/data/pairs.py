"""Pairs of a chosen and a rejected answer to one prompt: two rows that stand next to each other in the store.

    store   ... | c0 | r0 | c1 | r1 | ...          each row: the prompt and one answer, whole

A pair is one example of a `luthier.data.rows.Selection`, which counts, deals and packs examples: so its two rows are
always in one pass.

Shapes: N rows of the store, R pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from luthier.data.rows import Bool, Keys, RowStore

ROWS_OF_A_PAIR = 2


def alike(store: RowStore, limit: int) -> Bool:
    """Which rows [N] of a store of pairs have the same tokens as the other one of their pair, cut to `limit`."""
    lengths = np.minimum(store.lengths, limit).reshape(-1, ROWS_OF_A_PAIR)
    same: Bool = lengths[:, 0] == lengths[:, 1]
    for number in np.flatnonzero(same):
        first = ROWS_OF_A_PAIR * int(number)
        one, other = store.row(first, limit), store.row(first + 1, limit)
        same[number] = np.array_equal(one.input_ids, other.input_ids)
    return same.repeat(ROWS_OF_A_PAIR)


def both_ways_round(prompt_keys: Keys, row_keys: Keys) -> NDArray[np.intp]:
    """Of each prompt of which two answers are preferred to each other the first two pairs [P, 2] that do so, in order.

    Args:
        prompt_keys: uint64 [N], two rows a pair.
        row_keys: uint64 [N].
    """
    chosen, rejected = row_keys[::2], row_keys[1::2]
    keys, turned = pair_keys(chosen, rejected), pair_keys(rejected, chosen)
    one = np.flatnonzero(np.isin(turned, keys))
    one = np.sort(one[np.unique(prompt_keys[::2][one], return_index=True)[1]])
    kinds, first = np.unique(keys, return_index=True)
    return np.stack([one, first[np.searchsorted(kinds, turned[one])]], axis=1)


def pair_keys(chosen: Keys, rejected: Keys) -> Keys:
    """One key [R] for each pair; another one for the pair turned round."""
    return chosen * np.uint64(0x9E3779B97F4A7C15) + rejected  # wraps round; any odd factor keeps all bits
