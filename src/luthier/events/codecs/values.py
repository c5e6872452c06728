"""From the dict of a foreign log line to our events: the names that trainers give to the same numbers.

    Trainer, TRL   {'loss', 'grad_norm', 'learning_rate', 'epoch', 'num_tokens' | 'num_input_tokens_seen'}
    LLaMA-Factory  {'loss', 'lr', 'epoch', 'throughput', 'total_tokens', 'vram_allocated'}
    Axolotl        Trainer's, and {'memory/max_allocated (GiB)', 'tokens/total', 'tokens/train_per_sec_per_gpu'}

A number may be a string: transformers 5 prints `{'loss': '2.451'}`. What a log does not have is nan (floats) or 0
(counts) in the event.

Sources: transformers 5.23 `trainer.py` and `trainer_callback.py`; LLaMA-Factory 0.9.3 `train/callbacks.py`; Axolotl
0.15 `core/trainers/base.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.events.types import REWARDS, Evaluated, Log, RunFinished

_TOKENS = ("num_tokens", "num_input_tokens_seen", "total_tokens", "tokens/total")
_MEMORY = (
    "memory_gib",
    "memory/max_allocated (GiB)",
    "memory/max_mem_allocated(gib)",
    "memory/max_active (GiB)",
    "vram_allocated",
)


def number(values: Mapping[str, Any], *names: str) -> float:
    """The number under the first of the names that there is; nan without one."""
    for name in names:
        value = values.get(name)
        if type(value) is float:
            return value
        if value is None or isinstance(value, bool):
            continue
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return math.nan


def count(values: Mapping[str, Any], *names: str) -> int:
    """The same as a count; 0 without one."""
    value = number(values, *names)
    return int(value) if math.isfinite(value) and value > 0 else 0


def tokens(values: Mapping[str, Any]) -> int:
    """Tokens seen so far."""
    return count(values, *_TOKENS)


def log(
    values: Mapping[str, Any],
    step: int,
    *,
    tokens_per_second: float = math.nan,
    step_seconds: float = math.nan,
    remaining_seconds: float = math.nan,
) -> Log:
    """A log step; the arguments are what the surroundings know, for where the line says nothing."""

    def or_else(value: float, other: float) -> float:
        return other if math.isnan(value) else value

    return Log(
        step=step,
        epoch=number(values, "epoch"),
        loss=number(values, "loss"),
        grad_norm=number(values, "grad_norm"),
        learning_rate=number(values, "learning_rate", "lr"),
        num_tokens=tokens(values),
        tokens_per_second=or_else(number(values, "tokens_per_second", "throughput"), tokens_per_second),
        trained_tokens_per_second=number(values, "trained_tokens_per_second", "tokens/train_per_sec_per_gpu"),
        step_seconds=or_else(number(values, "step_seconds"), step_seconds),
        memory_gib=number(values, *_MEMORY),
        remaining_seconds=or_else(number(values, "eta_seconds"), remaining_seconds),
        **_rewards(values, ""),
    )


def evaluated(values: Mapping[str, Any], step: int, best: float) -> Evaluated:
    """A pass over the held-out rows; `best` is the lowest loss of the passes before, nan without one."""
    loss = number(values, "eval_loss")
    return Evaluated(
        step=step,
        epoch=number(values, "epoch"),
        eval_loss=loss,
        eval_tokens=0,
        eval_runtime=number(values, "eval_runtime", "eval_runtime_seconds"),
        best=math.isfinite(loss) and not loss >= best,
        **_rewards(values, "eval_"),
    )


def _rewards(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Those of a run that learns from pairs of answers."""
    return {field: number(values, prefix + name) for field, name in REWARDS.items() if prefix + name in values}


def finished(values: Mapping[str, Any], step: int, num_tokens: int = 0, memory_gib: float = math.nan) -> RunFinished:
    """The end of a run that came to its end."""
    return RunFinished(
        status="done",
        step=step,
        epoch=number(values, "epoch"),
        train_loss=number(values, "train_loss"),
        train_runtime=number(values, "train_runtime", "train_runtime_seconds"),
        num_tokens=tokens(values) or num_tokens,
        peak_memory_gib=memory_gib,
        final_model="",
    )
