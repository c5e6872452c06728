"""Values of other frameworks, translated: each function takes a plain value and says what it means here.

Not covered: keys that are only named otherwise (`luthier.config.aliases`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Meaning:
    """What a value means here.

    Attributes:
        sets: Dotted key -> value.
        note: Said to the user, when the spelling alone does not tell.
        refused: Why it cannot be honoured; empty when it can.
        fix: What to write instead.
    """

    sets: tuple[tuple[str, Any], ...] = ()
    note: str = ""
    refused: str = ""
    fix: str = ""


def _one(key: str, value: Any) -> Meaning:
    return Meaning(sets=((key, value),))


def _when(given: bool, key: str, here: Any) -> Callable[[Any], Meaning]:
    """A switch that says something here in one of its positions."""
    return lambda value: _one(key, here) if value is given else Meaning()


def _inverted(value: Any) -> Meaning:
    return _one("data.completion_only_loss", not value if isinstance(value, bool) else value)


def _adapter(value: Any) -> Meaning:
    if value in (None, "", "full", "none"):
        return _one("training.finetuning_type", "full")
    if value == "qlora":
        return Meaning(sets=(("training.finetuning_type", "lora"), ("quantization.load_in_4bit", True)))
    return _one("training.finetuning_type", value)


def _use_lora(value: Any) -> Meaning:
    words = {True: "lora", False: "full"}
    return _one("training.finetuning_type", words[value] if isinstance(value, bool) else value)


def _bits(value: Any) -> Meaning:
    if value in (None, 16, 32):
        return Meaning()
    if value == 4:
        return _one("quantization.load_in_4bit", True)
    return Meaning(refused="is not supported: 4 bits or 16", fix="load_in_4bit: true")


def _flag(dtype: str) -> Callable[[Any], Meaning]:
    def meaning(value: Any) -> Meaning:
        if value in (None, False):
            return Meaning()
        return Meaning() if value == "false" else _one("model.dtype", dtype if value is True else value)

    return meaning


def _strategy(key: str, by_default: str, **more: Meaning) -> Callable[[Any], Meaning]:
    name = key.rpartition(".")[2]
    words = {
        "no": _one(key, 0),
        "steps": Meaning(note=f"{name} says after how many, by default {by_default}"),
        "epoch": _one(key, "epoch"),
        **more,
    }

    def meaning(value: Any) -> Meaning:
        word = "no" if value is False else value
        if isinstance(word, str) and word in words:
            return words[word]
        known = " or ".join(f"`{word}`" for word, meaning in words.items() if not meaning.refused)
        return Meaning(refused=f"can be {known}", fix=f"{name}: epoch")

    return meaning


_BEST = Meaning(
    sets=(("checkpointing.save_steps", 0),), note="load_best_model_at_end saves after each evaluation that is the best"
)
_NO_LOG = Meaning(
    refused="would leave a run of which nobody can say how it went", fix="logging_steps: epoch (or remove the line)"
)


def _per_epoch(key: str, by_default: int | None) -> Callable[[Any], Meaning]:
    name = key.rpartition(".")[2]

    def meaning(value: Any) -> Meaning:
        if value in (by_default, None):
            return Meaning()
        if value in (0, 1):
            return _one(key, "epoch" if value else 0)
        number = "1" if by_default is None else f"1 or {by_default}"
        return Meaning(refused=f"can be {number}; else write the steps, or the share of the run", fix=f"{name}: 0.25")

    return meaning


def _scheduler_arguments(value: Any) -> Meaning:
    if value in (None, {}):
        return Meaning()
    if isinstance(value, dict) and set(value) == {"min_lr"}:
        return _one("training.min_learning_rate", value["min_lr"])
    return Meaning(refused="can hold min_lr only", fix="min_learning_rate: 5e-5")


_CHATML = Meaning(
    refused="cannot be ChatML by name: tokenizers with its marks as tokens mostly bring a chat template, and with any "
    "other a model would learn to write <|im_end|> as text",
    fix="prompt_template: auto (the tokenizer's own, or Alpaca's where it has none; or the path of a .jinja file)",
)


def _prompt_template(value: Any) -> Meaning | None:
    return _CHATML if isinstance(value, str) and value.lower() == "chatml" else None


def _template(value: Any) -> Meaning:
    if chatml := _prompt_template(value):
        return chatml
    known = {"tokenizer_default": "chat", "default": "auto", "alpaca": "alpaca", None: "auto"}
    if value is None or (isinstance(value, str) and (value in known or value.endswith(".jinja"))):
        return _one("data.prompt_template", known.get(value, value))
    return Meaning(
        refused="names a template of another tool; Luthier takes the tokenizer's own, or Alpaca's where it has none",
        fix="prompt_template: auto (or the path of a .jinja file)",
    )


def _objective(value: Any) -> Meaning:
    if value in (None, False, "", "no", "none"):
        return Meaning()
    if value in ("sft", "dpo"):
        return _one("training.objective", value)
    return Meaning(refused="can be sft or dpo", fix="objective: dpo (or remove the line)")


KEYS: dict[str, Callable[[Any], Meaning]] = {
    "adapter": _adapter,
    "bf16": _flag("bfloat16"),
    "chat_template": _template,
    "do_eval": _when(False, "evaluation.eval_steps", 0),
    "eval_strategy": _strategy("evaluation.eval_steps", "four times an epoch"),
    "evals_per_epoch": _per_epoch("evaluation.eval_steps", 4),
    "evaluation_strategy": _strategy("evaluation.eval_steps", "four times an epoch"),
    "float16": _flag("float16"),
    "fp16": _flag("float16"),
    "full_finetuning": _when(True, "training.finetuning_type", "full"),
    "logging_strategy": _strategy("logging.logging_steps", "10", no=_NO_LOG),
    "lora_target_linear": _when(True, "lora.target_modules", "all-linear"),
    "lr_scheduler_kwargs": _scheduler_arguments,
    "mask_prompt": lambda value: _one("data.completion_only_loss", value),
    "pissa_init": _when(True, "lora.init_lora_weights", "pissa"),
    "quantization_bit": _bits,
    "rl": _objective,
    "save_strategy": _strategy("checkpointing.save_steps", "500", best=_BEST),
    "saves_per_epoch": _per_epoch("checkpointing.save_steps", None),
    "stage": _objective,
    "template": _template,
    "train_on_input": _inverted,
    "train_on_inputs": _inverted,
    "train_on_prompt": _inverted,
    "use_lora": _use_lora,
    "use_peft": _use_lora,
}
"""Foreign keys whose value needs a translation."""


def _table(key: str, words: dict[Any, Any]) -> Callable[[Any], Meaning | None]:
    def meaning(value: Any) -> Meaning | None:
        if isinstance(value, (bool, str)) and value in words:
            return _one(key, words[value])
        return None

    return meaning


def _fsdp(value: Any) -> Meaning | None:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple) and value is not None:
        return None
    if not words or words == ["false"]:
        return _one("training.fsdp", False)
    if set(words) <= {"full_shard", "auto_wrap", "true"}:
        return _one("training.fsdp", True)
    return Meaning(refused="shards everything, on the device, or nothing", fix="fsdp: true")


def _warmup(value: Any) -> Meaning | None:
    if isinstance(value, float) and 0 < value < 1:
        return Meaning(
            sets=(("training.warmup_ratio", value),), note="below 1 it is a share of all steps: warmup_ratio"
        )
    return None


def _max_steps(value: Any) -> Meaning | None:
    if value == -1 and not isinstance(value, bool):
        return _one("training.max_steps", None)
    return None


def _report_to(value: Any) -> Meaning | None:
    key = "logging.report_to"
    if value is None or value in ("none", ["none"], False):
        return _one(key, [])
    if value in ("all", ["all"]):
        note = "`all` is `tensorboard` here: nothing leaves this machine unless it is named"
        return Meaning(sets=((key, ["tensorboard"]),), note=note)
    return _one(key, [value]) if isinstance(value, str) else None


def _targets(value: Any) -> Meaning | None:
    key = "lora.target_modules"
    if value in ("all", "all_linear", ["all-linear"], ["all"]):
        return _one(key, "all-linear")
    if isinstance(value, str) and re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)+", value):
        return _one(key, [name.strip() for name in value.split(",")])
    return None


def _finetuning(value: Any) -> Meaning | None:
    return _adapter("qlora") if value == "qlora" else None


VALUES: dict[str, Callable[[Any], Meaning | None]] = {
    "checkpointing.resume_from_checkpoint": _table(
        "checkpointing.resume_from_checkpoint", {True: "auto", False: None, "true": "auto", "latest": "auto"}
    ),
    "data.overlong_rows": _table("data.overlong_rows", {"raise": "error"}),
    "data.prompt_template": _prompt_template,
    "logging.report_to": _report_to,
    "lora.init_lora_weights": _table("lora.init_lora_weights", {True: "default"}),
    "lora.target_modules": _targets,
    "model.dtype": _table(
        "model.dtype",
        {
            "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "float": "float32",
            "torch.bfloat16": "bfloat16", "torch.float16": "float16", "torch.float32": "float32",
            "bf16-true": "bfloat16", "32-true": "float32",
        },
    ),
    "training.auto": _table("training.auto", {"on": True, "off": False}),
    "training.finetuning_type": _finetuning,
    "training.fsdp": _fsdp,
    "training.gradient_checkpointing": _table(
        "training.gradient_checkpointing", {"unsloth": True, "true": True, "false": False, "offload": True}
    ),
    "training.lr_scheduler_type": _table(
        "training.lr_scheduler_type",
        {
            "cosine_with_min_lr": "cosine", "constant_with_warmup": "constant", "warmup_stable_decay": "wsd",
        },
    ),
    "training.max_steps": _max_steps,
    "training.optim": _table(
        "training.optim",
        {
            "adamw": "adamw_torch", "adamw_hf": "adamw_torch", "adamw_8bit": "paged_adamw_8bit",
            "adamw_bnb_8bit": "paged_adamw_8bit", "paged_adamw": "paged_adamw_8bit",
        },
    ),
    "training.warmup_steps": _warmup,
}  # fmt: skip
"""Luthier's keys for which other frameworks allow values that need a translation."""
