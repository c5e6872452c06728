"""Norm, rotation and gate against plain formulas differentiated by autograd, in float64 and in bfloat16."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from luthier.model.lean.pieces import add_rms_norm, rms_norm, rms_norm_backward, rotate, swiglu, swiglu_backward

# largest difference, in units of the largest number of the reference
PRECISIONS = [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
precisions = pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=lambda x: str(x))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, wanted, tolerance):
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@precisions
def test_rms_norm(dtype, tolerance):
    x, weight, grad = (normal(*shape, seed=n).to(dtype) for n, shape in enumerate([(13, 48), (48,), (13, 48)]))
    x64 = x.double().clone().requires_grad_()
    wanted = weight.double() * x64 * (x64.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()
    wanted.backward(grad.double())
    close(rms_norm(x, weight, 1e-5), wanted.detach(), tolerance)
    found = rms_norm_backward(grad, x, weight, 1e-5)
    assert found.dtype is dtype
    close(found, x64.grad, tolerance)
    onto = normal(13, 48, seed=5).to(dtype)
    close(rms_norm_backward(grad, x, weight, 1e-5, onto), x64.grad + onto.double(), tolerance)


@precisions
def test_the_norm_of_a_sum_is_that_of_the_rounded_sum(dtype, tolerance):
    branch, x, weight = (normal(*shape, seed=n).to(dtype) for n, shape in enumerate([(13, 48), (13, 48), (48,)]))
    wanted = branch + x
    found, normed = add_rms_norm(branch, x, weight, 1e-5)
    assert torch.equal(found, wanted) and found.data_ptr() == branch.data_ptr()
    assert torch.equal(normed, rms_norm(wanted, weight, 1e-5))
    close(normed, torch.nn.functional.rms_norm(wanted.double(), (48,), weight.double(), 1e-5), tolerance)


def test_rms_norm_of_heads_and_of_tiny_rows():
    x, weight, grad = normal(5, 3, 8) * 1e-4, normal(8, seed=1), normal(5, 3, 8, seed=2)
    x64 = x.clone().requires_grad_()
    torch.nn.functional.rms_norm(x64, (8,), weight, 1e-6).backward(grad)
    close(rms_norm_backward(grad, x, weight, 1e-6), x64.grad, 1e-12)


def test_rms_norm_is_that_of_transformers():
    norm = LlamaRMSNorm(48, eps=1e-5)
    norm.weight.data = normal(48, seed=1).float()
    x = normal(13, 48).float()
    torch.testing.assert_close(rms_norm(x, norm.weight.data, 1e-5), norm(x).detach(), atol=1e-6, rtol=1e-6)


@precisions
def test_rotation_is_that_of_transformers_and_its_gradient_turns_back(dtype, tolerance):
    angles = normal(7, 4)
    cos, sin = (torch.cat([f(angles), f(angles)], dim=-1).to(dtype) for f in (torch.cos, torch.sin))
    x, grad = normal(7, 3, 8, seed=1).to(dtype), normal(7, 3, 8, seed=2).to(dtype)
    x64 = x.double().clone().requires_grad_()
    wanted, _ = apply_rotary_pos_emb(x64[None], x64[None], cos.double()[None], sin.double()[None], unsqueeze_dim=2)
    wanted.backward(grad.double()[None])
    close(rotate(x, cos, sin), wanted[0].detach(), tolerance)
    close(rotate(grad, cos, sin, inverse=True), x64.grad, tolerance)


@precisions
def test_swiglu(dtype, tolerance):
    gate_up, grad = normal(11, 40).to(dtype) * 3, normal(11, 20, seed=1).to(dtype)
    exact = gate_up.double().clone().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    wanted = gate * torch.sigmoid(gate) * up
    wanted.backward(grad.double())
    close(swiglu(gate_up), wanted.detach(), tolerance)
    again, found = swiglu_backward(grad, gate_up)
    close(again, wanted.detach(), tolerance)
    close(found, exact.grad, tolerance)
