"""Which models the lean path computes: decoder layers of Llama's shape, plain LoRA on their linear layers, no more.

Whatever is not known to be the same function is turned away, with the reason. Gemma is turned away: its norms multiply
by 1 + w, its embedding is scaled and its gate is another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from luthier.model.head import plain_head

LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
STACKS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""The linear layers of a decoder layer, by what they read."""
_BASES = ("Linear", "Linear4bit")


def obstacle(causal_lm: Any, trained: set[str]) -> str:
    """Why the lean path cannot train this model; empty when it can.

    Args:
        causal_lm: A model of transformers, with peft's layers in it (their base layers may be on the meta device).
        trained: Names of its parameters that are trained.
    """
    return _obstacle(causal_lm, trained, _is_plain_in_training)


def obstacle_to_writing(causal_lm: Any, adapter: str | None) -> str:
    """Why the lean path cannot write with an adapter (None: with none of those that there are); empty when it can.

    Args:
        causal_lm: A model of transformers, with peft's layers in it, for evaluation.
        adapter: Name of the active one.
    """
    added = {n for n, _ in causal_lm.named_parameters() if ".lora_" in n or ".modules_to_save." in n}
    return _obstacle(causal_lm, added, lambda module: _is_plain_in_writing(module, adapter))


def _obstacle(causal_lm: Any, added: set[str], is_plain: Callable[[Any], bool]) -> str:
    decoder = causal_lm.get_decoder()
    for layer in getattr(decoder, "layers", [None]):
        kind = type(layer).__name__
        if kind not in LAYERS or not type(layer).__module__.startswith("transformers."):
            name = type(causal_lm).__name__
            return f"{name} is not of Llama's shape (Llama, Mistral, Qwen2, Qwen3)"
        if reason := _layer_obstacle(layer, is_plain):
            return reason
    config = causal_lm.config.get_text_config()
    if config.hidden_act != "silu":
        return f"the gate is {config.hidden_act}, not silu"
    if getattr(config, "attention_dropout", 0.0):
        return "attention_dropout is not 0"
    if plain_head(causal_lm) is None:
        return "the head does more than one product"
    linears = {name for names in STACKS for name in names}
    others = sorted(name for name in added if not any(f".{linear}.lora_" in name for linear in linears))
    return f"{others[0]} is trained too" if others else ""


def _layer_obstacle(layer: nn.Module, is_plain: Callable[[Any], bool]) -> str:
    for names in STACKS:
        modules = [layer.get_submodule(name) for name in names]
        bases = [getattr(module, "base_layer", module) for module in modules]
        if any(type(base).__name__ not in _BASES for base in bases):
            return f"{names[0]} is not a plain linear layer"
        if len({base.bias is None for base in bases}) > 1 or len({type(base) for base in bases}) > 1:
            return f"{', '.join(names)} are not of one kind"
        for module, base in zip(modules, bases, strict=True):
            if module is not base and not is_plain(module):
                return f"the adapter of {names[0]} does more than B A x"
    return ""


def _is_plain_in_training(module: Any) -> bool:
    """One active adapter of two plain matrices, no dropout, no magnitude, not merged."""
    alone = list(module.lora_A) == ["default"]
    dropouts = [type(dropout).__name__ for dropout in module.lora_dropout.values()]
    return alone and dropouts == ["Identity"] and _is_plain_in_writing(module, "default")


def _is_plain_in_writing(module: Any, adapter: str | None) -> bool:
    """Nothing is merged into the base, and the adapter, if it is on this layer, is two plain matrices."""
    if module.merged or not hasattr(module, "lora_A"):
        return False
    if adapter is None or adapter not in module.lora_A:
        return True
    return (
        list(module.active_adapters) == [adapter]
        and adapter not in module.lora_magnitude_vector
        and not getattr(module, "lora_variant", {}).get(adapter)
        and module.lora_A[adapter].bias is None
        and module.lora_B[adapter].bias is None
    )
