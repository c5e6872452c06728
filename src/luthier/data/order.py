"""Which rows make up which optimizer step: a pure function of the seed and the step's number.

Nothing is replayed and nothing is skipped on resume: the position in the data is one integer. Epochs follow each other
in one stream, each in its own random order, and a step takes the next `examples_per_step` rows of it:

    epoch 0: 7 2 9 0 4 | epoch 1: 3 9 1 ...          step s = stream[s * n : (s + 1) * n]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from luthier.data.pack import evenly


@lru_cache(maxsize=2)
def epoch_order(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The random order of all rows in one epoch, shape (num_rows,)."""
    return np.random.default_rng((seed, epoch)).permutation(num_rows)


def step_rows(num_rows: int, examples_per_step: int, seed: int, step: int) -> list[int]:
    """Row numbers of an optimizer step, over all ranks, in order.

    Args:
        num_rows: Training rows.
        examples_per_step: Rows of one optimizer step; fewer are returned only when there are not that many at all.
        seed: `training.seed`.
        step: 0 for the first step.
    """
    count = min(examples_per_step, num_rows)
    positions = range(step * count, (step + 1) * count)
    return [int(epoch_order(num_rows, seed, p // num_rows)[p % num_rows]) for p in positions]


def deal(rows: list[int], lengths: Sequence[int], rank: int, world_size: int) -> list[int]:
    """The part of a step's rows that one rank takes: about as many tokens as any other, because all wait for the last.

    Args:
        rows: Row numbers of the step.
        lengths: Tokens of each of them.
        rank: The rank.
        world_size: How many there are.
    """
    if world_size == 1:
        return rows
    return [rows[place] for place in sorted(evenly(lengths, world_size)[rank])]
