"""Who we are among the processes of a run.

One process is rank 0 of 1. Under `torchrun` the environment says otherwise, and the process group is opened once by
the caller; everything above asks these functions and never assumes that it is alone.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number; 0 writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes share the optimizer step."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sum_over_ranks(*numbers: float) -> tuple[float, ...]:
    """Add each number over all ranks, in float64; every rank gets the sums."""
    if not dist.is_initialized():
        return numbers
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    return tuple(total.tolist())
