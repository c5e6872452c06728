"""RMSNorm and its gradient, with strides, odd sizes, huge and tiny numbers, and nothing at all."""

import pytest
import torch

from luthier.model.lean import pieces
from tests.model.kernels.support import ON_GPU, TOLERANCES, close, dtypes, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
norm = pytest.importorskip("luthier.model.kernels.norm")
EPS = 1e-5


def reference(x, weight, grad):
    x64 = x.double().detach().clone().requires_grad_()
    y = weight.double() * x64 * (x64.pow(2).mean(-1, keepdim=True) + EPS).rsqrt()
    y.backward(grad.double())
    return y.detach(), x64.grad


@dtypes
@pytest.mark.parametrize("shape", [(1, 3), (7, 48), (33, 100), (3, 5000), (5, 3, 24)], ids=str)
def test_it_equals_float64(dtype, shape):
    x, grad, weight = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1), normal(shape[-1], seed=2)
    weight = weight.to(dtype)
    wanted, wanted_grad = reference(x, weight, grad)
    found = norm.rms_norm(x, weight, EPS)
    assert found.dtype is dtype and found.is_contiguous()
    close(found, wanted, TOLERANCES[dtype])
    found = norm.rms_norm_backward(grad, x, weight, EPS)
    assert found.dtype is dtype
    close(found, wanted_grad, TOLERANCES[dtype])


@dtypes
def test_the_residuals_gradient_is_added(dtype):
    x, grad, onto = (normal(9, 40, dtype=dtype, seed=seed) for seed in range(3))
    weight = normal(40, dtype=dtype, seed=4)
    wanted = reference(x, weight, grad)[1] + onto.double()
    close(norm.rms_norm_backward(grad, x, weight, EPS, onto), wanted, TOLERANCES[dtype])


@dtypes
@pytest.mark.parametrize("shape", [(1, 3), (7, 48), (3, 5000)], ids=str)
def test_a_branch_is_added_first_and_the_norm_is_that_of_what_is_written(dtype, shape):
    branch, x, weight = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1), normal(shape[-1], seed=2)
    weight, wanted, before = weight.to(dtype), branch.double() + x.double(), x.clone()
    found, normed = norm.add_rms_norm(branch, x, weight, EPS)
    assert found is branch and torch.equal(x, before)
    close(found, wanted, TOLERANCES[dtype])
    if ON_GPU or dtype is not torch.bfloat16:  # which the interpreter cuts off
        assert torch.equal(found, wanted.to(dtype) if dtype is torch.float64 else (wanted.float()).to(dtype))
    assert torch.equal(normed, norm.rms_norm(found, weight, EPS))


def test_heads_are_read_where_they_lie():
    qkv, weight = normal(6, 7 * 10, dtype=torch.float32), normal(10, dtype=torch.float32, seed=1)
    view = qkv.view(6, 7, 10)[:, 2:5]
    grad = normal(6, 9 * 10, dtype=torch.float32, seed=2).view(6, 9, 10)[:, 1:4]
    assert not view.is_contiguous()
    close(norm.rms_norm(view, weight, EPS), pieces.rms_norm(view, weight, EPS), 2e-6)
    found = norm.rms_norm_backward(grad, view, weight, EPS)
    close(found, pieces.rms_norm_backward(grad, view, weight, EPS), 2e-6)


@pytest.mark.parametrize("size", [1e18, 1e-18, 0.0], ids=str)
def test_huge_tiny_and_no_numbers(size):
    x, grad = (normal(4, 32, dtype=torch.float32, seed=seed) for seed in (0, 1))
    x, weight = x * size, normal(32, dtype=torch.float32, seed=2)
    wanted, wanted_grad = reference(x, weight, grad)
    close(norm.rms_norm(x, weight, EPS), wanted, 2e-6)
    close(norm.rms_norm_backward(grad, x, weight, EPS), wanted_grad, 2e-6)


def test_nothing():
    empty, weight = normal(0, 16), normal(16)
    assert norm.rms_norm(empty, weight, EPS).shape == (0, 16)
    assert norm.add_rms_norm(empty, empty, weight, EPS)[1].shape == (0, 16)
    assert norm.rms_norm_backward(empty, empty, weight, EPS).shape == (0, 16)


def test_numbers_of_a_row_that_lie_apart_are_refused():
    with pytest.raises(ValueError, match="must lie together, not 8 apart"):
        norm.rms_norm(normal(4, 8).T, normal(4), EPS)
