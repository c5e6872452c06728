"""What is turned away from the lean path, and with which reason."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
)

from luthier.model.lean.fit import obstacle
from luthier.model.lean.layer import window_of
from tests.model.support import described

SIZES = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
PLAIN = {"r": 4, "target_modules": "all-linear"}


def why(config, **lora):
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
        base.requires_grad_(False)
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **{**PLAIN, **lora}))
    return obstacle(base, {name for name, p in adapted.named_parameters() if p.requires_grad})


def test_a_plain_llama_fits():
    assert why(LlamaConfig(**SIZES)) == ""
    assert why(LlamaConfig(**SIZES), target_modules=["q_proj", "up_proj"], use_rslora=True) == ""


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GemmaConfig(**SIZES), "GemmaForCausalLM is not of Llama's shape"),
        (GraniteConfig(**SIZES), "GraniteForCausalLM is not"),
        (Olmo2Config(**SIZES), "Olmo2ForCausalLM is not"),
        (GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4), "GPT2LMHeadModel is not"),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "the gate is gelu"),
        (LlamaConfig(**SIZES, attention_dropout=0.1), "attention_dropout"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_other_models(config, reason):
    assert why(config, fan_in_fan_out=config.model_type == "gpt2").startswith(reason)


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"lora_dropout": 0.1}, "the adapter of self_attn.q_proj does more"),
        ({"use_dora": True}, "the adapter of self_attn.q_proj does more"),
        ({"lora_bias": True, "target_modules": ["down_proj"]}, "the adapter of mlp.down_proj does more"),
        ({"modules_to_save": ["input_layernorm"]}, "input_layernorm"),
        ({"target_modules": ["q_proj", "lm_head"]}, "the head does more than one product"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens"),
    ],
)
def test_other_adapters(lora, reason):
    assert reason in why(LlamaConfig(**SIZES, mlp_bias=True), **lora)


def test_describing_a_model_says_it(tiny_model_dir):
    assert described(tiny_model_dir).lean_obstacle == ""
    assert not described(tiny_model_dir).has_sliding_window
    assert "adapter of self_attn.q_proj" in described(tiny_model_dir, lora_dropout=0.1).lean_obstacle


def test_a_window_that_the_model_ignores_is_none():
    def window(config):
        with torch.device("meta"):
            return window_of(AutoModelForCausalLM.from_config(config).get_decoder().layers[0].self_attn)

    assert window(LlamaConfig(**SIZES, sliding_window=4)) is None
    assert window(MistralConfig(**SIZES, sliding_window=4)) == 4
