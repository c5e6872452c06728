"""One row through one optimizer step of the quickstart's base, with every number on the way."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.api import gathered
from luthier.config.load import load
from luthier.data.loader import collate
from luthier.data.rows import TokenRow
from luthier.model.forward import inference
from luthier.model.load import load_model
from luthier.training.optimizer import build_optimizer
from luthier.training.step import backward, norm_of_gradients, update
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
    plan, tokenizer = parts.plan, parts.tokenizer
    torch.manual_seed(plan.config.training.seed)
    model = load_model(plan, parts.model_config)
    optimizer = build_optimizer(model, plan)
    index = min(range(200), key=lambda i: abs(len(parts.data.train.row(i).input_ids) - LONGEST))
    row = parts.data.train.row(index)
    before = probabilities(model, row)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss_sum, trained, _ = backward(model, [collate(parts.data.train, [index], plan)], plan)
    norm = norm_of_gradients(parameters, plan)
    name, weight, place = strongest(model)
    gradient, at_first = weight.grad[place].item(), weight[place].item()  # type: ignore[index]
    of_a = max(p.grad.abs().max().item() for n, p in adapter(model) if "lora_A" in n and p.grad is not None)
    limit, rate = plan.config.training.max_grad_norm, plan.config.training.learning_rate
    update(parameters, optimizer, plan, rate, norm)
    after = probabilities(model, row)
    ids = row.input_ids[row.trained].tolist()
    words = [tokenizer.decode([token]) for token in ids]
    return {
        "tokens": len(row.input_ids),
        "prompt_tokens": len(row.input_ids) - trained,
        "trained": trained,
        "prompt": tokenizer.decode(row.input_ids[~row.trained].tolist()).strip(),
        "answer": pieces(words),
        "table": table(words, before, after),
        "sum": sum(-math.log(p) for p in before),
        "first": words[0],
        "first_loss": -math.log(before[0]),
        "first_share": math.log(before[0]) / sum(map(math.log, before)),
        "rest_loss": -sum(map(math.log, before[1:])) / (trained - 1),
        "loss": loss_sum.item() / trained,
        "loss_after": sum(-math.log(p) for p in after) / trained,
        "norm": norm.item(),
        "limit": limit,
        "factor": min(1.0, limit / norm.item()),
        "rate": rate,
        "scale": plan.config.lora.lora_alpha / plan.config.lora.r,
        "weight": name,
        "gradient": gradient,
        "clipped_gradient": gradient * min(1.0, limit / norm.item()),
        "gradient_of_a": of_a,
        "weight_before": at_first,
        "weight_after": weight[place].item(),
    }


def adapter(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def strongest(model: nn.Module) -> tuple[str, nn.Parameter, tuple[int, int]]:
    """Layer, matrix and place of the number of any B with the largest gradient."""
    found = [(p.grad.abs().max().item(), n, p) for n, p in adapter(model) if "lora_B" in n and p.grad is not None]
    _, name, weight = max(found, key=lambda one: one[0])
    assert weight.grad is not None
    row, column = divmod(int(weight.grad.abs().argmax()), weight.shape[1])
    return name.partition("layers.")[2].partition(".lora_B")[0], weight, (row, column)


def probabilities(model: nn.Module, row: TokenRow) -> list[float]:
    """What the model gives each trained token of the row, asked for it after those before it."""
    ids = torch.from_numpy(row.input_ids.astype("int64"))
    with inference(model):
        p_TV = torch.softmax(model(ids[None]).logits[0].float(), dim=-1)
    places = row.trained.nonzero()[0]
    return [p_TV[place - 1, ids[place]].item() for place in places]


def pieces(words: list[str]) -> str:
    """The tokens, with a stroke between them, a dozen a line."""
    shown = [word.replace("\n", "\\n") for word in words]
    return "\n".join(" | ".join(shown[at : at + 12]) for at in range(0, len(shown), 12))


def table(words: list[str], before: list[float], after: list[float]) -> str:
    """The three least expected tokens and the most expected one."""
    order = sorted(range(len(words)), key=lambda i: before[i])
    lines = ["| the right token | p before | its loss | p after | its loss |", "|---|---|---|---|---|"]
    for i in (*order[:3], order[-1]):
        word = words[i].replace("\n", "\\n").replace("|", "\\|")
        losses = (f"{p:{'.4f' if p > 0.001 else '.1e'}} | {-math.log(p):.2f}" for p in (before[i], after[i]))
        lines.append(f"| `{word}` | {' | '.join(losses)} |")
    return "\n".join(lines)
