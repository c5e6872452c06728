"""The largest passes that a run will make: a pure function of lengths and seed, known before the first step.

A pass can be the largest in three ways, and memory asks for each: most tokens computed (the layers), the longest row
(attention), most trained tokens (the head's input). Where rows share their beginning, the tokens that are computed are
known only once the rows are laid together; those are never more than the rows' own, so passes are tried from the
largest sum of lengths downwards, until the next sum is no larger than what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.config.plan import Plan
from luthier.data.loader import Rows, collate, evaluation_passes, step_passes

MOST_STEPS = 20_000
"""Steps that are looked at; a run that is longer has seen all its rows several times by then."""
_MOST_TRIED = 500


class CountedRows(Rows, Protocol):
    """Rows that know how many of their tokens are trained."""

    @property
    def trained(self) -> NDArray[np.int32]:
        """Trained tokens of each row; of a pair those of both."""


@dataclass(frozen=True)
class Largest:
    """The passes to try.

    Attributes:
        tokens: Computed in the largest one, padding included, a shared beginning counted once.
        trained_tokens: Most trained tokens in one pass.
        longest_row_tokens: Of all rows that are drawn; of pairs, of each of their two rows.
        passes: Rows (or pairs) of the passes in which that happens: one to three of them.
        evaluation: Those of the largest evaluation pass; empty when nothing is held out.
        most_passes: Most passes in one step.
        usual_row_tokens: Length of a token's row on average in the largest pass, padding included: sum of squares over
            sum of lengths.
    """

    tokens: int
    trained_tokens: int
    longest_row_tokens: int
    passes: tuple[tuple[int, ...], ...]
    evaluation: tuple[int, ...]
    most_passes: int
    usual_row_tokens: int


def find_largest(train: CountedRows, held_out: Rows | None, plan: Plan, rank: int = 0, world_size: int = 1) -> Largest:
    """Go through all steps of a run, and the held-out rows.

    Args:
        train: Rows to train on; at least one.
        held_out: Rows to evaluate on.
        plan: Says how a step is split.
        rank: This process.
        world_size: Number of processes.
    """
    steps = [step_passes(train, plan, s, rank, world_size) for s in range(min(plan.total_steps, MOST_STEPS))]
    passes = list(dict.fromkeys(tuple(rows) for step in steps for rows in step))
    fullest, tokens = _most_tokens(train, passes, plan)
    longest = max(passes, key=lambda rows: int(train.row_lengths[list(rows)].max()))
    trained = max(passes, key=lambda rows: int(train.trained[list(rows)].sum()))
    lengths = train.row_lengths[list(fullest)].astype(np.float64)
    if not plan.packed:
        lengths[:] = lengths.max()
    evaluation: tuple[int, ...] = ()
    if held_out is not None and plan.eval_every:
        groups = (tuple(rows) for rows in evaluation_passes(held_out, plan, rank, world_size))
        evaluation = _most_tokens(held_out, groups, plan)[0]  # none: fewer rows than ranks
    return Largest(
        tokens=tokens,
        trained_tokens=int(train.trained[list(trained)].sum()),
        longest_row_tokens=int(train.row_lengths[list(longest)].max()),
        passes=tuple(dict.fromkeys((fullest, longest, trained))),
        evaluation=evaluation,
        most_passes=max(len(step) for step in steps),
        usual_row_tokens=round(float((lengths**2).sum() / lengths.sum())),
    )


def _most_tokens(rows: Rows, passes: Iterable[tuple[int, ...]], plan: Plan) -> tuple[tuple[int, ...], int]:
    """The pass that computes the most tokens, and how many."""
    passes = list(passes)
    if not passes:
        return (), 0
    sized = sorted(((_tokens(rows, group, packed=plan.packed), group) for group in passes), reverse=True)
    if not plan.share_beginnings:
        return sized[0][1], sized[0][0]
    best, most = sized[0][1], 0
    for whole, group in sized[:_MOST_TRIED]:
        if whole <= most:
            break
        computed = collate(rows, group, plan).input_ids_BT.numel()
        if computed > most:
            best, most = group, computed
    return best, most


def _tokens(rows: Rows, group: Sequence[int], *, packed: bool) -> int:
    own = rows.row_lengths[list(group)]
    return int(own.sum() if packed else own.size * own.max())
