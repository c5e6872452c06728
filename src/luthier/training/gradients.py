"""Gradient flow: how much of the error reaches each layer, and how weights and gradients are distributed.

Tensors of one size are summed up together: one by one, hundreds of small ones would keep a GPU waiting for their
launches longer than a step lasts.

Shape letters: M tensors of one size, N numbers in each.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from luthier.events.types import Gradients
from luthier.machine.shards import whole
from luthier.model.adapter import layer_name, tensor_name
from luthier.training.objective import widest

BUCKETS = 30
_AT_ONCE = 2**22
"""Numbers that are copied at a time."""


def gradient_flow(model: nn.Module, step: int) -> Gradients:
    """Norms per layer and histograms of every trained tensor and its gradient, before clipping.

    Everything is computed where the tensors lie and brought over at once: hundreds of tensors would be as many waits.
    Of a sharded model all ranks call it.
    """
    layers: list[str] = []
    tags: list[str] = []
    rows: dict[str, Tensor] = {}
    waiting: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        layers.append(layer_name(name))
        for kind, tensor in (("weights", parameter.detach()), ("gradients", parameter.grad)):
            tags.append(f"{kind}/{tensor_name(name)}")
            values_N = whole(tensor).float().flatten()
            same_size = waiting[len(values_N)]
            same_size[tags[-1]] = values_N
            if len(same_size) * len(values_N) >= _AT_ONCE:
                rows |= _summaries(waiting.pop(len(values_N)))
    for same_size in waiting.values():
        rows |= _summaries(same_size)
    table = torch.stack([rows[tag] for tag in tags]).tolist() if tags else []
    squares: dict[str, float] = defaultdict(float)
    for layer, (square, *_) in zip(layers, table[1::2], strict=True):
        squares[layer] += square
    norms = {name: value**0.5 for name, value in squares.items()}
    return Gradients(step=step, norms=norms, buckets={tag: row[1:] for tag, row in zip(tags, table, strict=True)})


def _summaries(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """[sum of squares, lowest, highest, numbers in each bucket between the two] of each tensor; nobody waits."""
    values_MN = torch.stack(list(tensors.values()))
    low_M1, high_M1 = (extreme[:, None] for extreme in values_MN.aminmax(dim=1))
    width_M1 = torch.where(high_M1 > low_M1, high_M1 - low_M1, 1.0)
    count, dtype = len(values_MN), widest(values_MN.device)
    number_M1 = BUCKETS * torch.arange(count, device=values_MN.device)[:, None] + 0.5  # the middle of the first bucket
    counts_MB = torch.zeros(count, BUCKETS, dtype=dtype, device=values_MN.device)
    for part_MN in torch.split(values_MN, max(1, _AT_ONCE // count), dim=1):
        # a float32 counts each of so few; `bincount` would ask the device for the largest first
        bucket_MN = ((part_MN - low_M1) / width_M1 * BUCKETS).floor_().clamp_(0, BUCKETS - 1)  # the highest in the last
        found = torch.histc(bucket_MN.add_(number_M1), count * BUCKETS, 0, count * BUCKETS)
        counts_MB += found.view(count, BUCKETS)
    squares_M1 = values_MN.square().sum(1, keepdim=True)
    rows = torch.cat([x.to(dtype) for x in (squares_M1, low_M1, high_M1, counts_MB)], dim=1)
    return dict(zip(tensors, rows, strict=True))
