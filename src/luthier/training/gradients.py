"""Gradient flow: how much of the error reaches each layer, and how weights and gradients are distributed."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from luthier.events.types import Gradients
from luthier.machine.shards import whole
from luthier.model.adapter import layer_name, tensor_name

BUCKETS = 30


def gradient_flow(model: nn.Module, step: int) -> Gradients:
    """Norms per layer and histograms of every trained tensor and its gradient, before clipping.

    Of a sharded model all ranks call it.
    """
    squares: dict[str, float] = defaultdict(float)
    histograms: dict[str, list[list[float]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        gradient = whole(parameter.grad)
        squares[layer_name(name)] += float(gradient.float().square().sum())
        histograms[f"weights/{tensor_name(name)}"] = _histogram(whole(parameter.detach()))
        histograms[f"gradients/{tensor_name(name)}"] = _histogram(gradient)
    return Gradients(step=step, norms={name: value**0.5 for name, value in squares.items()}, histograms=histograms)


def _histogram(tensor: torch.Tensor) -> list[list[float]]:
    """[left, right, count] per bucket, over the tensor's own range."""
    values = tensor.float().cpu().flatten()
    low, high = values.min().item(), values.max().item()
    if low == high:
        return [[low, high, float(values.numel())]]
    counts = torch.histc(values, BUCKETS, low, high)
    edges = torch.linspace(low, high, BUCKETS + 1)
    return [[edges[i].item(), edges[i + 1].item(), counts[i].item()] for i in range(BUCKETS)]
