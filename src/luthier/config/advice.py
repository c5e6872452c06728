"""Rules that only warn: keys without effect in this run, and values that are legal but hardly ever meant.

A key counts as without effect only when the user wrote it with another value than its default: a config that spells
all defaults out gets no warnings for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from luthier.config.numbers import steps_in_words
from luthier.config.rules import Case, Finding, Rule
from luthier.config.tree import number


def _unused(key: str, reason: str, applies: Callable[[Case], object]) -> Rule:
    def rule(case: Case) -> Finding:
        if case.changed(key) and applies(case):
            return f"{case.said(key)} has no effect: {reason}."
        return None

    return rule


def _defaulted(key: str, what: str) -> Rule:
    def rule(case: Case) -> Finding:
        value = case.get(key)
        used = value if isinstance(value, str) else value[0].path
        return None if case.wrote(key) else f"no {key} is given: {what} the default, {used}."

    return rule


def _is_full(case: Case) -> bool:
    return bool(case.get("training.finetuning_type") == "full")


def _never_evaluates(case: Case) -> bool:
    return case.numbers.eval_every.value == 0 and case.numbers.eval_every.known


A_LARGE_BASE = 100e6
"""Parameters from which a base wants the learning rates that are usual for adapters; tiny ones learn with more."""
GOOD_START, FOR_A_SMALL_BASE = 2e-4, 2e-3
"""Learning rates of an adapter to begin with, on a base of that size and on a smaller one (configs/quickstart.yaml)."""
HIGH_FOR_A_LARGE_BASE = 1e-3
HIGH_FOR_PAIRS = {"lora": (1e-4, "5e-6 to 5e-5", "5e-6"), "full": (1e-5, "5e-7 to 5e-6", "5e-7")}
"""With DPO on such a base: from where a rate is high, what is usual, and a good start. TRL's own runs take 5e-6 with
LoRA and 5e-7 without, and its DPOConfig 1e-6 by default (trl/scripts/dpo.py, trl/trainer/dpo_config.py); the examples
of Axolotl, LLaMA-Factory and Unsloth take 5e-6 to 5e-5 with LoRA."""
FEW_STEPS = 25
"""At a good rate an adapter comes half the way in as many. How far it comes follows from rate x steps, as AdamW moves a
weight by about the rate each step: on the quickstart's base, with 8 of its own rows a step, of the way of 200 steps at
2e-3, 0.05 is half (48 to 56 %, from 6 steps at 1e-2 to 200 at 2e-4) and 0.012 a fifth (19 to 23 %); on 300 short rows
of one form 0.05 is 90 % and 0.012 a third."""
ENOUGH_STEPS = 150
"""In as many steps of eight rows the quickstart's base learns what 200 short rows have in common."""
MOST_EPOCHS = 10
"""Beyond, few rows are learned by heart."""
MOST_LEFT = 0.02
"""Of the rows: so few are no matter."""
LORA_KEYS = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_rslora", "use_dora",
    "init_lora_weights",
)  # fmt: skip


def _long_rows(case: Case) -> Finding:
    limit = case.model.max_position_embeddings if case.model else None
    length = case.get("data.max_seq_length")
    if limit is not None and length > limit:
        return f"{case.said('data.max_seq_length')} is more than the {limit:,} positions the model has been trained on."
    return None


def _high_rate(case: Case) -> Finding:
    full, rate = _is_full(case), case.get("training.learning_rate")
    limit = 1e-3 if full else 1e-2
    kind, usual = ("full fine-tuning", "1e-5 to 5e-5") if full else ("an adapter", "1e-4 to 5e-4")
    if case.get("model.from_scratch"):
        return None
    said = case.said("training.learning_rate")
    if rate > limit:
        return f"{said} is very high for {kind}; {usual} is usual, and above {number(limit)} the loss mostly blows up."
    size = case.model.parameters if case.model else 0
    high, for_pairs, start = HIGH_FOR_PAIRS["full" if full else "lora"]
    if case.get("training.objective") == "dpo" and rate > high and size > A_LARGE_BASE:
        return f"{said} is high for DPO with {kind}; {for_pairs} is usual, and {start} a good start."
    if not full and rate > HIGH_FOR_A_LARGE_BASE and size > A_LARGE_BASE:
        base = f"a base of {size / 1e6:,.0f} million parameters"
        return f"{said} is high for an adapter on {base}; {usual} is usual, and {number(GOOD_START)} a good start."
    return None


def _high_alpha(case: Case) -> Finding:
    r, alpha = case.get("lora.r"), case.get("lora.lora_alpha")
    rooted = case.get("lora.use_rslora")
    scale = alpha / (r**0.5 if rooted else r)
    if _is_full(case) or scale <= 8:
        return None
    root, usual = ("the square root of ", "2 to 4 is plenty") if rooted else ("", "1 to 2 is usual")
    said = f"{case.said('lora.lora_alpha')} over {root}{case.said('lora.r')}"
    return f"{said} scales the adapter by {number(round(scale, 2))}; {usual}, and every gradient step grows with it."


def _one_wins(winner: str, other: str) -> Rule:
    """Of two keys for the same thing the first wins; who puts it over a file on the command line means that."""

    def rule(case: Case) -> Finding:
        over_the_file = case.loaded.sources[winner] == "override" != case.loaded.sources[other]
        if case.get(winner) is None or not case.changed(other) or over_the_file:
            return None
        return f"{case.said(other)} has no effect: {case.said(winner)} wins."

    return rule


def _rows_left_over(case: Case) -> Finding:
    """Rows of the last pass that fill no whole step."""
    epochs, steps = case.get("training.num_train_epochs"), int(case.numbers.total_steps.value)
    if case.data is None or case.get("training.max_steps") is not None:
        return None
    rows = case.data.train_rows
    left = round(rows * epochs) - steps * int(case.numbers.examples_per_step.value)
    if left <= MOST_LEFT * rows or _few_steps(case):  # then more is said, and done about it
        return None
    where = "are never seen" if epochs <= 1 else "are not seen in the last epoch"
    return (
        f"{left:,} of {rows:,} {case.data.unit} {where}: {case.said('training.num_train_epochs')} is "
        f"{steps_in_words(steps)}, and they would fill a part of one more. max_steps: {steps + 1} trains on them, too, "
        "as does a smaller batch."
    )


def good_rate(parameters: float) -> float:
    """A learning rate to begin with, for an adapter on a base of that size; 0: not known."""
    return FOR_A_SMALL_BASE if 0 < parameters < A_LARGE_BASE else GOOD_START


def is_short(steps: int, rate: float, parameters: float) -> bool:
    """Whether an adapter is hardly begun after so many steps at that rate."""
    return steps * rate < FEW_STEPS * good_rate(parameters)


def more_steps(rows: float, batch: int, epochs: float) -> tuple[float, int]:
    """How the same rows make `ENOUGH_STEPS`, with steps as small as a pass: epochs, at most `MOST_EPOCHS`, and steps.

    Args:
        rows: To train on.
        batch: Rows of a step without accumulation.
        epochs: So far, the least.
    """
    step = min(batch, rows)
    wanted = max(epochs, min(MOST_EPOCHS, math.ceil(ENOUGH_STEPS * step / rows)))
    return wanted, max(1, int(rows * wanted / step))


def _few_steps(case: Case) -> Finding:
    """An adapter whose run ends before it has learned much, by steps or by rate."""
    rows, size = case.data.train_rows if case.data else 0, case.model.parameters if case.model else 0
    rate, steps = case.get("training.learning_rate"), int(case.numbers.total_steps.value)
    asked = case.get("training.max_steps") is not None or case.get("training.objective") == "dpo" or _is_full(case)
    if not rows or asked or not is_short(steps, rate, size):
        return None
    usual, epochs, then = good_rate(size), case.get("training.num_train_epochs"), steps
    better = [f"learning_rate: {number(usual)}"] * (rate < usual)
    if steps < FEW_STEPS:
        batch = case.get("training.per_device_train_batch_size") * case.machine.world_size
        wanted, then = more_steps(rows, batch, epochs)
        accumulates = case.get("training.gradient_accumulation_steps") > 1 and then > steps  # else a row is a step
        better += ["gradient_accumulation_steps: 1"] * accumulates
        better += [f"num_train_epochs: {number(wanted)}"] * (wanted > epochs)
    better += ["more rows"] * (then < FEW_STEPS)
    said = f"{case.said('training.num_train_epochs')} is {steps_in_words(steps)} with "
    said += f"{case.said('training.learning_rate')}, too few to learn much"
    reason = f"at a good rate, here {number(usual)}, {FEW_STEPS} are half the way (measured on the quickstart's base)"
    outcome = f"; that is {steps_in_words(then)}" * (better != ["more rows"])
    return f"{said}: {reason}. Better: {', '.join(better)}{outcome}."


def _half_precision(case: Case) -> Finding:
    dtype, machine = case.get("model.dtype"), case.machine
    if machine.device != "cpu" and (
        dtype == "float16" or (dtype == "auto" and machine.device == "cuda" and not machine.supports_bfloat16)
    ):
        return (
            "dtype: float16 overflows at 65,504. A step whose gradients do is done again with a smaller loss scale; if "
            "the loss itself is not finite (E-RUN-001), write dtype: float32. Its speed has not been measured on a GPU."
        )
    return None


ADVICE: tuple[Rule, ...] = (
    *(_unused(f"lora.{key}", "finetuning_type is full, so there is no adapter", _is_full) for key in LORA_KEYS),
    *(
        _unused(f"quantization.{key}", "load_in_4bit is false", lambda c: not c.get("quantization.load_in_4bit"))
        for key in ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
    ),
    *(
        _unused(f"dpo.{key}", "objective is sft", lambda c: c.get("training.objective") == "sft")
        for key in ("beta", "label_smoothing")
    ),
    _unused("training.decay_ratio", "only lr_scheduler_type: wsd has it",
            lambda c: c.get("training.lr_scheduler_type") != "wsd"),
    _unused("training.min_learning_rate", "lr_scheduler_type: constant never falls",
            lambda c: c.get("training.lr_scheduler_type") == "constant"),
    *(
        _unused(f"evaluation.{key}", "there are no sample_prompts", lambda c: not c.get("evaluation.sample_prompts"))
        for key in ("sample_steps", "sample_max_new_tokens")
    ),
    _unused("evaluation.early_stopping_threshold", "early_stopping_patience is not set",
            lambda c: c.get("evaluation.early_stopping_patience") is None),
    _unused("evaluation.eval_steps", "no rows are held out (val_set_size, eval_split)",
            lambda c: _never_evaluates(c) and c.get("evaluation.eval_steps") != 0),
    _unused("training.fsdp", "there is one process, and nothing to share", lambda c: c.machine.world_size == 1),
    _unused("training.max_tokens_per_micro_batch", "auto is false", lambda c: not c.get("training.auto")),
    _unused("evaluation.per_device_eval_batch_size", "nothing is evaluated", _never_evaluates),
    _unused("logging.project", "report_to names none of wandb, mlflow and trackio",
            lambda c: set(c.get("logging.report_to")) <= {"tensorboard"}),
    _defaulted("model.model_name_or_path", "the model is"),
    _defaulted("data.datasets", "the rows are those of"),
    _one_wins("training.warmup_steps", "training.warmup_ratio"),
    _one_wins("data.eval_split", "data.val_set_size"),
    _one_wins("training.max_steps", "training.num_train_epochs"),
    _few_steps, _rows_left_over, _long_rows, _high_rate, _high_alpha, _half_precision,
)  # fmt: skip
