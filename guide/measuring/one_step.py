"""One row through one optimizer step of the quickstart's base, with every number on the way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from luthier.api import gathered
from luthier.config.load import load
from luthier.verify.by_hand import adamw, by_hand, chosen
from measuring.runs import WORK

CHANGES = (
    "load_in_4bit=false", "dtype=float32", "lean_path=false", "packing=false", "per_device_train_batch_size=1",
    f"data.cache_dir={WORK / 'cache'}",
)  # fmt: skip
LONGEST = 48
"""Tokens, template included: a row that fits on a screen."""


def one_step() -> dict[str, Any]:
    """Loss, gradient, clipping and update of a step of one row, and the same row's loss after it."""
    parts = gathered(load(Path("configs/quickstart.yaml"), list(CHANGES)))
    train = parts.data.train
    index = min(range(200), key=lambda i: abs(len(train.members(i)[0].input_ids) - LONGEST))
    row = chosen(parts, int(train.chosen[index]) + 1)
    step = by_hand(parts, row)
    settings, moved = parts.plan.config, step.moved
    prompt = [token.text for token in row.shown.tokens if token.part == "prompt"]
    return {
        "row": row.shown.number,
        "tokens": len(row.shown.tokens),
        "prompt_tokens": len(prompt),
        "trained": len(step.before),
        "prompt": "".join(prompt).strip(),
        "answer": pieces(row.words),
        "table": table(row.words, step.before, step.after),
        "sum": math.fsum(step.before),
        "first": row.words[0],
        "first_share": step.before[0] / math.fsum(step.before),
        "rest_loss": math.fsum(step.before[1:]) / (len(step.before) - 1),
        "loss": step.loss,
        "loss_after": math.fsum(step.after) / len(step.after),
        "norm": step.norm,
        "limit": settings.training.max_grad_norm,
        "factor": step.factor,
        "rate": step.rate,
        "scale": settings.lora.lora_alpha / settings.lora.r,
        "weight": moved.name.partition("layers.")[2].partition(".lora_B")[0],
        "gradient": moved.gradient,
        "clipped_gradient": adamw(parts.plan, step).gradient,
        "gradient_of_a": step.gradient_of_a,
        "weight_before": moved.before,
        "weight_after": moved.after,
    }


def pieces(words: tuple[str, ...]) -> str:
    """The tokens, with a stroke between them, a dozen a line."""
    shown = [word.replace("\n", "\\n") for word in words]
    return "\n".join(" | ".join(shown[at : at + 12]) for at in range(0, len(shown), 12))


def table(words: tuple[str, ...], before: tuple[float, ...], after: tuple[float, ...]) -> str:
    """The three least expected tokens and the most expected one."""
    order = sorted(range(len(words)), key=lambda i: -before[i])
    lines = ["| the right token | p before | its loss | p after | its loss |", "|---|---|---|---|---|"]
    for i in (*order[:3], order[-1]):
        word = words[i].replace("\n", "\\n").replace("|", "\\|")
        told = ((math.exp(-loss), loss) for loss in (before[i], after[i]))
        losses = (f"{p:{'.4f' if p > 0.001 else '.1e'}} | {loss:.2f}" for p, loss in told)
        lines.append(f"| `{word}` | {' | '.join(losses)} |")
    return "\n".join(lines)
