"""The numbers of an event under the names that TensorBoard and all trackers show."""

from __future__ import annotations

import math
from dataclasses import fields

from luthier.events.numbers import NUMBERS, NUMBERS_OF_PAIRS
from luthier.events.types import Evaluated, Event, Gradients, Log, Machine, RunFinished, Timing, rewards_of


def metrics(event: Event) -> dict[str, float]:
    """Tag -> value; empty for an event without numbers to plot. Every event that has some has a `step`."""
    match event:
        case Log():
            return {
                "train/loss": event.loss,
                "train/learning_rate": event.learning_rate,
                "train/grad_norm": event.grad_norm,
                "train/epoch": event.epoch,
                "train/num_tokens": event.num_tokens,
                "perf/tokens_per_second": event.tokens_per_second,
                "perf/trained_tokens_per_second": event.trained_tokens_per_second,
                "perf/step_seconds": event.step_seconds,
                "perf/memory_gib": event.memory_gib,
                **{f"train/{name}": value for name, value in rewards_of(event).items()},
            }
        case Evaluated():
            best = {"eval/best_loss": event.eval_loss} if event.best else {}
            rewards = {f"eval/{name}": value for name, value in rewards_of(event).items()}
            return {"eval/loss": event.eval_loss, "eval/runtime_seconds": event.eval_runtime, **best, **rewards}
        case Timing() | Machine():
            group = "time" if isinstance(event, Timing) else "machine"
            values = {field.name: getattr(event, field.name) for field in fields(event) if field.name != "step"}
            for name in [name for name, value in values.items() if isinstance(value, list)]:  # one of each rank
                values |= {f"{name}/rank_{rank}": value for rank, value in enumerate(values.pop(name))}
            return {f"{group}/{name}": float(value) for name, value in values.items() if math.isfinite(value)}
        case Gradients():
            return {f"gradients/norm/{layer}": norm for layer, norm in event.norms.items()}
        case RunFinished():
            return {
                "final/train_loss": event.train_loss,
                "final/train_runtime_seconds": event.train_runtime,
                "final/num_tokens": event.num_tokens,
                "final/peak_memory_gib": event.peak_memory_gib,
            }
        case _:
            return {}


_ELSEWHERE = {
    "eval/loss": "eval_loss",
    "eval/best_loss": "eval_loss",
    "eval/runtime_seconds": "eval_runtime",
    "final/train_runtime_seconds": "train_runtime",
    "gradients/norm": "norms",
}
"""Tag, or its first two parts -> what the log calls it, where that is not its second part."""


def described(tag: str, pairs: bool = False) -> str:
    """What the number of a tag is, and what to do when it is not well; `pairs`: in a run that learns from pairs."""
    group, name, *rest = tag.split("/")
    name = "/".join([name, *rest]) if name == "rewards" else name
    name = _ELSEWHERE.get(f"{group}/{name}", name)
    told = (NUMBERS_OF_PAIRS if pairs else {}).get(name, NUMBERS[name])
    return f"{told.idea} {told.care}".rstrip()
