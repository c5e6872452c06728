"""Stacked linear layers with adapters against peft's own layers, in float64 and in bfloat16."""

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from luthier.model.lean.gradients import Gradients
from luthier.model.lean.linears import Build, StackedLinear

SIZES = {"q": 12, "k": 8, "v": 8}


class Layers(nn.Module):
    def __init__(self, bias):
        super().__init__()
        for name, size in SIZES.items():
            setattr(self, name, nn.Linear(16, size, bias=bias))

    def forward(self, x):
        return torch.cat([getattr(self, name)(x) for name in SIZES], dim=-1)


def adapted(dtype, *, bias=False, targets=("q", "k", "v"), **lora):
    torch.manual_seed(0)
    model = get_peft_model(Layers(bias), LoraConfig(r=4, lora_alpha=6, target_modules=list(targets), **lora)).to(dtype)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_()
    return model.base_model.model


def stacked(model, dtype):
    return StackedLinear([getattr(model, name) for name in SIZES], Build(dtype, keep=True, buffers={}))


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"targets": ("q", "v")}, {"use_rslora": True}, {"rank_pattern": {"k": 2}}],
    ids=["plain", "bias", "two of three", "rslora", "ranks differ"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2)], ids=str)
def test_output_and_gradients_are_those_of_peft(options, dtype, tolerance):
    model = adapted(dtype, **options)
    x, grad = (torch.randn(9, size, dtype=dtype) for size in (16, 28))
    exact = adapted(torch.float64, **options)
    exact.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    x64 = x.double().clone().requires_grad_()
    wanted = exact(x64)
    wanted.backward(grad.double())
    stack = stacked(model, dtype)
    y, thin = stack.forward(x)
    room = Gradients([stack])
    grad_x = stack.backward(grad, x, thin, room.rooms[0])
    gradients = room.scaled(torch.tensor(1.0))

    def close(found, reference):
        assert (found.double() - reference).abs().max() <= tolerance * reference.abs().max()

    close(y, wanted.detach())
    close(grad_x, x64.grad)
    references = dict(exact.named_parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(gradients) == len(stack.parameters()) == 2 * len(options.get("targets", SIZES))
    for p, gradient in zip(stack.parameters(), gradients, strict=True):
        assert gradient.shape == p.shape and gradient.dtype is p.dtype
        close(gradient, references[names[id(p)]].grad)
    assert stack.backward(grad, x, thin, room.rooms[0], to_input=False) is None
    for gradient, twice in zip(gradients, room.scaled(torch.tensor(2.0)), strict=True):
        torch.testing.assert_close(twice, 2 * gradient)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_an_adapter_that_just_began_is_not_rounded_away(bias):
    # in bfloat16 the adapter's part is far below half a step of the grid that the layer's output lies on
    model = adapted(torch.float32, bias=bias)
    tokens = 20_000
    x, grad, onto = (torch.randn(tokens, size, dtype=torch.bfloat16) for size in (16, 28, 28))
    found = []
    for size in (0.0, 2e-4):
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(size)
        stack = stacked(model, torch.bfloat16)
        found.append([stack.forward(x)[0], stack.forward(x)[0].add_(onto), stack.backward_to_input(grad)[0]])
    forward = (x.double() @ stack.down_RI.T.double()) @ stack.up_OR.T.double()
    backward = (grad.double() @ stack.up_OR.double()) @ stack.down_RI.double()
    for without, with_it, part in zip(*found, [forward, forward, backward], strict=True):
        arrived = (with_it.double() - without.double()).mul(part).sum() / part.square().sum()
        assert 0.9 < arrived < 1.1


def test_layers_become_views_of_one_matrix_and_keep_their_values():
    model = adapted(torch.float32)
    before = {name: getattr(model, name).base_layer.weight.detach().clone() for name in SIZES}
    stack = stacked(model, torch.float32)
    for name, weight in before.items():
        now = getattr(model, name).base_layer.weight
        assert torch.equal(now, weight)
        assert now.untyped_storage().data_ptr() == stack.weight().untyped_storage().data_ptr()


def test_an_adapter_that_moved_is_seen_after_refresh():
    model = adapted(torch.float64)
    stack = stacked(model, torch.float64)
    x = torch.randn(3, 16, dtype=torch.float64)
    before = stack.forward(x)[0]
    with torch.no_grad():
        model.k.lora_A["default"].weight.add_(1.0)
    assert torch.equal(stack.forward(x)[0], before)
    stack.refresh()
    torch.testing.assert_close(stack.forward(x)[0], model(x).detach())


@pytest.mark.parametrize("keep", [True, False], ids=["unpacked once", "at each use"])
def test_4_bit_weights_are_exactly_those_of_bitsandbytes(keep):
    torch.manual_seed(0)
    layers = [bitsandbytes.nn.Linear4bit(64, size, bias=False, quant_type="nf4") for size in (64, 128)]
    layers = [layer.to("cpu") for layer in layers]
    buffers = {}
    stack = StackedLinear(layers, Build(torch.float32, keep, buffers))
    wanted = torch.cat([bitsandbytes.functional.dequantize_4bit(x.weight.data, x.weight.quant_state) for x in layers])
    assert torch.equal(stack.weight(), wanted)
    assert set(buffers) == (set() if keep else {(192, 64)})
    assert stack.forward(torch.randn(2, 64))[1] is None
