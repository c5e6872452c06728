"""Adapters: counted before they exist, float32, reached by every gradient, saved and put back."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from luthier.model.adapter import layer_name, linear_names, tensor_name
from luthier.model.architecture import describe_modules
from luthier.model.forward import inference
from luthier.model.store import load_trained, save_trained
from tests.model.support import described, loaded_model, our_loss, plain_loss
from tests.tiny import build_model

ADAPTERS = {
    "lora": {},
    "rank 4 on two layers": {"r": 4, "target_modules": "[q_proj, v_proj]"},
    "a regex": {"target_modules": r"'.*layers\.1\..*_proj'"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "modules to save": {"modules_to_save": "[lm_head, embed_tokens]"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "pissa": {"init_lora_weights": "pissa", "r": 4},
    "4-bit": {"load_in_4bit": True},
    "4-bit dora": {"load_in_4bit": True, "use_dora": True},
    "4-bit and modules to save": {"load_in_4bit": True, "modules_to_save": "[lm_head]"},
    "full": {"finetuning_type": "full"},
}
ids = torch.tensor([[0, 5, 9, 33, 7, 210, 4]])


def logits(model):
    with inference(model):
        return model(input_ids=ids, use_cache=False, document_offsets=(0, 7)).logits


def shake(model):
    """Move every trained tensor off its start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_the_counts_made_without_weights_are_those_of_the_model(tmp_path, kind, tied):
    build_model(tmp_path, tie_word_embeddings=tied)
    facts = described(tmp_path, **ADAPTERS[kind])
    _, model = loaded_model(tmp_path, **ADAPTERS[kind])
    modules = describe_modules(model)
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert facts.parameters == own.num_parameters()
    assert facts.trainable_parameters == modules.trainable_parameters
    assert modules.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
    if kind == "lora":
        assert modules.parameters == facts.parameters + facts.trainable_parameters


@pytest.mark.parametrize("kind", ADAPTERS)
def test_trained_tensors_are_float32_and_every_one_gets_a_gradient(tiny_model_dir, kind):
    dtype = "float32" if kind == "pissa" else "bfloat16"
    plan, model = loaded_model(tiny_model_dir, dtype=dtype, **ADAPTERS[kind])
    shake(model)  # with B = 0, A has no gradient at the very first step
    our_loss(plan, model).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    silent = [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    if kind == "lora":
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("kind", [k for k in ADAPTERS if not k.startswith("4-bit")])
def test_step_0_is_the_base_model(tiny_model_dir, kind):
    _, model = loaded_model(tiny_model_dir, **ADAPTERS[kind])
    expected = AutoModelForCausalLM.from_pretrained(tiny_model_dir)(ids).logits
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "rslora", "modules to save", "4-bit", "4-bit dora"])
def test_the_loss_of_a_moved_adapter_is_that_of_transformers(tiny_model_dir, kind):
    plan, model = loaded_model(tiny_model_dir, packing=False, **ADAPTERS[kind])
    shake(model)
    with inference(model):
        assert our_loss(plan, model).item() == pytest.approx(plain_loss(model).item(), abs=1e-4)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["lora", "dora", "modules to save", "pissa", "4-bit dora", "full"])
def test_what_is_saved_is_what_comes_back(tmp_path, kind, tied):
    build_model(tmp_path / "base", tie_word_embeddings=tied)
    _, model = loaded_model(tmp_path / "base", **ADAPTERS[kind])
    _, other = loaded_model(tmp_path / "base", **ADAPTERS[kind])
    shake(model)
    expected = logits(model)
    assert not torch.allclose(logits(other), expected, atol=1e-3)
    (tmp_path / "saved").mkdir()
    save_trained(model, tmp_path / "saved")
    load_trained(other, tmp_path / "saved")
    assert torch.equal(logits(other), expected)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("kind", "other"), [("lora", "rank 4 on two layers"), ("lora", "dora"), ("full", "full")])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, kind, other):
    build_model(tmp_path / "base")
    _, model = loaded_model(tmp_path / "base", **ADAPTERS[kind])
    build_model(tmp_path / "wider", intermediate_size=96)
    _, unlike = loaded_model(tmp_path / "wider", **ADAPTERS[other])
    (tmp_path / "saved").mkdir()
    save_trained(model, tmp_path / "saved")
    with pytest.raises(ValueError, match=r"proj.*the model has .*, the file"):
        load_trained(unlike, tmp_path / "saved")


def test_dropout_is_off_and_modes_come_back_after_looking(tiny_model_dir):
    _, model = loaded_model(tiny_model_dir, lora_dropout=0.5)
    shake(model)
    frozen = model.get_base_model().model.layers[1]
    frozen.eval()
    before = [module.training for module in model.modules()]
    assert torch.equal(logits(model), logits(model))
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError, match="in the middle"), inference(model):
        assert not torch.is_grad_enabled() and not model.training
        raise RuntimeError("in the middle")
    assert [module.training for module in model.modules()] == before


def test_names_for_people(tiny_model_dir):
    _, model = loaded_model(tiny_model_dir)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names[0] == "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert layer_name(names[0]) == "layers.0.self_attn.q_proj"
    assert tensor_name(names[0]) == "layers.0.self_attn.q_proj.lora_A"
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert linear_names(base) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_architecture_counts_4_bit_weights_as_numbers_not_bytes(tiny_model_dir):
    _, model = loaded_model(tiny_model_dir, load_in_4bit=True)
    named = {module["name"]: module for module in describe_modules(model).modules}
    layer = named["model.layers.0.mlp.down_proj.base_layer"]
    assert layer == {**layer, "type": "Linear4bit", "parameters": 64 * 128, "trainable": 0, "shape": "64x128"}
    adapter = named["model.layers.0.mlp.down_proj.lora_A.default"]
    assert adapter == {**adapter, "parameters": 16 * 128, "trainable": 16 * 128, "shape": "16x128"}


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "modules to save", "pissa"])
def test_plain_peft_loads_what_is_saved(tiny_model_dir, tmp_path, kind):
    _, model = loaded_model(tiny_model_dir, **ADAPTERS[kind])
    shake(model)
    save_trained(model, tmp_path)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), tmp_path)
    torch.testing.assert_close(plain(ids).logits, logits(model), atol=2e-5, rtol=1e-4)
