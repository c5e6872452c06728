"""Runs made of plain events, for what cannot be provoked on a CPU and for the edges of the rules."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

from luthier.doctor import Finding, History, findings, fold
from luthier.events.types import (
    Architecture,
    CheckpointSaved,
    Evaluated,
    Event,
    Log,
    Machine,
    Notice,
    RunFinished,
    RunStarted,
    Timing,
)

NAN = math.nan
PLAN: dict[str, Any] = {
    "model.from_scratch": False,
    "model.dtype": "bfloat16",
    "quantization.load_in_4bit": False,
    "lora.r": 16,
    "lora.lora_alpha": 32,
    "data.prompt_template": "auto",
    "data.max_seq_length": 2048,
    "data.completion_only_loss": True,
    "data.val_set_size": 0.0,
    "data.dataloader_num_workers": 2,
    "training.finetuning_type": "lora",
    "training.learning_rate": 2e-4,
    "training.max_grad_norm": 1.0,
    "training.num_train_epochs": 3.0,
    "training.max_steps": None,
    "training.gradient_checkpointing": False,
    "training.per_device_train_batch_size": 4,
    "training.max_tokens_per_micro_batch": 8192,
    "evaluation.load_best_model_at_end": True,
    "evaluation.early_stopping_patience": None,
    "checkpointing.save_total_limit": 3,
    "machine.device": "cuda",
    "machine.memory_gib": 24.0,
    "plan.warmup_steps": 30,
    "plan.save_every": 100,
    "plan.max_tokens_per_micro_batch": 8192,
}


def started(total_steps: int = 1000, **changes: Any) -> RunStarted:
    return RunStarted("run", total_steps, 0, 3.0, {**PLAN, **changes})


def log(step: int, loss: float, **changes: Any) -> Log:
    values = {
        "step": step,
        "epoch": step * 3 / 1000,
        "loss": loss,
        "grad_norm": 0.5,
        "learning_rate": 2e-4,
        "num_tokens": 4000 * step,
        "tokens_per_second": 8000.0,
        "trained_tokens_per_second": 3000.0,
        "step_seconds": 0.5,
        "memory_gib": 10.0,
        "remaining_seconds": 100.0,
    }
    return Log(**{**values, **changes})


def falling(step: int) -> float:
    """The usual curve of fine-tuning: 1.3 to 0.8 quickly, then slowly to 0.7."""
    return 0.7 + 0.1 * math.exp(-step / 800) + 0.5 * math.exp(-step / 30)


def curve(
    steps: Iterable[int], loss: Callable[[int], float] = falling, noise: float = 0.02, **changes: Any
) -> list[Log]:
    rng = random.Random(7)
    return [log(step, loss(step) * (1 + rng.gauss(0, noise)), **changes) for step in steps]


def evaluated(step: int, loss: float) -> Evaluated:
    return Evaluated(step, step * 3 / 1000, loss, 5000, 3.0, False)


def machine(step: int, **changes: Any) -> Machine:
    values = {
        "gpu_utilization": 97.0,
        "gpu_memory_used_gib": 12.0,
        "gpu_memory_total_gib": 24.0,
        "gpu_temperature_c": 65.0,
        "gpu_power_w": 250.0,
        "cpu_utilization": 20.0,
        "ram_used_gib": 10.0,
        "ram_total_gib": 64.0,
        "disk_free_gib": 500.0,
    }
    return Machine(step, **{**values, **changes})


def timing(step: int, data: float = 0.0) -> Timing:
    return Timing(step, data, 0.2, 0.25, 0.02, 0.0)


def saved(step: int, gib: float = 1.0) -> CheckpointSaved:
    return CheckpointSaved(step, f"checkpoint-{step}", int(gib * 2**30), 1.0, [])


def failed(step: int, reason: str) -> RunFinished:
    return RunFinished("failed", step, 0.0, NAN, 0.0, 0, 0.0, "", reason)


def notice(text: str) -> Notice:
    return Notice("critical", text)


def architecture(vocabulary: int = 128256) -> Architecture:
    modules = [{"name": "embed", "type": "Embedding", "parameters": 1, "trainable": 0, "shape": f"{vocabulary}x64"}]
    return Architecture(1000, 10, modules)


def steps(first: int = 10, last: int = 400, every: int = 10) -> list[int]:
    return [1, *range(first, last + 1, every)]


def seen(*events: Event | Iterable[Event], seconds: float = 5.0) -> History:
    """The history after these events, `seconds` apart, the first at 1000."""
    run, now = History(), 1000.0
    for item in events:
        for event in [item] if isinstance(item, Event) else item:
            run = fold(run, event, now)
            now += seconds
    return run


def found(*events: Event | Iterable[Event], after: float = 1.0) -> dict[str, Finding]:
    """Rule -> finding, `after` seconds after the last event. None leaves the reader without a next thing to do."""
    run = seen(*events)
    named = {finding.rule: finding for finding in findings(run, run.updated + after)}
    assert [name for name, finding in named.items() if not (finding.change or finding.fix)] == []
    return named


def changed(finding: Finding) -> dict[str, tuple[str, str]]:
    return {change.key: (change.old, change.new) for change in finding.change}
