"""The lean path against the model's own layers: loss and gradients of every parameter, in float64 and in bfloat16."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)  # fmt: skip

from luthier.data.collate import collate_packed
from luthier.errors import ModelError
from luthier.model import attention
from luthier.model.forward import own_token_losses, summed_loss, token_losses
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.lean.fit import obstacle
from luthier.model.lean.pieces import PLAIN, rotate, swiglu_backward
from luthier.model.lean.proof import _sizes, prove_lean
from tests.rows import MemoryRow

MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama, biased and tied": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "tie_word_embeddings": True}),
    "llama 3 rotation": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 5, "head_dim": 24}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen2, windowed": (Qwen2Config, Qwen2ForCausalLM, {
        "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 24}),
}  # fmt: skip
SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
EXACT = 2e-5
"""Of a gradient, relative: transformers computes norms and angles in float32 whatever the model's format."""
BEGINNING = [1, 17, 40, 9, 8, 77]


def build(kind="llama", dtype=torch.float64, targets="all-linear", **options):
    config, model, extra = MODELS[kind]
    torch.manual_seed(0)
    built = model(config(**SIZES, **extra)).to(dtype)
    for name, p in built.named_parameters():
        if "norm" in name or "bias" in name:
            p.data.normal_(1.0, 0.3)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", **options)
    adapted = get_peft_model(built, lora)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0.0, 0.1)
    adapted.get_base_model().set_attn_implementation(attention.NAME)
    return adapted


def rows(count=5, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = [*BEGINNING, *rng.integers(3, 300, int(rng.integers(4, 14)))]
        start = len(BEGINNING) + int(rng.integers(1, 4))
        made.append(MemoryRow(np.array(ids, dtype=np.int32), np.arange(len(ids)) >= start))
    return made


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def lean_loss(decoder, batch):
    return decoder.summed_loss(batch.model_inputs(), batch.positions_N, batch.targets_N)


def worst(found, wanted):
    assert found.keys() == wanted.keys()
    return float(torch.stack([(found[name] - wanted[name]).norm() / wanted[name].norm() for name in wanted]).max())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("checkpointed", [0, 2, 3])
def test_loss_and_every_gradient_are_those_of_the_models_own_layers(kind, checkpointed):
    model = build(kind)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert obstacle(model.get_base_model(), trained) == ""
    batch = collate_packed(rows())
    loss = summed_loss(model, batch)
    wanted = gradients(model, loss)
    decoder = LeanDecoder(model.get_base_model(), torch.float64)
    decoder.checkpointed_layers = checkpointed
    found = lean_loss(decoder, batch)
    assert found.item() == pytest.approx(loss.item(), rel=1e-9)
    assert set(wanted) == trained
    assert worst(gradients(model, found), wanted) < EXACT


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [False, True], ids=["apart", "shared beginning"])
def test_gradients_of_any_function_of_the_tokens_losses_are_those_of_the_models_own_layers(share, dtype):
    model = build(dtype=dtype)
    apart, batch = collate_packed(rows(12)), collate_packed(rows(12), share=share)

    def objective(losses):  # some count more than others, some less than nothing
        return (losses.double() * torch.linspace(-1e-3, 2e-3, len(losses), dtype=torch.float64)).sum().sigmoid()

    wanted = gradients(model, objective(own_token_losses(model, apart)))
    plain = token_losses(model, apart)
    decoder = LeanDecoder(model.get_base_model(), dtype)
    found = decoder.token_losses(batch.model_inputs(), batch.positions_N, batch.targets_N)
    rounding, sizes = (EXACT, 1e-7) if dtype == torch.float64 else (0.1, 0.02)
    for losses in (plain, found):
        torch.testing.assert_close(losses.double(), own_token_losses(model, apart).double(), rtol=sizes, atol=sizes)
        assert worst(gradients(model, objective(losses)), wanted) < rounding
    with torch.no_grad():
        quiet = decoder.token_losses(batch.model_inputs(), batch.positions_N, batch.targets_N)
    torch.testing.assert_close(quiet, found.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj", "down_proj"], ["o_proj", "up_proj"]], ids=str)
def test_some_layers_only(targets):
    model = build(targets=targets)
    batch = collate_packed(rows())
    wanted = gradients(model, summed_loss(model, batch))
    decoder = LeanDecoder(model.get_base_model(), torch.float64)
    assert worst(gradients(model, lean_loss(decoder, batch)), wanted) < EXACT


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_shared_beginning_changes_no_number(kind):
    model = build(kind)
    apart, shared = collate_packed(rows()), collate_packed(rows(), share=True)
    assert shared.shared_tokens == len(BEGINNING)
    assert shared.num_tokens == apart.num_tokens > shared.input_ids_BT.numel()
    wanted = gradients(model, summed_loss(model, apart))
    decoder = LeanDecoder(model.get_base_model(), torch.float64)
    assert lean_loss(decoder, shared).item() == pytest.approx(summed_loss(model, apart).item(), rel=1e-9)
    assert worst(gradients(model, lean_loss(decoder, shared)), wanted) < EXACT


def test_the_gradient_in_bfloat16_is_nearer_to_float64_than_that_of_peft():
    exact, model = build(dtype=torch.float64), build(dtype=torch.bfloat16)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in exact.state_dict().items()})
    decoder = LeanDecoder(model.get_base_model(), torch.bfloat16)
    theirs = ours = 0.0
    for seed in range(12):  # of one batch it is chance
        batch = collate_packed(rows(12, seed))
        wanted = gradients(exact, summed_loss(exact, batch))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [gradients(model, summed_loss(model, batch)), gradients(model, lean_loss(decoder, batch))]
        assert {g.dtype for g in found[1].values()} == {torch.float32}
        size = sum(float(g.pow(2).sum()) for g in wanted.values())
        off = [sum(float((one[n].double() - wanted[n]).pow(2).sum()) for n in wanted) / size for one in found]
        assert off[0] < 0.1**2
        theirs, ours = theirs + off[0] ** 0.5, ours + off[1] ** 0.5
    assert ours < theirs


@pytest.mark.parametrize("keep", [True, False], ids=["unpacked once", "at each use"])
def test_4_bit_weights(tmp_path, keep):
    config, model, _ = MODELS["llama"]
    torch.manual_seed(0)
    model(config(**SIZES)).save_pretrained(tmp_path)
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = model.from_pretrained(tmp_path, quantization_config=four_bit, dtype=torch.float32, device_map="cpu")
    base.requires_grad_(False)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    base.set_attn_implementation(attention.NAME)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert obstacle(base, trained) == ""
    adapted.train()
    batch = collate_packed(rows())
    wanted = gradients(adapted, summed_loss(adapted, batch))
    decoder = LeanDecoder(base, torch.float32, keep_unpacked=keep)
    found = gradients(adapted, lean_loss(decoder, batch))
    assert {name for name, g in found.items() if g.abs().max() == 0} == {n for n in wanted if "lora_A" in n}
    assert (
        worst({n: g for n, g in found.items() if "lora_B" in n}, {n: g for n, g in wanted.items() if "lora_B" in n})
        < 1e-4
    )


def test_without_gradients_nothing_is_kept_and_the_loss_is_the_same(monkeypatch):
    model = build()
    kept, forward = [], LeanDecoder.forward

    def spied(self, batch, *, train):
        loss, tape = forward(self, batch, train=train)
        kept.append(tape)
        return loss, tape

    monkeypatch.setattr(LeanDecoder, "forward", spied)
    batch = collate_packed(rows())
    decoder = LeanDecoder(model.get_base_model(), torch.float64)
    expected = lean_loss(decoder, batch).item()
    with torch.no_grad():
        loss = lean_loss(decoder, batch)
    assert loss.item() == expected and not loss.requires_grad
    assert kept[0] is not None and kept[1] is None


def test_a_second_backward_pass_fails_instead_of_lying():
    decoder = LeanDecoder(build().get_base_model(), torch.float64)
    loss = lean_loss(decoder, collate_packed(rows()))
    loss.backward(retain_graph=True)
    with pytest.raises(Exception, match="one backward pass"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_proof_leaves_everything_as_it_was(dtype):
    model = build(dtype=dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        prove_lean(model, LeanDecoder(model.get_base_model(), dtype), dtype)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("broken", ["scaling", "sign of a rotation", "a lost term"])
def test_the_proof_sees_what_is_not_the_same(dtype, broken):
    model = build(dtype=dtype)
    changes = {
        "sign of a rotation": {"rotate": lambda x, cos, sin, inverse=False: rotate(x, cos, sin, inverse=not inverse)},
        "a lost term": {"swiglu_backward": lambda g, x: [0 * y for y in swiglu_backward(g, x)]},
    }
    decoder = LeanDecoder(model.get_base_model(), dtype, pieces=replace(PLAIN, **changes.get(broken, {})))
    if broken == "scaling":
        stack = decoder.layers[1].o
        stack.copies = [(p, place, 2 * factor) for p, place, factor in stack.copies]
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
    with pytest.raises(ModelError) as caught, autocast:
        prove_lean(model, decoder, dtype)
    (problem,) = caught.value.problems
    assert problem.code == "E-MODEL-014"
    assert problem.fix == "write lean_path: false"


def test_a_gradient_that_is_all_but_nothing_is_measured_by_its_kind():
    ones = torch.ones(4)
    found = _sizes(
        {"layers.0.q.A": ones, "layers.1.q.A": 1e-3 * ones, "layers.2.q.A": 3 * ones, "layers.1.k.A": 1e-3 * ones}
    )
    usual = float((torch.tensor([2.0, 2e-3, 6.0]).square().mean()).sqrt())
    wanted = {"layers.0.q.A": usual, "layers.1.q.A": usual, "layers.2.q.A": 6.0, "layers.1.k.A": 2e-3}
    assert {name: float(size) for name, size in found.items()} == pytest.approx(wanted)
