"""Whether a run takes the lean path: layers stacked, forward and backward written out (`luthier.model.lean`).

It computes the same loss and gradients as peft's own layers, so the choice is one of speed and memory. ``auto`` takes
it wherever it is exact and has been measured: on a CPU and on CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.config.plan import MachineFacts, ModelFacts
from luthier.config.schema import Config


@dataclass(frozen=True)
class LeanChoice:
    """The decision.

    Attributes:
        taken: Whether the run takes it.
        obstacle: Why it cannot; empty when it can.
        how: The reason in words.
    """

    taken: bool
    obstacle: str
    how: str


def choose_lean(config: Config, machine: MachineFacts, model: ModelFacts) -> LeanChoice:
    """What stands in place of ``lean_path: auto``, and whether ``lean_path: true`` can be honoured."""
    wanted, obstacle = config.training.lean_path, _obstacle(config, machine, model)
    if wanted != "auto":
        return LeanChoice(wanted and not obstacle, obstacle, "as the config says")
    if obstacle:
        return LeanChoice(False, obstacle, obstacle)
    if config.quantization.base_precision == "fp8":
        return LeanChoice(True, "", "base_precision: fp8 is computed there alone")
    if not config.training.auto:
        return LeanChoice(False, "", "auto is false")
    if machine.device not in ("cpu", "cuda"):
        return LeanChoice(False, "", f"not measured on {machine.device} yet")
    return LeanChoice(True, "", "a plain adapter on a model of Llama's shape: the same numbers, faster")


def decide_passes(config: Config, machine: MachineFacts, model: ModelFacts | None) -> dict[str, tuple[Any, str]]:
    """What stands in place of ``packing: auto`` and ``lean_path: auto``, each with the reason."""
    made: dict[str, tuple[Any, str]] = {}
    if model is None:
        return made
    if config.training.packing == "auto":
        can = "keeps" if model.can_isolate_documents else "cannot keep"
        how = f"{model.architecture} {can} documents apart" if config.training.auto else "auto is false"
        made["training.packing"] = (packs(config, model), how)
    if config.training.lean_path == "auto":
        choice = choose_lean(config, machine, model)
        made["training.lean_path"] = (choice.taken, choice.how)
    return made


def packs(config: Config, model: ModelFacts) -> bool:
    """What stands in place of ``packing: auto``."""
    wanted = config.training.packing
    return config.training.auto and model.can_isolate_documents if wanted == "auto" else wanted


def computes_in(config: Config, machine: MachineFacts) -> str:
    """What stands in place of ``dtype: auto``."""
    if config.model.dtype != "auto":
        return config.model.dtype
    if machine.supports_bfloat16:
        return "bfloat16"
    return "float16" if machine.device == "cuda" else "float32"


def _obstacle(config: Config, machine: MachineFacts, model: ModelFacts) -> str:
    lora = config.lora
    reasons = {
        "finetuning_type is full": config.training.finetuning_type == "full",
        "lora_dropout is not 0": lora.lora_dropout > 0,
        "use_dora is true": lora.use_dora,
        "modules_to_save trains layers in full": bool(lora.modules_to_save),
        "examples are padded, not packed": not packs(config, model),
        "fsdp shards the layers that it stacks": config.training.fsdp and machine.world_size > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), model.lean_obstacle)
