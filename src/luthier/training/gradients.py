"""Gradient flow: how much of the error reaches each layer, and how weights and gradients are distributed."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from luthier.events.types import Gradients
from luthier.machine.shards import whole
from luthier.model.adapter import layer_name, tensor_name

BUCKETS = 30
_EXACT = 2**24
"""A float32 counts no further one by one."""


def gradient_flow(model: nn.Module, step: int) -> Gradients:
    """Norms per layer and histograms of every trained tensor and its gradient, before clipping.

    Everything is computed where the tensors lie and brought over at once: hundreds of tensors would be as many waits.
    Of a sharded model all ranks call it.
    """
    layers, tags, columns = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        gradient = whole(parameter.grad).float()
        layers.append(layer_name(name))
        tags += [f"weights/{tensor_name(name)}", f"gradients/{tensor_name(name)}"]
        columns += [_summary(whole(parameter.detach()).float()), _summary(gradient)]
    squares: dict[str, float] = defaultdict(float)
    table = torch.stack(columns).tolist() if columns else []
    for layer, (square, *_) in zip(layers, table[1::2], strict=True):
        squares[layer] += square
    histograms = {tag: _histogram(low, high, row) for tag, (_, low, high, *row) in zip(tags, table, strict=True)}
    return Gradients(step=step, norms={name: value**0.5 for name, value in squares.items()}, histograms=histograms)


def _summary(values: torch.Tensor) -> torch.Tensor:
    """[sum of squares, lowest, highest, numbers in each bucket between the two], where the values lie; nobody waits."""
    low, high = values.aminmax()
    share = (values - low) / torch.where(high > low, high - low, 1.0)
    parts = torch.split(share.flatten(), _EXACT)
    buckets = torch.stack([torch.histc(part, BUCKETS, 0.0, 1.0) for part in parts]).sum(0)
    return torch.cat((torch.stack((values.square().sum(), low, high)), buckets))


def _histogram(low: float, high: float, counts: list[float]) -> list[list[float]]:
    """[left, right, count] per bucket, over the tensor's own range."""
    if low == high:
        return [[low, high, sum(counts)]]
    edges = torch.linspace(low, high, BUCKETS + 1).tolist()
    return [[left, right, count] for left, right, count in zip(edges, edges[1:], counts, strict=False)]
