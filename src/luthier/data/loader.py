"""Micro-batches of each optimizer step, packed ahead of the engine by threads.

The result does not depend on the number of threads: steps are handed out in order, and each is a pure function of the
plan and its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.config.plan import Plan
from luthier.data.collate import MicroBatch, Row, collate_packed, collate_padded, in_pairs
from luthier.data.order import deal, step_rows
from luthier.data.pack import pack, pad
from luthier.data.pairs import ROWS_OF_A_PAIR

_ROWS_AT_ONCE = 256


@dataclass
class StepBatches:
    """The micro-batches of a step.

    Attributes:
        packed: As they were packed.
        moved: The same on the device, where they were moved there before their turn.
    """

    packed: list[MicroBatch]
    moved: list[MicroBatch] | None = None

    @property
    def nearest(self) -> list[MicroBatch]:
        """Those on the device, where they are there already; else as they were packed."""
        return self.moved or self.packed

    def rebuild(self, packed: list[MicroBatch]) -> None:
        """The same examples in other micro-batches."""
        self.packed, self.moved = packed, None

    def move(self, device: torch.device) -> list[MicroBatch]:
        """Those on the device, moved there if they are not yet."""
        if self.moved is None:
            self.moved = [batch.to(device) for batch in self.packed]
        return self.moved


class Lookahead:
    """The steps in turn; the next one can be had, and moved to the device, before.

    Args:
        steps: As `training_steps` gives them.
    """

    def __init__(self, steps: Iterator[list[MicroBatch]]) -> None:
        self._steps = steps
        self._next: StepBatches | None = None

    def __iter__(self) -> Lookahead:
        return self

    def __next__(self) -> StepBatches:
        """The next one."""
        step, self._next = self._next, None
        return step or StepBatches(next(self._steps))

    def peek(self, device: torch.device) -> list[MicroBatch]:
        """Those of the step after, on the device; none after the last one. Where memory runs out, ask once more."""
        if self._next is None:
            if (packed := next(self._steps, None)) is None:
                return []
            self._next = StepBatches(packed)  # kept first: moving them may fail, and they have come out of `steps`
        return self._next.move(device)


class Rows(Protocol):
    """Tokenized rows, or pairs of them; `luthier.data.rows.Selection` is one."""

    @property
    def each(self) -> int:
        """Rows of an example (K): 1, or the 2 of a pair."""

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        """Tokens of each row, shape (R, K)."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example, its rows together, shape (R,)."""

    def __len__(self) -> int:
        """Number of examples (R)."""

    def members(self, index: int) -> Sequence[Row]:
        """The rows of one example."""


def split(rows: Rows, indices: Sequence[int], plan: Plan, most_rows: int) -> list[list[int]]:
    """The given rows in groups, each one a pass within the plan's token budget.

    A model that turns long rows in another way than short ones (longrope, dynamic scaling) does so with all that share
    their pass, so there they share none.
    """
    numbers = range(len(indices))
    if not plan.config.training.auto:
        return [list(indices[start : start + most_rows]) for start in numbers[::most_rows]]
    lengths, most = rows.row_lengths[list(indices)], plan.model.short_row_tokens if plan.model else None
    is_long = lengths.max(axis=1) > (most or np.inf)
    sides = [np.flatnonzero(is_long == side).tolist() for side in (False, True)]
    groups = sorted([side[i] for i in group] for side in sides for group in _groups(lengths[side], plan, most_rows))
    return [[indices[i] for i in group] for group in groups]


def _groups(lengths: NDArray[np.int32], plan: Plan, most_rows: int) -> list[list[int]]:
    """Examples of these lengths (R, K) in groups."""
    budget = plan.max_tokens_per_micro_batch
    if plan.packed:
        return pack(lengths.sum(axis=1).tolist(), budget)
    # both rows of a pair are padded to the longer one
    return pad((lengths.max(axis=1, initial=0) * lengths.shape[1]).tolist(), budget, most_rows)


def collate(rows: Rows, indices: Sequence[int], plan: Plan) -> MicroBatch:
    """The given rows, or pairs, as one micro-batch."""
    single = [row for i in indices for row in rows.members(i)]
    batch = collate_packed(single, share=plan.share_beginnings) if plan.packed else collate_padded(single)
    return in_pairs(batch, single, indices) if rows.each == ROWS_OF_A_PAIR else batch


def evaluation_batches(rows: Rows, plan: Plan, rank: int, world_size: int) -> Iterator[MicroBatch]:
    """This rank's share of the held-out rows, in micro-batches, a few hundred rows in memory at a time."""
    for group in evaluation_passes(rows, plan, rank, world_size):
        yield collate(rows, group, plan)


def evaluation_passes(rows: Rows, plan: Plan, rank: int, world_size: int) -> Iterator[list[int]]:
    """The rows of each of these micro-batches."""
    settings = plan.config.evaluation
    most_rows = settings.per_device_eval_batch_size or plan.config.training.per_device_train_batch_size
    mine = list(range(len(rows)))[rank::world_size]
    for start in range(0, len(mine), _ROWS_AT_ONCE):
        yield from split(rows, mine[start : start + _ROWS_AT_ONCE], plan, most_rows)


def step_passes(rows: Rows, plan: Plan, step: int, rank: int, world_size: int) -> list[list[int]]:
    """The rows of each of this rank's micro-batches of a step."""
    training = plan.config.training
    indices = step_rows(len(rows), plan.examples_per_step, training.seed, step)
    indices = deal(indices, [int(rows.lengths[i]) for i in indices], rank, world_size)
    return split(rows, indices, plan, training.per_device_train_batch_size)


def step_batches(rows: Rows, plan: Plan, step: int, rank: int, world_size: int) -> list[MicroBatch]:
    """This rank's micro-batches of one step; 0 for the first."""
    return [collate(rows, group, plan) for group in step_passes(rows, plan, step, rank, world_size)]


def training_steps(rows: Rows, plan: Plan, first_step: int, rank: int, world_size: int) -> Iterator[list[MicroBatch]]:
    """For each step from `first_step` to the last: this rank's micro-batches."""

    def build(step: int) -> list[MicroBatch]:
        return step_batches(rows, plan, step, rank, world_size)

    steps = range(first_step, plan.total_steps)
    workers = plan.config.data.dataloader_num_workers
    if workers == 0:
        yield from map(build, steps)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="luthier-pack") as pool:
        ahead: deque[Future[list[MicroBatch]]] = deque()
        for step in steps:
            ahead.append(pool.submit(build, step))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
