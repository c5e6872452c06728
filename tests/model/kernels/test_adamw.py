"""Clipping and AdamW on a flat buffer, step by step beside torch's own in float64."""

import pytest
import torch

from tests.model.kernels.support import DEVICE, close, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
adamw = pytest.importorskip("luthier.model.kernels.adamw")
SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6], ids=["never", "clips", "is long enough"])
@pytest.mark.parametrize("size", [1, 1000, 3001], ids=str)
def test_it_is_torchs(size, max_norm):
    weights = normal(size, dtype=torch.float32)
    exact = torch.nn.Parameter(weights.double())
    optimizer = torch.optim.AdamW([exact], **SETTINGS)
    average, squares = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(1, 5):
        gradients = normal(size, dtype=torch.float32, seed=step) * 10.0 ** (step - 2)
        before, norm = gradients.clone(), gradients.norm()
        adamw.adamw(weights, gradients, average, squares, norm, step=step, max_norm=max_norm, **SETTINGS)
        assert torch.equal(gradients, before)
        exact.grad = gradients.double()
        if max_norm:
            torch.nn.utils.clip_grads_with_norm_([exact], max_norm, norm.double())
        optimizer.step()
        state = optimizer.state[exact]
        close(average, state["exp_avg"], 1e-6)
        close(squares, state["exp_avg_sq"], 1e-6)
        close(weights, exact.detach(), 1e-6)


def test_huge_gradients_are_shortened_and_none_move_nothing():
    weights, zeros = normal(40, dtype=torch.float32), torch.zeros(40, device=normal(1).device)
    before = weights.clone()
    gradients = torch.full_like(weights, 1e18)
    average, squares = zeros.clone(), zeros.clone()
    settings = SETTINGS | {"weight_decay": 0.0}
    adamw.adamw(weights, gradients, average, squares, gradients.norm(), step=1, max_norm=1.0, **settings)
    assert torch.isfinite(squares).all()
    close(weights, before - SETTINGS["lr"], 1e-5)
    empty = zeros[:0]
    adamw.adamw(empty, empty, empty, empty, gradients.norm(), step=1, max_norm=1.0, **settings)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
@pytest.mark.parametrize("norm", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_no_number_moves_nothing(norm, max_norm):
    tensors = [normal(1500, dtype=torch.float32, seed=seed) for seed in range(4)]
    tensors[1][7] = float("nan")
    before = [x.clone() for x in tensors]
    length = torch.tensor(norm, device=DEVICE)
    adamw.adamw(*tensors, length, step=2, max_norm=max_norm, **SETTINGS)
    for found, was in zip(tensors, before, strict=True):
        assert torch.equal(found.nan_to_num(7.0), was.nan_to_num(7.0))
