"""What ranks do with whole sets of tensors: gradients are added, weights are copied.

Not covered: sharded models, whose passes add up the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from luthier.machine.ranks import all_or_none, exchange, most_of_ranks, together

_BUCKET_BYTES = 64 << 20


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add the gradients of all ranks, once a step; a rank without one adds nothing.

    Every rank has the same bits afterwards, and laid out alike, so that sums over them are rounded alike too. What has
    a gradient on no rank gets none: it would be decayed. There is a copy of some of them at a time.

    Args:
        parameters: The same on all ranks.

    Raises:
        OtherRankError: It failed elsewhere, and not here; some of the gradients are sums.
    """
    if together():
        trained = list(parameters)
        anywhere = most_of_ranks(*(float(p.grad is not None) for p in trained))
        for bucket in _buckets(p for p, has_one in zip(trained, anywhere, strict=True) if has_one):
            flat = all_or_none(partial(_in_a_row, bucket))
            exchange(dist.all_reduce, flat)
            for parameter, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter)


def _in_a_row(bucket: Iterable[nn.Parameter]) -> torch.Tensor:
    """This rank's gradients, flat."""
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in bucket])


def copy_from_rank_0(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the values of rank 0."""
    if together():
        for parameter in parameters:
            exchange(dist.broadcast, parameter.data, src=0)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one format each, together about as large as one message should be."""
    open_ones: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        bucket = open_ones.setdefault(parameter.dtype, [])
        bucket.append(parameter)
        if sum(p.numel() * p.element_size() for p in bucket) >= _BUCKET_BYTES:
            yield open_ones.pop(parameter.dtype)
    yield from open_ones.values()
