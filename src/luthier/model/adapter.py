r"""The adapter: W x becomes W x + (lora_alpha / r) B A x, with W frozen and only A and B trained (Hu et al. 2021).

        x (in) ---- W (out x in, frozen, maybe 4 bits) ----.
           \                                                (+)---> y (out)
            `---- A (r x in) ---- B (out x r) ---- x scale -'

Built and saved by peft, so that any tool that reads peft's format reads it. Trainable tensors are float32 whatever the
base's format: in bfloat16 an update of 2e-4 of a weight's size is rounded away.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.config.schema import LoraSection
from luthier.errors import ModelError, Problem
from luthier.errors.trace import brief

_FUSED_OUT_PROJ = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}


def add_adapter(model: Any, section: LoraSection, *, revision: str | None = None) -> Any:
    """Wrap `model` with a new LoRA adapter; returns peft's model, with only the adapter trainable.

    Args:
        model: A causal language model of transformers.
        section: The `lora` section of the config.
        revision: Commit of the base model, for those who load the adapter later.

    Raises:
        ModelError: E-MODEL-008 when target_modules or modules_to_save do not fit the model's layers.
    """
    _check_names(model, section)
    initial: bool | str = True if section.init_lora_weights == "default" else section.init_lora_weights
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=section.r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules=section.target_modules,
        modules_to_save=section.modules_to_save or None,
        use_rslora=section.use_rslora,
        use_dora=section.use_dora,
        init_lora_weights=initial,
        # Head and embedding of a tied model are one matrix; trained apart, one of them would be lost in a merge.
        ensure_weight_tying=_trains_tied(model, section),
        exclude_modules=_excluded(model, section),
        bias="none",
    )
    names = linear_names(model)
    try:
        adapted = get_peft_model(model, lora, revision=revision)
    except (ValueError, TypeError, AttributeError, NotImplementedError, re.error) as error:
        found = f"{section.target_modules} does not fit {type(model).__name__}: {brief(error)}"
        fix = f"write target_modules: all-linear, or names out of: {', '.join(sorted(names))}"
        raise ModelError(Problem("E-MODEL-008", found, fix, "lora.target_modules")) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    # Under autocast the input is cast once to the compute format; peft's own cast to float32 would copy it first.
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
    return adapted


def linear_names(model: Any) -> set[str]:
    """Last parts of the names of all linear layers, the head left out."""
    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    }


def _check_names(model: Any, section: LoraSection) -> None:
    """Each listed name must fit a layer: peft is content when one of them does, and a typo would go unnoticed."""
    modules = [name for name, _ in model.named_modules()]
    # In a mixture of experts peft itself finds the layers of one expert (up_proj) in the tensors that hold them all.
    checked = isinstance(section.target_modules, list) and not any(name.endswith(".experts") for name in modules)
    wanted = [("target_modules", name) for name in section.target_modules if checked]
    wanted += [("modules_to_save", name) for name in section.modules_to_save]
    lost = [(key, name) for key, name in wanted if not any(m == name or m.endswith(f".{name}") for m in modules)]
    if lost:
        every = {n for n in (m.rsplit(".", 1)[-1] for m in modules) if n and not n.isdigit()}
        choices = {"target_modules": linear_names(model), "modules_to_save": every}
        raise ModelError(*(_no_layer(type(model).__name__, key, name, choices[key]) for key, name in lost))


def _no_layer(kind: str, key: str, name: str, choices: set[str]) -> Problem:
    near = difflib.get_close_matches(name, sorted(choices), n=1)
    fix = f"did you mean {near[0]}? " if near else ""
    fix += f"write names out of: {', '.join(sorted(choices))}"
    return Problem("E-MODEL-008", f"no layer of {kind} is called {name}", fix, f"lora.{key}")


def _trains_tied(model: Any, section: LoraSection) -> bool:
    """Whether modules_to_save names the embedding or the head of a model in which they are one."""
    ends = {model.get_input_embeddings(), model.get_output_embeddings()}
    named = {m for name, m in model.named_modules() if name.rsplit(".", 1)[-1] in section.modules_to_save}
    return bool(model.config.get_text_config().tie_word_embeddings and ends & named)


def _excluded(model: Any, section: LoraSection) -> list[str] | None:
    """Layers that `all-linear` leaves out.

    Kernels of recurrent models read their weights past any adapter. Routers that are linear layers (Llama 4's) return
    more than a product, and peft's layer around them fails.
    """
    if section.target_modules != "all-linear":
        return None
    names = ["out_proj"] if model.config.model_type in _FUSED_OUT_PROJ else []
    linears = ((name, type(m).__name__) for name, m in model.named_modules() if isinstance(m, nn.Linear))
    return names + [name for name, kind in linears if kind.endswith("Router")] or None


def layer_name(parameter: str) -> str:
    """Short name of the layer that a trained parameter belongs to: `layers.0.self_attn.q_proj`."""
    name = re.sub(r"^(base_model\.model\.)?(model\.)?", "", parameter)
    return re.sub(r"\.(lora_[AB]|lora_magnitude_vector|modules_to_save|weight|bias).*$", "", name)


def tensor_name(parameter: str) -> str:
    """Short name of a trained parameter: `layers.0.self_attn.q_proj.lora_A`."""
    name = re.sub(r"^(base_model\.model\.)?(model\.)?", "", parameter)
    return name.replace(".default", "").removesuffix(".weight")
