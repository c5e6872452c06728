"""SwiGLU and its gradient, which takes the place of its input."""

import pytest
import torch

from tests.model.kernels.support import TOLERANCES, close, dtypes, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
gate = pytest.importorskip("luthier.model.kernels.gate")


def reference(gate_up, grad):
    exact = gate_up.double().detach().clone().requires_grad_()
    left, right = exact.chunk(2, dim=-1)
    out = left * torch.sigmoid(left) * right
    out.backward(grad.double())
    return out.detach(), exact.grad


@dtypes
@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (5, 17), (3, 1500)], ids=str)
def test_it_equals_float64(dtype, tokens, size):
    gate_up, grad = normal(tokens, 2 * size, dtype=dtype) * 3, normal(tokens, size, dtype=dtype, seed=1)
    wanted, wanted_grad = reference(gate_up, grad)
    found = gate.swiglu(gate_up)
    assert found.dtype is dtype
    close(found, wanted, TOLERANCES[dtype])
    again, found = gate.swiglu_backward(grad, gate_up)
    assert again is grad and found is gate_up
    close(again, wanted, TOLERANCES[dtype])
    close(found, wanted_grad, TOLERANCES[dtype])


def test_rows_that_lie_apart():
    wholes = normal(4, 50, dtype=torch.float32), normal(4, 30, dtype=torch.float32, seed=1)
    places = slice(7, 47), slice(5, 25)
    before = [whole.clone() for whole in wholes]
    gate_up, grad = (whole[:, place] for whole, place in zip(wholes, places, strict=True))
    wanted, wanted_grad = reference(gate_up, grad)
    close(gate.swiglu(gate_up), wanted, 2e-6)
    gate.swiglu_backward(grad, gate_up)
    close(gate_up, wanted_grad, 2e-6)
    close(grad, wanted, 2e-6)
    for whole, old, place in zip(wholes, before, places, strict=True):
        whole[:, place] = old[:, place]
        assert torch.equal(whole, old)


# numpy's, in the interpreter: 1 / inf is the 0 of a shut gate
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@dtypes
def test_huge_gates_are_open_or_shut(dtype):
    gate_up = torch.tensor([[1e30, -1e30, 300.0, -300.0, 2.0, 2.0, 2.0, 2.0]], dtype=dtype, device=normal(1).device)
    grad = torch.ones(1, 4, dtype=dtype, device=gate_up.device)
    wanted, wanted_grad = reference(gate_up, grad)
    found = gate.swiglu(gate_up)
    again, found_grad = gate.swiglu_backward(grad, gate_up)
    for out in (found, again):
        close(out, wanted, TOLERANCES[dtype])
        assert out[0, 1] == 0
    close(found_grad, wanted_grad, TOLERANCES[dtype])


def test_nothing():
    assert gate.swiglu(normal(0, 8)).shape == (0, 4)
    assert [x.shape for x in gate.swiglu_backward(normal(0, 4), normal(0, 8))] == [(0, 4), (0, 8)]
