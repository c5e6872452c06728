"""Who we are among the processes of a run.

One process is rank 0 of 1. Under `torchrun` the environment says otherwise, and the process group is opened once by
the caller; everything above asks these functions and never assumes that it is alone.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from luthier.errors import MissingError, Problem


def rank() -> int:
    """This process's number; 0 writes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes share the optimizer step."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_one_process() -> None:
    """Refuse an environment that promises other processes which nothing has connected.

    Raises:
        MissingError: E-ENV-004; each process would train its share of every step alone.
    """
    if world_size() > 1 and not dist.is_initialized():
        found = f"WORLD_SIZE={world_size()} is set, and training on several devices is not there yet"
        raise MissingError(Problem("E-ENV-004", found, "start one process without torchrun (unset WORLD_SIZE)"))


def sum_over_ranks(*numbers: float) -> tuple[float, ...]:
    """Add each number over all ranks, in float64; every rank gets the sums."""
    if not dist.is_initialized():
        return numbers
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    return tuple(total.tolist())
