"""The table of labelled runs: sound ones in many shapes, and every sickness that can be provoked on a CPU.

A run is a set of keys that differ from `material.settings`. What no key can do (a slow disk, a broken checkpoint, a
kill) is a `Twist`, done to the real code while the run goes on. Each runs with three seeds, which change rows,
order, weights and length. Thresholds were set with the first two in view; the third was made when they were fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import twists
from labels import HEALTHY


@dataclass(frozen=True)
class Run:
    """One labelled run.

    Attributes:
        model, rows: Names in `material.prepare`; a seed is added to the rows' name.
        keys: Dotted key -> value, over `material.settings`.
        twist: What is done to the code meanwhile.
        stop_at: Stop at this step; with `then`, resume with these keys changed.
    """

    name: str
    label: str
    keys: dict[str, Any] = field(default_factory=dict)
    model: str = "base"
    rows: str = "rows"
    twist: Callable[[], AbstractContextManager[object]] | None = None
    stop_at: int = 0
    then: dict[str, Any] | None = None
    killed: bool = False


FULL = {"training.finetuning_type": "full", "training.learning_rate": 1e-3}
PAIRS = {"training.objective": "dpo", "training.learning_rate": 5e-4}
SCRATCH = {**FULL, "model.from_scratch": True, "training.learning_rate": 3e-3}


def lasting(steps: int, **keys: Any) -> dict[str, Any]:
    """Keys of a run of so many steps; two underscores stand for the dot."""
    return {"training.max_steps": steps, **{name.replace("__", "."): value for name, value in keys.items()}}


def healthy() -> Iterator[Run]:
    """Sound runs: any finding in them is a false alarm."""
    yield Run("lora", HEALTHY, lasting(120))
    yield Run("short", HEALTHY, lasting(12, logging__logging_steps=1))
    yield Run("very_short", HEALTHY, lasting(5, logging__logging_steps=1))
    yield Run("long", HEALTHY, lasting(360, logging__logging_steps=5, training__num_train_epochs=3))
    yield Run(
        "noisy",
        HEALTHY,
        lasting(150, logging__logging_steps=1, training__per_device_train_batch_size=1, training__learning_rate=1e-3),
    )
    yield Run("noisy_few", HEALTHY, lasting(60, logging__logging_steps=1, training__per_device_train_batch_size=1))
    yield Run("small_rate", HEALTHY, lasting(120, training__learning_rate=4e-4))
    yield Run("full", HEALTHY, {**lasting(100), **FULL})
    yield Run("nf4", HEALTHY, lasting(60, quantization__load_in_4bit=True))
    yield Run("long_warmup", HEALTHY, lasting(100, training__warmup_ratio=0.3))
    yield Run("no_warmup", HEALTHY, lasting(100, training__warmup_ratio=0.0, training__learning_rate=2e-3))
    yield Run("wsd", HEALTHY, lasting(100, training__lr_scheduler_type="wsd"))
    yield Run("linear", HEALTHY, lasting(100, training__lr_scheduler_type="linear"))
    yield Run("constant", HEALTHY, lasting(100, training__lr_scheduler_type="constant"))
    yield Run("resumed", HEALTHY, lasting(90), stop_at=44, then={})
    yield Run("stopped", HEALTHY, lasting(90), stop_at=50)
    yield Run("few_lines", HEALTHY, lasting(120, logging__logging_steps=25))
    yield Run("every_step", HEALTHY, lasting(80, logging__logging_steps=1))
    yield Run("no_eval", HEALTHY, lasting(100, data__val_set_size=0))
    yield Run("often_eval", HEALTHY, lasting(100, evaluation__eval_steps=10))
    yield Run("dropout", HEALTHY, lasting(100, lora__lora_dropout=0.2))
    yield Run("from_scratch", HEALTHY, {**lasting(160), **SCRATCH}, model="scratch")
    yield Run("wide", HEALTHY, lasting(80), model="base_wide")
    yield Run("two_epochs", HEALTHY, lasting(280, training__num_train_epochs=2, logging__logging_steps=4))
    yield Run("rank_2", HEALTHY, lasting(80, lora__r=2, lora__lora_alpha=4))
    yield Run("padded", HEALTHY, lasting(60, training__packing=False))
    yield Run("plain_text", HEALTHY, lasting(100), model="instruct", rows="text")
    yield Run("pairs", HEALTHY, {**lasting(120), **PAIRS, "evaluation.eval_steps": 20}, rows="pairs", model="instruct")
    slow = {**PAIRS, "training.learning_rate": 2e-4, "training.lr_scheduler_type": "constant"}
    yield Run("pairs_slow", HEALTHY, {**lasting(120), **slow}, rows="pairs", model="instruct")
    yield Run("again", HEALTHY, lasting(120, training__learning_rate=1e-3), model="instruct", rows="other")


def sick() -> Iterator[Run]:
    """Runs with one thing wrong, and its label."""
    high = "learning-rate-too-high"
    yield Run("times_100", high, lasting(80, training__learning_rate=0.4))
    yield Run("times_1000", high, lasting(40, training__learning_rate=4.0))
    yield Run("full_times_100", high, {**lasting(40), **FULL, "training.learning_rate": 0.1})
    yield Run("every_step_times_50", high, lasting(40, training__learning_rate=0.2, logging__logging_steps=1))
    yield Run("adapter_1e-8", "learning-rate-too-low", lasting(100, training__learning_rate=1e-8))
    yield Run("full_1e-8", "learning-rate-too-low", {**lasting(70), **FULL, "training.learning_rate": 1e-8})
    yield Run(
        "full_cold",
        "warmup-missing",
        {**lasting(60), **FULL, "training.learning_rate": 0.02, "training.warmup_ratio": 0.0},
    )
    yield Run("huge_rate", "not-finite", {**lasting(30), **FULL, "training.learning_rate": 1e30})
    yield Run("damaged_weight", "not-finite", lasting(40), twist=twists.weight_overflows)
    yield Run("random_answers", "nothing-learned", lasting(110), rows="nonsense", model="instruct")
    yield Run("optimizer_does_nothing", "frozen", lasting(80), twist=twists.optimizer_does_nothing)
    yield Run("alpha_1e-9", "gradients-vanish", lasting(30, lora__lora_alpha=1e-9))
    yield Run("clip_1e-3", "always-clipped", lasting(50, training__max_grad_norm=0.001))
    few = {"data.val_set_size": 16, "training.num_train_epochs": 30, "evaluation.eval_steps": 10}
    yield Run("few_rows", "overfitting", {**lasting(150), **FULL, **few}, rows="few", model="instruct")
    strong = {"lora.r": 32, "lora.lora_alpha": 64, "training.lr_scheduler_type": "constant"}
    gentle, harsh = ({**few, **strong, "training.learning_rate": rate} for rate in (2e-3, 1e-2))
    yield Run("few_rows_lora", "overfitting", {**lasting(130), **gentle}, rows="few", model="instruct")
    yield Run("harsh_few_rows", "worse-than-base", {**lasting(130), **harsh}, rows="few", model="instruct")
    hot = {**few, **FULL, "training.learning_rate": 4e-3, "evaluation.eval_steps": 5}
    yield Run("hot_few_rows", "worse-than-base", {**lasting(30), **hot}, rows="few", model="instruct")
    wrong = {"data.eval_split": "train[300:340]", "data.val_set_size": 0.05, "evaluation.eval_steps": 10}
    yield Run("other_language", "wrong-rows", {**lasting(40), **wrong}, rows="mixed", model="instruct")
    yield Run("rate_times_50", "resume-broken", lasting(60), stop_at=30, then={"training.learning_rate": 0.2})
    yield Run("weights_lost", "resume-broken", lasting(60), stop_at=30, then={}, twist=twists.adapter_is_not_restored)
    yield Run("other_rows", "resume-broken", lasting(60), stop_at=30, then={"rows": "nonsense"})
    yield Run("shuffled_tokens", "tokenizer-mismatch", lasting(24), model="shuffled")
    yield Run("whole_rows", "unknown-text", lasting(100, data__completion_only_loss=False))
    yield Run("odd_template", "template-mismatch", lasting(24, data__prompt_template="odd"), model="instruct")
    yield Run("bad_rows", "spikes", lasting(110, logging__logging_steps=1), rows="poisoned", model="instruct")
    yield Run("slow_rows", "data-bound", lasting(24), twist=twists.slow_rows)
    still, fast = ({**PAIRS, "training.learning_rate": rate} for rate in (1e-6, 4e-3))
    yield Run("pairs_still", "margins-flat", {**lasting(120), **still}, rows="pairs", model="instruct")
    few = {"data.val_set_size": 24, "training.num_train_epochs": 30, "evaluation.eval_steps": 10}
    few |= {"training.learning_rate": 1e-3, "training.lr_scheduler_type": "constant"}
    yield Run("pairs_tossed", "pairs-by-heart", {**lasting(150), **PAIRS, **few}, rows="tossed", model="instruct")
    yield Run("pairs_alike", "chosen-displaced", {**lasting(110), **fast}, rows="alike", model="instruct")
    yield Run("kill_9", "killed", lasting(60), stop_at=30, killed=True)


def runs() -> list[Run]:
    """All of them."""
    return [*healthy(), *sick()]
