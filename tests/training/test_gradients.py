"""Gradient flow: norms of layers and histograms, against numpy's in float64."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.training import gradients
from luthier.training.gradients import BUCKETS, gradient_flow


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(7, 5) for _ in range(2))
        self.frozen = nn.Linear(3, 3)


def model():
    torch.manual_seed(0)
    two = Two()
    for parameter in two.layers.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return two


@pytest.mark.parametrize("at_once", [2**22, 100, 8], ids=["at once", "two and two", "in parts"])
def test_histograms_and_norms_are_those_of_numpy(monkeypatch, at_once):
    monkeypatch.setattr(gradients, "_AT_ONCE", at_once)
    two = model()
    flow = gradient_flow(two, 3)
    names = ("layers.0", "layers.0.bias", "layers.1", "layers.1.bias")
    assert flow.step == 3
    assert list(flow.buckets) == [f"{kind}/{name}" for name in names for kind in ("weights", "gradients")]
    tensors = [x for p in two.layers.parameters() for x in (p.detach(), p.grad)]
    for (low, high, *found), tensor in zip(flow.buckets.values(), tensors, strict=True):
        counts, edges = numpy.histogram(tensor.double().numpy(), BUCKETS)
        assert found == counts.tolist() and (low, high) == (edges[0], edges[-1])
    total = sum(p.grad.double().square().sum().item() for p in two.layers.parameters())
    assert sum(norm**2 for norm in flow.norms.values()) == pytest.approx(total, rel=1e-6)


def test_a_tensor_of_one_value_is_one_bucket():
    two = model()
    weight = two.layers[0].weight
    weight.grad.zero_()
    nn.init.constant_(weight, 2.0)
    rest = [0.0] * (BUCKETS - 1)
    assert list(gradient_flow(two, 1).buckets.values())[:2] == [[2.0, 2.0, 35.0, *rest], [0.0, 0.0, 35.0, *rest]]


def test_without_gradients_there_is_nothing():
    flow = gradient_flow(Two(), 1)
    assert (flow.norms, flow.buckets) == ({}, {})


class Waits(TorchDispatchMode):
    """What would have waited for a GPU: `bincount` looks for the smallest and the largest number there."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.bincount.default, torch.ops.aten._local_scalar_dense.default):
            self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_the_device_is_waited_for_once_however_many_tensors_there_are():
    two = model()
    with Waits() as waits:
        gradient_flow(two, 1)
    assert waits.seen == []  # the table as a whole is no single number
