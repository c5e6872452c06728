"""The flat optimizer beside torch's own: the same weights, state and checkpoints, whatever is replaced in between.

Its kernel runs in Triton's interpreter, and on the device with `-m gpu`.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from tests.model.kernels.support import DEVICE
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
adamw = pytest.importorskip("luthier.model.kernels.adamw")

from luthier.training.flat import FlatAdamW  # noqa: E402
from luthier.training.optimizer import clip_and_step  # noqa: E402

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8}


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 30), (7, 3), (5,)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE)) for shape in shapes]


def groups(params):
    return [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:], "weight_decay": 0.0}]


def pair():
    ours, theirs = parameters(), parameters()
    flat = FlatAdamW(groups(ours), kernel=adamw.adamw, fused=True, **OPTIONS)
    return (ours, flat), (theirs, torch.optim.AdamW(groups(theirs), fused=True, **OPTIONS))


def step(params, optimizer, seed, *, left_out=None):
    generator = torch.Generator().manual_seed(seed)
    for number, p in enumerate(params):
        gradient = torch.randn(p.shape, generator=generator).to(DEVICE)
        p.grad = None if number == left_out else gradient
    norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    clip_and_step(optimizer, params, norm, 1.0)
    optimizer.zero_grad(set_to_none=True)


def same(one, other):
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), atol=1e-6, rtol=1e-5)


def same_state(one, other):
    ours, theirs = one.state_dict()["state"], other.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for number, state in ours.items():
        assert state.keys() == theirs[number].keys()
        for name, value in state.items():
            torch.testing.assert_close(value, theirs[number][name], atol=1e-6, rtol=1e-5)


def test_weights_and_state_are_those_of_torch():
    one, other = pair()
    for seed in range(5):
        step(*one, seed)
        step(*other, seed)
    same(one[0], other[0])
    same_state(one[1], other[1])
    storages = {p.untyped_storage().data_ptr() for p in one[0]}
    assert len(storages) == 2  # one buffer a group


@pytest.mark.parametrize("way", ["from torch", "to torch"])
def test_a_checkpoint_of_one_is_read_by_the_other(way):
    (ours, flat), (theirs, plain) = pair()
    first, then = ((theirs, plain), (ours, flat)) if way == "from torch" else ((ours, flat), (theirs, plain))
    for seed in range(3):
        step(*first, seed)
    for p, q in zip(first[0], then[0], strict=True):
        q.data.copy_(p.data)
    then[1].load_state_dict(deepcopy(first[1].state_dict()))  # torch keeps the tensors it is given
    for seed in range(3, 6):
        step(*first, seed)
        step(*then, seed)
    same(ours, theirs)
    same_state(flat, plain)


def test_a_resume_in_the_middle_changes_no_bit():
    (straight, one), _ = pair()
    for seed in range(6):
        step(straight, one, seed)
    (resumed, two), _ = pair()
    for seed in range(3):
        step(resumed, two, seed)
    weights, state = [p.detach().clone() for p in resumed], deepcopy(two.state_dict())
    (fresh, three), _ = pair()
    for p, w in zip(fresh, weights, strict=True):
        p.data.copy_(w)
    three.load_state_dict(state)
    for seed in range(3, 6):
        step(fresh, three, seed)
    assert all(torch.equal(p, q) for p, q in zip(straight, fresh, strict=True))


def test_weights_that_another_optimizer_took_are_taken_back():
    """A rehearsal steps with an optimizer of its own on the same model."""
    (ours, flat), (theirs, plain) = pair()
    step(ours, flat, 0)
    step(theirs, plain, 0)
    other = FlatAdamW(groups(ours), kernel=adamw.adamw, fused=True, **{**OPTIONS, "lr": 0.0})
    for group in other.param_groups:
        group["weight_decay"] = 0.0
    step(ours, other, 9)
    for seed in (1, 2):
        step(ours, flat, seed)
        step(theirs, plain, seed)
    same(ours, theirs)
    same_state(flat, plain)


def test_a_parameter_without_a_gradient_is_left_to_torch():
    (ours, flat), (theirs, plain) = pair()
    for seed, left_out in enumerate([None, 1, None, None]):
        step(ours, flat, seed, left_out=left_out)
        step(theirs, plain, seed, left_out=left_out)
    same(ours, theirs)
    same_state(flat, plain)
