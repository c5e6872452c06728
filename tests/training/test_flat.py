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

from luthier.training.flat import FlatAdamW, one_buffer  # noqa: E402
from luthier.training.optimizer import clip_and_step, gradient_norm  # noqa: E402

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


def step(params, optimizer, seed, *, left_out=None, together=None):
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(p.shape, generator=generator).to(DEVICE) for p in params]
    if together:  # one buffer that holds them in this order
        whole = torch.cat([gradients[number].flatten() for number in together])
        parts = torch.split(whole, [gradients[number].numel() for number in together])
        for number, part in zip(together, parts, strict=True):
            gradients[number] = part.view_as(gradients[number])
    for number, (p, gradient) in enumerate(zip(params, gradients, strict=True)):
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


@pytest.mark.parametrize("orders", [[(2, 0, 1)] * 3, [(2, 0, 1), None, (0, 1, 2)], [None, (1, 2, 0), (1, 2, 0)]])
def test_gradients_that_are_one_buffer_in_any_order_move_the_right_weights(orders):
    ours, theirs = parameters(), parameters()
    flat = FlatAdamW([{"params": ours, "weight_decay": 0.1}], kernel=adamw.adamw, fused=True, **OPTIONS)
    plain = torch.optim.AdamW([{"params": theirs, "weight_decay": 0.1}], fused=True, **OPTIONS)
    for seed, together in enumerate(orders):
        step(ours, flat, seed, together=together)
        step(theirs, plain, seed)
    same(ours, theirs)
    same_state(flat, plain)


def test_a_norm_of_one_buffer_is_that_of_its_parts():
    params = parameters()
    gradients = [torch.randn_like(p) for p in params]
    whole = torch.cat([g.flatten() for g in gradients])
    for p, part in zip(params, torch.split(whole, [g.numel() for g in gradients]), strict=True):
        p.grad = part.view_as(p)
    assert one_buffer([p.grad for p in params]).data_ptr() == whole.data_ptr()
    expected = torch.nn.utils.get_total_norm(gradients)
    torch.testing.assert_close(gradient_norm(params), expected)
    params[0].grad = params[0].grad.clone()
    assert one_buffer([p.grad for p in params]) is None
    torch.testing.assert_close(gradient_norm(params), expected)


def test_a_kernel_that_finds_no_memory_counts_no_step():
    """The step is done again then."""
    (ours, _), (theirs, torchs) = pair()
    calls = []

    def kernel(*tensors, **settings):
        calls.append(settings["step"])
        if len(calls) == 1:
            raise RuntimeError("Triton Error [CUDA]: out of memory")
        adamw.adamw(*tensors, **settings)

    flat = FlatAdamW(groups(ours), kernel=kernel, fused=True, **OPTIONS)
    with pytest.raises(RuntimeError):
        step(ours, flat, 0)
    for seed in range(2):
        step(ours, flat, seed)
        step(theirs, torchs, seed)
    assert calls == [1, 1, 1, 2, 2]
    same(ours, theirs)
