"""Cross-entropy of logits that become their own gradient."""

import pytest
import torch

from tests.model.kernels.support import DEVICE, TOLERANCES, close, dtypes, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
loss = pytest.importorskip("luthier.model.kernels.loss")


def reference(logits, targets):
    exact = logits.double().detach().clone().requires_grad_()
    each = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    each.sum().backward()
    return each.detach(), exact.grad


def targets_for(rows, size):
    return torch.randint(size, (rows,), generator=torch.Generator().manual_seed(3)).to(DEVICE)


@dtypes
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (5, 2), (4, 300), (2, 20_001)], ids=str)
def test_it_equals_float64(dtype, rows, size):
    logits, targets = normal(rows, size, dtype=dtype) * 4, targets_for(rows, size)
    wanted, wanted_grad = reference(logits, targets)
    before = logits.clone()
    found = loss.cross_entropy(logits, targets, gradient=False)
    assert torch.equal(logits, before)
    assert found.dtype is torch.promote_types(dtype, torch.float32)
    # logits are read as they are: their format costs the loss nothing
    close(found, wanted, 1e-12 if dtype is torch.float64 else 1e-6)
    assert torch.equal(loss.cross_entropy(logits, targets, gradient=True), found)
    close(logits, wanted_grad, TOLERANCES[dtype])


def test_a_row_inside_a_larger_buffer():
    room = normal(6, 40, dtype=torch.float32)
    before = room.clone()
    targets = targets_for(3, 33)
    wanted, wanted_grad = reference(room[1:4, :33], targets)
    close(loss.cross_entropy(room[1:4, :33], targets, gradient=True), wanted, 1e-6)
    close(room[1:4, :33], wanted_grad, 2e-6)
    room[1:4, :33] = before[1:4, :33]
    assert torch.equal(room, before)


@dtypes
def test_huge_logits(dtype):
    """Certain and right, certain and wrong, all alike, and far below everything."""
    logits = torch.zeros(4, 9000, dtype=dtype, device=DEVICE)
    logits[0, 8500] = logits[1, 3] = 1e4
    logits[3] = -1e30
    targets = torch.tensor([8500, 8999, 0, 4], device=DEVICE)
    wanted, wanted_grad = reference(logits, targets)
    close(loss.cross_entropy(logits, targets, gradient=True), wanted, 1e-6)
    close(logits, wanted_grad, TOLERANCES[dtype])


def test_a_probability_near_1_keeps_the_digits_of_its_gradient():
    logits = torch.zeros(1, 100, device=DEVICE)
    logits[0, 7] = 25.0
    targets = torch.tensor([7], device=DEVICE)
    wanted = reference(logits, targets)[1]
    loss.cross_entropy(logits, targets, gradient=True)
    assert wanted[0, 7].abs() < 1e-8
    assert float(logits[0, 7]) == pytest.approx(float(wanted[0, 7]), rel=1e-5)


def test_what_is_not_a_number_stays_visible():
    logits = normal(2, 50, dtype=torch.float32)
    logits[1, 20] = torch.nan
    found = loss.cross_entropy(logits, targets_for(2, 50), gradient=True)
    assert torch.isfinite(found[0]) and torch.isnan(found[1])


def test_nothing():
    assert loss.cross_entropy(normal(0, 5), targets_for(0, 5), gradient=True).shape == (0,)
