"""Combinations of keys and facts that cannot work (errors) or that hardly anybody wants (warnings).

A rule is a small function: `Case` -> a `Problem`, a warning sentence, or None. A rule that needs a fact which is not
there yet says nothing, so the same table serves before and after a download.

Not covered: single values (`luthier.config.schema`), rows (`luthier.data`), memory (`luthier.model`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.config.keys import keys
from luthier.config.lean import choose_lean, computes_in
from luthier.config.load import Loaded
from luthier.config.numbers import Numbers, wants_evaluation
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts
from luthier.config.schema import Config
from luthier.config.tree import shown
from luthier.errors import Problem


@dataclass(frozen=True)
class Case:
    """What rules look at. `tokens`: tokens of a micro-batch, 0 while unknown."""

    loaded: Loaded
    machine: MachineFacts
    model: ModelFacts | None
    data: DataFacts | None
    numbers: Numbers
    tokens: int

    @property
    def config(self) -> Config:
        """The config as loaded, with ``auto`` in it."""
        return self.loaded.config

    def get(self, key: str) -> Any:
        """The value of a dotted key."""
        return self.config.value(key)

    def wrote(self, key: str) -> bool:
        """Whether the user wrote the key, even if with its default."""
        return self.loaded.sources[key] != "default"

    def changed(self, key: str) -> bool:
        """Whether the user wrote the key with another value than its default."""
        return self.wrote(key) and self.get(key) != keys()[key].default

    def said(self, key: str) -> str:
        """``learning_rate: 2e-4 (configs/x.yaml:14)``."""
        return f"{key.partition('.')[2]}: {shown(self.get(key))} ({self.loaded.sources[key]})"

    def clash(self, code: str, key: str, other: str, fix: str) -> Problem:
        """The error for two keys that cannot stand together."""
        place = next((self.loaded.sources[k] for k in (key, other) if self.wrote(k)), "")
        return Problem(code, f"{self.said(key)} cannot go with {self.said(other)}", fix, place)

    def wrong(self, code: str, key: str, found: str, fix: str) -> Problem:
        """The error for a key that the facts rule out."""
        place = self.loaded.sources[key] if self.wrote(key) else key
        value = f"{key.partition('.')[2]}: {shown(self.get(key))}"
        return Problem(code, f"{value}: {found}", fix, place)


Finding = Problem | str | None
Rule = Callable[[Case], Finding]


def _four_bit_full(case: Case) -> Finding:
    if case.get("quantization.load_in_4bit") and case.get("training.finetuning_type") == "full":
        fix = "finetuning_type: lora (or load_in_4bit: false)"
        return case.clash("E-CFG-020", "quantization.load_in_4bit", "training.finetuning_type", fix)
    return None


def _four_bit_from_scratch(case: Case) -> Finding:
    if case.get("quantization.load_in_4bit") and case.get("model.from_scratch"):
        fix = "load_in_4bit: false and finetuning_type: full"
        return case.clash("E-CFG-021", "quantization.load_in_4bit", "model.from_scratch", fix)
    return None


def _from_scratch_lora(case: Case) -> Finding:
    quantized = case.get("quantization.load_in_4bit")
    if case.get("model.from_scratch") and case.get("training.finetuning_type") == "lora" and not quantized:
        return case.clash("E-CFG-032", "model.from_scratch", "training.finetuning_type", "finetuning_type: full")
    return None


def _bitsandbytes(case: Case) -> Finding:
    if case.machine.has_bitsandbytes:
        return None
    missing = "bitsandbytes is not installed"
    if case.get("quantization.load_in_4bit"):
        fix = "pip install bitsandbytes (or load_in_4bit: false)"
        return case.wrong("E-CFG-022", "quantization.load_in_4bit", missing, fix)
    if case.get("training.optim") == "paged_adamw_8bit":
        return case.wrong("E-CFG-022", "training.optim", missing, "pip install bitsandbytes (or optim: auto)")
    return None


def _dtype(case: Case) -> Finding:
    dtype, device = case.get("model.dtype"), case.machine.device
    here = {"bfloat16": case.machine.supports_bfloat16, "float16": device != "cpu"}
    if here.get(dtype, True):
        return None
    if device == "cpu":
        faster = "auto" if case.machine.supports_bfloat16 else "float32"
        return f"{case.said('model.dtype')} is emulated on this CPU and slow; dtype: {faster} is faster here."
    found = f"the device ({case.machine.device_name}) computes no bfloat16"
    return case.wrong("E-CFG-023", "model.dtype", found, "dtype: auto")


def _packing(case: Case) -> Finding:
    if case.get("training.packing") is True and case.model and not case.model.can_isolate_documents:
        model = f"{case.said('model.model_name_or_path')}, {case.model.architecture}"
        found = f"the model ({model}) cannot keep documents apart"
        return case.wrong("E-CFG-024", "training.packing", found, "packing: auto")
    return None


def _lean(case: Case) -> Finding:
    if case.get("training.lean_path") is not True or case.model is None:
        return None
    obstacle = choose_lean(case.config, case.machine, case.model).obstacle
    return case.wrong("E-CFG-034", "training.lean_path", obstacle, "lean_path: auto") if obstacle else None


def _checkpointing(case: Case) -> Finding:
    key, model = "training.gradient_checkpointing", case.model
    if case.get(key) is not True or model is None or model.supports_gradient_checkpointing:
        return None
    if choose_lean(case.config, case.machine, model).taken:
        return None
    return case.wrong("E-CFG-038", key, f"{model.architecture} cannot", "gradient_checkpointing: auto")


def _first_clash(case: Case, code: str, key: str, off: str, others: Mapping[str, tuple[object, str]]) -> Problem | None:
    """The error for the first of some other keys that cannot go with `key`.

    Args:
        case: The case.
        code: Of the error.
        key: The key.
        off: What to write for it instead.
        others: Another key -> whether it stands in the way, and what to write for it instead.
    """
    for other, (clashes, fix) in others.items():
        if clashes:
            return case.clash(code, key, other, f"{fix} (or {off})")
    return None


def _fp8(case: Case) -> Finding:
    key, off = "quantization.base_precision", "base_precision: default"
    if case.get(key) != "fp8":
        return None
    others = {
        "quantization.load_in_4bit": (case.get("quantization.load_in_4bit"), "load_in_4bit: false"),
        "training.finetuning_type": (case.get("training.finetuning_type") == "full", "finetuning_type: lora"),
        "training.lean_path": (case.get("training.lean_path") is False, "lean_path: auto"),
        "lora.init_lora_weights": (case.get("lora.init_lora_weights") == "pissa", "init_lora_weights: default"),
        "training.packing": (case.get("training.packing") is False, "packing: auto"),
        "training.fsdp": (case.get("training.fsdp") is True and case.machine.world_size > 1, "fsdp: false"),
    }
    if clash := _first_clash(case, "E-CFG-036", key, off, others):
        return clash
    if not case.machine.supports_fp8:
        found = f"the device ({case.machine.device_name}) does not multiply 8-bit floats"
        return case.wrong("E-CFG-035", key, found, off)
    if case.machine.device == "cuda" and computes_in(case.config, case.machine) != "bfloat16":
        return case.clash("E-CFG-036", key, "model.dtype", f"dtype: bfloat16 (or {off})")
    obstacle = choose_lean(case.config, case.machine, case.model).obstacle if case.model else ""
    return case.wrong("E-CFG-036", key, f"only the lean path computes it, and {obstacle}", off) if obstacle else None


def _fsdp(case: Case) -> Finding:
    if not case.get("training.fsdp"):
        return None
    lora = case.get("training.finetuning_type") == "lora"
    others = {
        "model.from_scratch": (case.get("model.from_scratch"), "from_scratch: false"),
        "lora.use_dora": (lora and case.get("lora.use_dora"), "use_dora: false"),
        "lora.init_lora_weights": (
            lora and case.get("lora.init_lora_weights") == "pissa",
            "init_lora_weights: default",
        ),
        "lora.modules_to_save": (lora and case.get("lora.modules_to_save"), "modules_to_save: []"),
        "training.optim": (case.get("training.optim") == "paged_adamw_8bit", "optim: auto"),
    }
    if clash := _first_clash(case, "E-CFG-037", "training.fsdp", "fsdp: false", others):
        return clash
    if case.machine.device == "mps":
        return case.wrong("E-CFG-037", "training.fsdp", "this machine computes on mps", "fsdp: false")
    return None


def _dpo(case: Case) -> Finding:
    if case.get("training.objective") != "dpo":
        return None
    others = {
        "data.completion_only_loss": (not case.get("data.completion_only_loss"), "completion_only_loss: true"),
        "data.overlong_rows": (case.get("data.overlong_rows") == "split", "overlong_rows: drop"),
        "training.fsdp": (case.get("training.fsdp") and case.machine.world_size > 1, "fsdp: false"),
    }
    return _first_clash(case, "E-CFG-039", "training.objective", "objective: sft", others)


def _no_evaluation(case: Case) -> tuple[str, str] | None:
    """The key that leaves nothing to evaluate and what to write, or None when there is something."""
    if case.get("evaluation.eval_steps") == 0:
        return "evaluation.eval_steps", "eval_steps: 100"
    empty = case.data is not None and case.data.eval_rows == 0
    if not wants_evaluation(case.config) or empty:
        split = case.get("data.eval_split") is not None
        return ("data.eval_split", "eval_split: test") if split else ("data.val_set_size", "val_set_size: 0.05")
    return None


def _needs_evaluation(asks: str, off: str) -> Rule:
    """A key that asks for evaluations where there are none; who switches them off over a file means that."""

    def rule(case: Case) -> Finding:
        nothing = _no_evaluation(case)
        if nothing is None or not case.wrote(asks) or not case.get(asks):
            return None
        key, fix = nothing
        if case.get(key) == 0 and case.loaded.sources[key] == "override" != case.loaded.sources[asks]:
            return f"{case.said(asks)} has no effect: with {case.said(key)} nothing is evaluated."
        return case.clash("E-CFG-025", asks, key, f"{off} (or {fix})")

    return rule


def _val_set_size(case: Case) -> Finding:
    size = case.get("data.val_set_size")
    if size > 1 and size != int(size):
        return case.wrong(
            "E-CFG-033", "data.val_set_size", "neither a share nor a number of rows", "val_set_size: 0.05"
        )
    return None


def _rate_floor(case: Case) -> Finding:
    if case.get("training.min_learning_rate") > case.get("training.learning_rate"):
        tenth = float(f"{case.get('training.learning_rate') / 10:.3g}")
        fix = f"min_learning_rate: {shown(tenth)}"
        return case.clash("E-CFG-026", "training.min_learning_rate", "training.learning_rate", fix)
    return None


def _paged_optimizer(case: Case) -> Finding:
    if case.get("training.optim") == "paged_adamw_8bit" and case.machine.device != "cuda":
        return case.wrong(
            "E-CFG-027", "training.optim", f"this machine computes on {case.machine.device}", "optim: auto"
        )
    return None


def _pissa(case: Case) -> Finding:
    start = case.get("lora.init_lora_weights")
    if start.startswith("pissa") and case.get("quantization.load_in_4bit"):
        fix = "init_lora_weights: default (or load_in_4bit: false)"
        return case.clash("E-CFG-028", "lora.init_lora_weights", "quantization.load_in_4bit", fix)
    return None


def _rank(case: Case) -> Finding:
    if case.model is None or case.get("training.finetuning_type") == "full":
        return None
    if case.get("lora.r") > case.model.hidden_size:
        found = f"the layers of {case.said('model.model_name_or_path')} are {case.model.hidden_size:,} wide"
        return case.wrong("E-CFG-029", "lora.r", found, "r: 16")
    return None


def _warmup(case: Case) -> Finding:
    total, warmup = case.numbers.total_steps, case.numbers.warmup_steps
    if not total.value or not warmup.value or warmup.value < total.value:
        return None
    key = "training.warmup_ratio" if case.get("training.warmup_steps") is None else "training.warmup_steps"
    epochs = "training.max_steps" if case.get("training.max_steps") else "training.num_train_epochs"
    found = f"the run has no more steps than that ({case.said(epochs)}; {total.how})"
    return case.wrong("E-CFG-030", key, found, f"warmup_steps: {int(total.value) // 10}")


def _longest_row(case: Case) -> Finding:
    if case.data is None or not case.tokens or case.tokens >= case.data.largest_example_tokens:
        return None
    longest = case.data.largest_example_tokens
    what = "largest pair" if case.data.pairs else "longest row"
    found = f"the {what} has {longest:,} tokens ({case.said('data.max_seq_length')})"
    if case.get("training.max_tokens_per_micro_batch") == "auto":
        found = f"memory holds {case.tokens:,} tokens, but {found}"
        rows = longest // case.data.longest_row_tokens
        fix = f"max_seq_length: {case.tokens // rows}"
        return case.wrong("E-CFG-031", "training.max_tokens_per_micro_batch", found, fix)
    fix = f"max_tokens_per_micro_batch: {longest} (or a lower max_seq_length)"
    return case.wrong("E-CFG-031", "training.max_tokens_per_micro_batch", found, fix)


RULES: tuple[Rule, ...] = (
    _four_bit_full, _four_bit_from_scratch, _from_scratch_lora, _bitsandbytes, _dtype, _packing, _lean, _checkpointing,
    _fp8, _fsdp, _dpo,
    _needs_evaluation("evaluation.early_stopping_patience", "early_stopping_patience: null"),
    _needs_evaluation("evaluation.load_best_model_at_end", "load_best_model_at_end: false"),
    _val_set_size, _rate_floor, _paged_optimizer, _pissa, _rank, _warmup, _longest_row,
)  # fmt: skip


def check(case: Case, rules: tuple[Rule, ...]) -> tuple[list[Problem], list[str]]:
    """All errors and all warnings of `case`, in the order of `rules`."""
    findings = [rule(case) for rule in rules]
    return [f for f in findings if isinstance(f, Problem)], [f for f in findings if isinstance(f, str)]
