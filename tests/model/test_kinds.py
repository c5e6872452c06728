"""Every kind of causal language model trains on the loss that transformers itself computes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from luthier.export.run import load_plain
from luthier.generate.weights import Base, load_base
from luthier.model.forward import lean_of, summed_loss, unwrap
from luthier.model.head import plain_head
from luthier.model.store import load_trained, save_trained
from tests.model.support import ROWS, loaded_model, our_loss, plain_loss, planned
from tests.model.test_adapter import shake
from tests.rows import micro_batches
from tests.tiny import build_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
KINDS: dict[str, tuple[str, dict[str, Any], bool]] = {
    # name: class of the configuration, what is special, whether documents can be packed
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}, True),
    "llama with dynamic angles": ("LlamaConfig", {"max_position_embeddings": 21, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}, True),
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}, True),
    "qwen2": ("Qwen2Config", {}, True),
    "qwen2 with a window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 5,
                                            "max_window_layers": 1}, True),
    "qwen3": ("Qwen3Config", {}, True),
    "qwen3 moe": ("Qwen3MoeConfig", EXPERTS, True),
    "mixtral": ("MixtralConfig", EXPERTS, True),
    "mistral with a window": ("MistralConfig", {"sliding_window": 5}, True),
    "gemma": ("GemmaConfig", {}, True),
    "gemma2 with soft-capping": ("Gemma2Config", {"sliding_window": 5, "attn_logit_softcapping": 5.0,
                                                  "final_logit_softcapping": 3.0}, False),
    "gemma2 with a soft-capped head": ("Gemma2Config", {"sliding_window": 5, "attn_logit_softcapping": None,
                                                        "final_logit_softcapping": 3.0}, True),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 5}, True),
    "granite": ("GraniteConfig", {"logits_scaling": 8.0, "embedding_multiplier": 6.0, "residual_multiplier": 0.3,
                                  "attention_multiplier": 0.2}, True),
    "cohere": ("CohereConfig", {"logit_scale": 0.1}, True),
    "gpt-neox": ("GPTNeoXConfig", {}, True),
    "phi": ("PhiConfig", {}, True),
    "phi3": ("Phi3Config", {}, True),
    "phi3 with a rotation for long rows": ("Phi3Config", {"original_max_position_embeddings": 12, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 12,
        "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 4.0, 6.0, 8.0]}}, True),
    "olmo2": ("Olmo2Config", {}, True),
    "starcoder2": ("Starcoder2Config", {}, True),
    "smollm3": ("SmolLM3Config", {}, True),
    "stablelm": ("StableLmConfig", {}, False),
    "modernbert decoder": ("ModernBertDecoderConfig", {"decoder_bias": False, "local_attention": 10}, True),
    "afmoe with a window": ("AfmoeConfig", {**EXPERTS, "sliding_window": 5, "num_dense_layers": 1}, True),
    "llama4": ("Llama4TextConfig", {**EXPERTS, "intermediate_size_mlp": 48}, True),
    "glm": ("GlmConfig", {"partial_rotary_factor": 0.5}, True),
    "gpt-oss": ("GptOssConfig", {**EXPERTS, "sliding_window": 5}, False),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}, True),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}, True),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}, False),
    "falcon": ("FalconConfig", {"new_decoder_architecture": False, "head_dim": ...}, False),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256}, False),
    "mamba": ("MambaConfig", {"state_size": 4}, False),
    "falcon h1": ("FalconH1Config", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
                                     "lm_head_multiplier": 0.3}, False),
    "qwen3 next": ("Qwen3NextConfig", {**EXPERTS, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
                                       "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                                       "shared_expert_intermediate_size": 16}, False),
    "lfm2": ("Lfm2Config", {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"]}, False),
    "deepseek v3": ("DeepseekV3Config", {"head_dim": ..., "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
                                         "qk_nope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1,
                                         "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                                         "first_k_dense_replace": 1, "num_key_value_heads": 4}, True),
}  # fmt: skip


pytestmark = pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys:RuntimeWarning", "ignore:fan_in_fan_out:UserWarning"
)


def build(folder, kind):
    name, special, _ = KINDS[kind]
    build_tokenizer(folder)
    config = getattr(transformers, name)(**{k: v for k, v in {**SIZES, **special}.items() if v is not ...})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder)


def test_experts_get_adapters_by_the_names_that_single_experts_have(tmp_path):
    build(tmp_path, "qwen3 moe")
    _, model = loaded_model(tmp_path, target_modules="[q_proj, gate_proj, up_proj, down_proj]")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("q_proj.lora_A" in name for name in trained)
    assert any("mlp.experts" in name and "lora_A" in name for name in trained)
    assert not any("k_proj" in name for name in trained)


REMOTE = """
import torch
from transformers import LlamaForCausalLM

class WarmForCausalLM(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output
"""


@pytest.mark.parametrize("keys", [{}, {"finetuning_type": "full"}, {"packing": False}], ids=["lora", "full", "padded"])
@pytest.mark.parametrize("written", ["by its repository", "by transformers"])
def test_what_code_does_to_logits_is_seen_whoever_wrote_it(tmp_path, keys, written):
    """Soft caps that no key of a config tells of; and a head that is what it seems."""
    build(tmp_path, "llama")
    if written == "by its repository":
        (tmp_path / "warm.py").write_text(REMOTE)
        config = json.loads((tmp_path / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "warm.WarmForCausalLM"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    plan, model = loaded_model(tmp_path, trust_remote_code=True, **keys)
    assert our_loss(plan, model.eval()).item() == pytest.approx(plain_loss(plain).item(), abs=1e-4)
    assert (plain_head(unwrap(model)) is None) == (written == "by its repository")
    assert (lean_of(model) is not None) == (written == "by transformers" and not keys)


def test_a_pass_knows_nothing_of_the_lengths_before_it(tmp_path):
    """Angles that are scaled dynamically: transformers keeps those of the longest row that it has seen."""
    build(tmp_path, "llama with dynamic angles")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10}))
    plan, model = loaded_model(tmp_path, packing=False)
    shorter, longest = (micro_batches(ROWS, [row], plan, 1)[0] for row in (2, 4))
    assert 10 < shorter.input_ids_BT.shape[1] < longest.input_ids_BT.shape[1]
    with torch.no_grad():
        losses = [summed_loss(model, batch).item() for batch in (shorter, longest, shorter)]
    assert losses[0] == losses[2]


def test_routers_that_are_linear_layers_get_no_adapter(tmp_path):
    """They return more than a product, and peft's layer around them would fail in its first pass."""
    build(tmp_path, "llama4")
    plan, model = loaded_model(tmp_path)
    assert our_loss(plan, model).item() > 1
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("q_proj.lora_A" in name for name in trained) and not any("router" in name for name in trained)


@pytest.mark.parametrize("kind", ["llama", "gpt-neox", "mixtral"])
def test_a_model_that_is_trained_in_full_is_put_back_and_published(tmp_path, kind):
    """transformers calls tensors otherwise in memory than in published files, or puts them together."""
    build(tmp_path / "base", kind)
    _, model = loaded_model(tmp_path / "base", finetuning_type="full")
    shake(model)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_trained(model, tmp_path / "checkpoint")
    save_trained(model, tmp_path / "final", to_publish=True)
    names = [set(load_file(tmp_path / folder / "model.safetensors")) for folder in ("base", "final")]
    assert names[0] == names[1]
    shake(model)
    load_trained(model, tmp_path / "checkpoint")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    for folder in ("checkpoint", "final"):
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in plain.state_dict().items())


def test_soft_caps_stay_where_transformers_would_lose_them(tmp_path, monkeypatch):
    kind = "gemma2 with soft-capping"
    build(tmp_path, kind)
    expected = plain_loss(transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager"))
    # as in transformers 5.17, where that leaves them out; later ones raise an error
    monkeypatch.setattr(transformers.models.gemma2.modeling_gemma2.Gemma2PreTrainedModel, "_supports_sdpa", True)
    plan, model = loaded_model(tmp_path, finetuning_type="full")
    assert our_loss(plan, model.eval()).item() == pytest.approx(expected.item(), abs=1e-4)
    for loaded in (load_plain(tmp_path, torch.float32), load_base(Base(str(tmp_path), dtype="float32"))):
        assert plain_loss(loaded).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_transformers(tmp_path, kind):
    build(tmp_path, kind)
    assert planned(tmp_path).config.training.packing is KINDS[kind][2]
    plan, model = loaded_model(tmp_path, finetuning_type="full")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    model.eval()
    loss, expected = our_loss(plan, model), plain_loss(plain)
    assert expected.item() > 1
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
