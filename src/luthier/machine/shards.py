"""Tensors that are sharded over ranks: each rank holds some rows of them (a `DTensor` with `Shard(0)`).

    4 ranks, 10 rows      rank 0: 0 1 2    rank 1: 3 4 5    rank 2: 6 7 8    rank 3: 9

A tensor that is not sharded is its own part and its own whole, so that who asks need not know.

Not covered: how a model becomes sharded (`luthier.model.sharded`); other dimensions than the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from luthier.machine.ranks import in_step, of_rank_0, rank

_T = TypeVar("_T")
GatherTensor = Callable[[str], Tensor]
"""Told the name of a tensor that all ranks know; gives it whole, on the CPU."""


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds a part of it only."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of it, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of it; every rank that has a part must call, and waits for the others as in a step.

    Raises:
        OtherRankError: One of them is gone.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    sharded = tensor

    def gathered() -> Tensor:
        complete: Tensor = sharded.full_tensor()
        if complete.is_cuda:  # it is only queued
            torch.cuda.current_stream().synchronize()
        return complete

    return in_step(gathered)


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Copy this rank's part of `values` (all of the tensor, maybe mapped from a file) into it."""
    part = own_part(tensor)
    if isinstance(tensor, DTensor):
        mesh = tensor.device_mesh
        parts = values.chunk(mesh.size())
        number = mesh.get_local_rank()
        values = parts[number] if number < len(parts) else values[:0]
    part.copy_(values)


def on_rank_0_with(tensors: Mapping[str, Tensor], work: Callable[[GatherTensor], _T]) -> _T | None:
    """What `work` returns on rank 0, None on the others, who lend it their parts of what it asks for.

    It may ask for any of the tensors, in any order and one at a time, so that no rank holds more than one of them
    whole; and it may fail anywhere, at which the others just go on.

    Args:
        tensors: The same names on all ranks, sharded or not.
        work: On rank 0; told how to get a tensor whole.
    """
    if rank() == 0:
        return _borrow(tensors, work)
    while name := of_rank_0(""):
        whole(tensors[name].detach())
    return None


def _borrow(tensors: Mapping[str, Tensor], work: Callable[[GatherTensor], _T]) -> _T:
    def ask(name: str) -> Tensor:
        if is_sharded(tensors[name]):
            of_rank_0(name)
        return whole(tensors[name].detach()).cpu()

    try:
        return work(ask)
    finally:
        of_rank_0("")
