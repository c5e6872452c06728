"""Frozen weights in 8-bit floats: rounding by a table of them all, products and gradients in float64 on its values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.data.collate import collate_packed
from luthier.errors import ModelError
from luthier.model.forward import summed_loss
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.fp8 import GRID, FP8Linear, dequantize, quantize_rows, round_as_fp8, scale_of, to_fp8
from luthier.model.lean.gradients import Gradients
from luthier.model.lean.linears import Build, FP8StackedLinear, stacked
from luthier.model.lean.pieces import PLAIN
from luthier.model.lean.proof import prove_lean
from tests.model.lean.test_decoder import SIZES, build, gradients, lean_loss, rows, worst
from tests.model.support import loaded_model

TABLE = torch.arange(127, dtype=torch.uint8).view(GRID).double()
"""All numbers of e4m3 from 0 up, without nan; that of an even place has an even last bit."""


def nearest(x):
    """Each number to the nearest of the table, ties to the one whose last bit is 0."""
    distance = (x.abs()[..., None] - TABLE).abs()
    tied = distance == distance.amin(-1, keepdim=True)
    return (
        TABLE[(tied & ((torch.arange(127) % 2 == 0) | (tied.sum(-1, keepdim=True) == 1))).int().argmax(-1)] * x.sign()
    )


def rounded(x, factor=None):
    """What `quantize_rows` stands for, by logarithms and the table."""
    x = x.double() if factor is None else x.double() * factor.double()
    scale = 2.0 ** torch.ceil(torch.log2(x.abs().amax(-1, keepdim=True) / 448))
    return nearest(x / scale) * scale


def numbers(*shape, seed=0, dtype=torch.float64):
    """Of very unequal sizes, halfway cases among them."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(3 * torch.randn(*shape, generator=generator, dtype=torch.float64))
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_factor", [False, True], ids=["as they are", "times powers of two"])
def test_rows_are_rounded_to_the_nearest_of_all_8_bit_floats(dtype, with_factor):
    x = numbers(9, 200, dtype=dtype)
    factor = 2.0 ** torch.randint(-12, 3, (200,)) if with_factor else None
    x8, scale = quantize_rows(x, factor)
    assert x8.dtype is GRID and scale.shape == (9, 1) and scale.dtype is torch.float32
    assert torch.equal(dequantize(x8, scale, torch.float64), rounded(x, factor))
    assert torch.equal(dequantize(x8, scale, torch.bfloat16).double(), rounded(x, factor)), (
        "bfloat16 holds them exactly"
    )
    largest = x8.double().abs().amax(-1)
    assert (largest <= 448).all() and (largest > 223).all()


@pytest.mark.parametrize(
    ("most", "scale"), [(448.0, 1.0), (448.0001, 2.0), (224.0, 0.5), (225.0, 1.0), (1.75, 2.0**-8), (1.8, 2.0**-7)]
)
def test_the_scale_is_the_smallest_power_of_two_that_fits(most, scale):
    assert scale_of(torch.tensor([most])).item() == scale


def test_the_nan_that_a_gpu_makes_has_an_infinite_scale():
    most = torch.tensor([0x7FFFFFFF, 0x7FC00000, 0x7F800000], dtype=torch.int32).view(torch.float32)
    assert scale_of(most).tolist() == [float("inf")] * 3


def test_nothing_is_nothing_and_what_is_not_finite_stays_so():
    x = torch.tensor([[0.0, 0.0], [1e-42, 0.0], [1.0, float("nan")], [1.0, float("-inf")], [2e38, 1.0]])
    values = dequantize(*quantize_rows(x), torch.float32)
    assert values[:2].tolist() == [[0, 0], [0, 0]]
    assert not torch.isfinite(values[2:4]).any()
    assert values[4, 0] == pytest.approx(2e38, rel=1 / 16)
    assert quantize_rows(x[:0])[0].shape == (0, 2)


class Layers(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.q, self.k = nn.Linear(32, 48, bias=bias), nn.Linear(32, 16, bias=bias)

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x)], dim=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_a_stack_is_float64_on_the_rounded_values(dtype, tolerance, bias):
    torch.manual_seed(0)
    model = get_peft_model(Layers(bias), LoraConfig(r=4, target_modules=["q", "k"])).to(dtype).base_model.model
    adapters = {name: p for name, p in model.named_parameters() if "lora" in name}
    for p in adapters.values():
        p.data.normal_()
    weights = [getattr(model, name).base_layer.weight.detach().clone() for name in ("q", "k")]
    biases = [getattr(model, name).base_layer.bias for name in ("q", "k")]
    for name in ("q", "k"):
        getattr(model, name).base_layer = FP8Linear(getattr(model, name).base_layer)
    stack = stacked([model.q, model.k], Build(dtype, keep=True, buffers={}))
    assert isinstance(stack, FP8StackedLinear)
    weight = torch.cat([rounded(w) for w in weights])
    assert torch.equal(stack.weight().double(), weight)
    assert (
        model.k.base_layer.weight.untyped_storage().data_ptr() == model.q.base_layer.weight.untyped_storage().data_ptr()
    )

    x, grad = (numbers(9, size, seed=size, dtype=dtype) for size in (32, 64))
    y, thin = stack.forward(x)
    room = Gradients([stack])
    grad_x = stack.backward(grad, x, thin, room.rooms[0])
    found = room.scaled(torch.tensor(1.0))
    down, up = stack.down_RI.double(), stack.up_OR.double()
    wanted = rounded(x) @ weight.T + x.double() @ down.T @ up.T
    wanted = wanted if biases[0] is None else wanted + torch.cat(biases).double()
    largest = torch.cat([scale_of(w.float().abs().amax(-1)) for w in weights])
    wanted_grad = rounded(grad, largest) @ (weight / largest[:, None]) + grad.double() @ up @ down

    def close(ours, reference):
        assert (ours.double() - reference).abs().max() <= tolerance * reference.abs().max()

    close(y, wanted.detach())
    close(grad_x, wanted_grad)
    for member, ours in zip(stack.members, (found[:2], found[2:]), strict=True):
        dy = grad.double()[:, member.outputs]
        close(ours[0], member.scaling * (dy @ member.lora_B.double()).T @ x.double())
        close(ours[1], member.scaling * dy.T @ (x.double() @ member.lora_A.double().T))
    # how far rounding takes it from the products of the unrounded numbers: a few percent, and not nothing
    exact = x.double() @ torch.cat(weights).double().T
    assert 1e-3 < float((rounded(x) @ weight.T - exact).norm() / exact.norm()) < 0.06


@pytest.mark.parametrize(("kind", "checkpointed"), [("llama, biased and tied", 0), ("mistral", 2), ("qwen3", 1)])
def test_loss_and_every_gradient_are_those_of_the_models_own_layers_in_8_bits(kind, checkpointed):
    model = build(kind)
    batch = collate_packed(rows())
    full = summed_loss(model, batch).item()
    to_fp8(model.get_base_model())
    loss = summed_loss(model, batch)
    wanted = gradients(model, loss)
    decoder = LeanDecoder(model.get_base_model(), torch.float64)
    decoder.checkpointed_layers = checkpointed
    found = lean_loss(decoder, batch)
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    # q, k and v share a scale here and have one each there: only the least numbers of a row differ by it
    assert worst(gradients(model, found), wanted) < 2e-3
    assert found.item() != pytest.approx(full, rel=1e-6), "nothing was rounded"
    with torch.no_grad():
        assert lean_loss(decoder, batch).item() == found.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_proof_passes_and_sees_a_lost_scale(dtype):
    model = build(dtype=dtype)
    base = model.get_base_model()
    to_fp8(base)
    lost = replace(PLAIN, quantize_rows=lambda x, factor=None: quantize_rows(x))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        prove_lean(model, LeanDecoder(base, dtype), dtype)
        with pytest.raises(ModelError) as caught:
            prove_lean(model, LeanDecoder(base, dtype, pieces=lost), dtype)
    assert caught.value.problems[0].code == "E-MODEL-014"


def test_only_the_linear_layers_are_rounded_and_all_of_them(tiny_model_dir):
    _, model = loaded_model(tiny_model_dir, base_precision="fp8", target_modules="[q_proj, down_proj]")
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    in_8_bits = [name for name, dtype in kinds.items() if dtype is GRID]
    assert len(in_8_bits) == 2 * 7
    assert not any("embed" in name or "norm" in name or "lora" in name for name in in_8_bits)
    assert {dtype for name, dtype in kinds.items() if "lora" in name} == {torch.float32}


def test_a_base_that_is_loaded_later_has_the_same_values():
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES)
    ours, later = LlamaForCausalLM(config).bfloat16(), LlamaForCausalLM(config).bfloat16()
    later.load_state_dict(ours.state_dict())
    embedding = later.get_input_embeddings().weight.clone()
    to_fp8(ours)
    round_as_fp8(later)
    for layer, plain in zip(ours.model.layers, later.model.layers, strict=True):
        for ours_q, theirs in (
            (layer.self_attn.q_proj, plain.self_attn.q_proj),
            (layer.mlp.down_proj, plain.mlp.down_proj),
        ):
            assert torch.equal(dequantize(ours_q.weight, ours_q.scale_O[:, None], torch.bfloat16), theirs.weight)
    assert torch.equal(later.get_input_embeddings().weight, embedding)


def test_sizes_that_tensor_cores_do_not_multiply():
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"intermediate_size": 100}))
    with pytest.raises(ModelError) as caught:
        to_fp8(model)
    (problem,) = caught.value.problems
    assert problem.code == "E-MODEL-015" and "gate_proj is 100 x 64" in problem.found
    assert problem.fix == "write base_precision: default" and problem.where == "quantization.base_precision"


def test_products_that_do_not_work_end_it_before_the_first_step(tiny_model_dir, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling\n`cublasLtMatmul`")

    monkeypatch.setattr("luthier.model.lean.linears.product", fails)
    with pytest.raises(ModelError) as caught:
        loaded_model(tiny_model_dir, base_precision="fp8")
    (problem,) = caught.value.problems
    assert problem.code == "E-MODEL-015"
    assert problem.found == "CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"


def test_memory_that_runs_out_is_no_fault_of_the_products(tiny_model_dir, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("luthier.model.lean.linears.product", fails)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        loaded_model(tiny_model_dir, base_precision="fp8")
