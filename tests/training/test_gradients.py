"""Gradient flow: norms of layers and histograms, against numpy's in float64."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn

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


@pytest.mark.parametrize("exact", [2**24, 8], ids=["at once", "in parts"])
def test_histograms_and_norms_are_those_of_numpy(monkeypatch, exact):
    monkeypatch.setattr(gradients, "_EXACT", exact)
    two = model()
    flow = gradient_flow(two, 3)
    assert flow.step == 3 and len(flow.histograms) == 8
    tensors = [x for p in two.layers.parameters() for x in (p.detach(), p.grad)]
    for buckets, tensor in zip(flow.histograms.values(), tensors, strict=True):
        counts, edges = numpy.histogram(tensor.double().numpy(), BUCKETS)
        assert [count for *_, count in buckets] == counts.tolist()
        assert [left for left, *_ in buckets] == pytest.approx(edges[:-1].tolist(), rel=1e-5, abs=1e-8)
        assert [right for _, right, _ in buckets] == pytest.approx(edges[1:].tolist(), rel=1e-5, abs=1e-8)
    total = sum(p.grad.double().square().sum().item() for p in two.layers.parameters())
    assert sum(norm**2 for norm in flow.norms.values()) == pytest.approx(total, rel=1e-6)


def test_a_tensor_of_one_value_is_one_bucket():
    two = model()
    weight = two.layers[0].weight
    weight.grad.zero_()
    nn.init.constant_(weight, 2.0)
    histograms = list(gradient_flow(two, 1).histograms.values())
    assert histograms[:2] == [[[2.0, 2.0, 35.0]], [[0.0, 0.0, 35.0]]]


def test_without_gradients_there_is_nothing():
    flow = gradient_flow(Two(), 1)
    assert (flow.norms, flow.histograms) == ({}, {})
