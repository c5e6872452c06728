"""What a model will be, counted without its weights.

The architecture is built on torch's `meta` device, where tensors have shapes and no memory, so the counts of
parameters and of trainable parameters are exact for any target_modules, in a second and before any download of weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from luthier.config.plan import ModelFacts
from luthier.config.schema import Config
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief
from luthier.model.adapter import add_adapter
from luthier.model.attention import caps_scores
from luthier.model.forward import unwrap
from luthier.model.hub import KEY
from luthier.model.lean.fit import obstacle as lean_obstacle
from luthier.model.lean.layer import window_of
from luthier.model.vet import check_size

_RECURRENT = ("mamba", "rwkv", "recurrent", "linear_attention", "conv", "gated_delta", "kda")


def describe(config: Config, model_config: PretrainedConfig) -> ModelFacts:
    """Facts about the configured model and its adapter.

    Raises:
        ModelError: E-MODEL-004 when config.json describes nothing that can be built, E-MODEL-009 when it describes
            far more than the weights files hold, E-MODEL-013 when it is no causal language model, E-MODEL-008 when the
            adapter finds no layer.
    """
    obstacle = ""
    with torch.device("meta"):
        model = _build(config, model_config)
        if not config.model.from_scratch:
            check_size(config.model.model_name_or_path, model)
        parameters = sum(p.numel() for p in model.parameters())
        trainable = parameters
        windows = [window_of(module) for name, module in model.named_modules() if name.endswith(".self_attn")]
        if config.training.finetuning_type == "lora":
            counted = config.lora.model_copy(update={"init_lora_weights": "default"})
            adapted = add_adapter(model, counted)
            trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
            obstacle = lean_obstacle(unwrap(adapted), {n for n, p in adapted.named_parameters() if p.requires_grad})
    text_config = model_config.get_text_config()
    return ModelFacts(
        architecture=type(model).__name__,
        parameters=parameters,
        trainable_parameters=trainable,
        layers=text_config.num_hidden_layers,
        hidden_size=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        max_position_embeddings=getattr(text_config, "max_position_embeddings", None),
        can_isolate_documents=_can_isolate(model),
        lean_obstacle=obstacle,
        has_sliding_window=any(window is not None for window in windows),
        short_row_tokens=_short_row_tokens(text_config),
        supports_gradient_checkpointing=bool(model.supports_gradient_checkpointing),
    )


def _build(config: Config, model_config: PretrainedConfig) -> nn.Module:
    """The architecture without weights."""
    name = config.model.model_name_or_path
    try:
        model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.model.trust_remote_code)
    except Exception as error:  # impossible sizes fail inside each architecture in its own way
        if "Unrecognized configuration class" in str(error):
            found = f"{name} is of type {model_config.model_type}, which does not write text word by word"
            raise ModelError(Problem("E-MODEL-013", found, "write the name of a causal language model", KEY)) from error
        found = f"the config.json of {name} describes no model: {brief(error)}"
        raise ModelError(Problem("E-MODEL-004", found, "fetch the model again", KEY)) from error
    names = model_config.architectures or []
    if getattr(model_config, "is_encoder_decoder", False) or any(name.endswith("ForMaskedLM") for name in names):
        found = f"{name} was made as {', '.join(names) or model_config.model_type}, which reads text in both directions"
        raise ModelError(Problem("E-MODEL-013", found, "write the name of a causal language model", KEY))
    return model  # type: ignore[no-any-return]


def _short_row_tokens(text_config: Any) -> int | None:
    """Where longrope (Ding et al. 2024) and dynamic scaling go over to other angles; None for models without them."""
    rotation = getattr(text_config, "rope_parameters", None) or {}
    most: dict[str, int | None] = {
        "longrope": rotation.get("original_max_position_embeddings"),
        "dynamic": getattr(text_config, "max_position_embeddings", None),
    }
    return most.get(rotation.get("rope_type", ""))


def _can_isolate(model: nn.Module) -> bool:
    """Whether packed documents can be kept apart: attention through the interface, and nothing else across positions.

    Only the declared structure is read here; `luthier.model.load` proves it on the loaded model.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    if not getattr(model, "_supports_attention_backend", False):
        return False
    kinds = {str(kind) for kind in getattr(config, "layer_types", None) or []} | {str(config.model_type)}
    if any(word in kind for kind in kinds for word in _RECURRENT):
        return False
    if any(hasattr(module, "sinks") for module in model.modules()):
        return False
    return not caps_scores(config)
