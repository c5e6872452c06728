"""One optimizer step of a single row, with every number on the way: what the formulas of the guide say, done.

    p, -ln p of each trained token -> mean = loss -> gradient -> its length, clipping -> AdamW -> the same row again

Loss, gradient, clipping and update are training's own functions; beside them AdamW's first step is computed from its
formula in float64, for the one number whose gradient is the strongest. The step is taken at the peak learning rate,
because the first one of a warmup moves too little to be seen.

Not covered: a second step, whose averages remember the first; several processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from luthier.config.plan import Memory, Plan
from luthier.data.collate import MicroBatch
from luthier.data.loader import collate
from luthier.data.rows import Selection
from luthier.errors import DataError, Problem
from luthier.gate.xray import XRay, xray
from luthier.ingredients import Ingredients
from luthier.machine.probe import probe, resident_gib
from luthier.machine.seed import seed_everything
from luthier.model.forward import autocast, inference, own_token_losses
from luthier.model.load import load_model
from luthier.model.memory import forecast
from luthier.training.failures import named_failures
from luthier.training.optimizer import build_optimizer
from luthier.training.schedule import learning_rate
from luthier.training.step import backward, norm_of_gradients, update


@dataclass(frozen=True)
class Row:
    """The row of the step.

    Attributes:
        shown: As the gate shows it.
        batch: As training reads it: one pass of this row alone.
        memory: What a step of it holds.
    """

    shown: XRay
    batch: MicroBatch
    memory: Memory

    @property
    def words(self) -> tuple[str, ...]:
        """The text of each trained token."""
        return tuple(self.shown.tokens[place + 1].text for place in self.batch.positions_N.tolist())


@dataclass(frozen=True)
class Moved:
    """One number of a trained matrix.

    Attributes:
        name: Of the matrix.
        row, column: Its place there, from 0.
        gradient: Before clipping.
        decay: weight_decay, where it holds for this matrix.
        before, after: The number, before the step and as the optimizer left it.
    """

    name: str
    row: int
    column: int
    gradient: float
    decay: float
    before: float
    after: float


@dataclass(frozen=True)
class ByHand:
    """A step. Losses are in nats.

    Attributes:
        before, after: -ln p of each trained token, before the step and after it.
        loss: Of the step, as training's own pass computes it.
        norm: Length of the gradient.
        factor: What clipping multiplies it by; 1: nothing.
        rate: The learning rate of this step.
        first_rate: That of step 1 of the run, in its warmup.
        gradient_of_a: The largest gradient in any A of the adapter; None where there is none.
        moved: The number with the strongest gradient: of all B, or, without an adapter, of all that is trained.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    loss: float
    norm: float
    factor: float
    rate: float
    first_rate: float
    gradient_of_a: float | None
    moved: Moved


@dataclass(frozen=True)
class AdamW:
    """The first step of AdamW for one number, by its formula.

    Attributes:
        gradient: After clipping.
        m, v: The averages of gradient and squared gradient, which began at 0.
        mean, root: Both corrected for that: m / (1 - beta1), and the square root of v / (1 - beta2).
        after: The number after the step.
    """

    gradient: float
    m: float
    v: float
    mean: float
    root: float
    after: float


def chosen(parts: Ingredients, number: int) -> Row:
    """A row, and what a step of it will hold.

    Args:
        parts: Plan, tokenizer and rows.
        number: From 1, over all sources.

    Raises:
        DataError: E-GATE-003, no such row; E-GATE-004, one without a trained token; E-GATE-005, pairs.
    """
    if parts.data.report.pairs:
        found, fix = "one step by hand shows the loss of an answer, and this run compares pairs", "leave --step out"
        raise DataError(Problem("E-GATE-005", found, fix, "training.objective"))
    shown = xray(parts.subject, number)
    rows = Selection(parts.data.train.store, np.array([number - 1]), parts.data.train.limit)
    batch = collate(rows, [0], parts.plan)
    if not batch.num_trained:
        fix = "choose another row, or raise max_seq_length"
        raise DataError(Problem("E-GATE-004", f"row {number:,} has no token that is trained", fix, shown.place))
    tokens = int(rows.lengths[0])
    memory = forecast(
        parts.plan,
        parts.model_config,
        process_gib=resident_gib(),
        free_gib=probe().free_memory_gib,
        tokens=tokens,
        passes=1,
        row_tokens=tokens,
    )
    return Row(shown, batch, memory)


def by_hand(parts: Ingredients, row: Row) -> ByHand:
    """Load the model and take the step; nothing is kept of it.

    Raises:
        LuthierError: What loading and training raise: no weights, no memory.
    """
    with named_failures(lambda: parts.plan):
        seed_everything(parts.plan.config.training.seed)  # the adapter of the run's step 1
        return taken(parts.plan, load_model(parts.plan, parts.model_config), row.batch)


def taken(plan: Plan, model: nn.Module, batch: MicroBatch) -> ByHand:
    """The step of one batch: the model is moved by it."""
    training = plan.config.training
    optimizer = build_optimizer(model, plan)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = _losses(model, batch, plan)
    summed, counted = backward(model, [batch], plan)
    norm = norm_of_gradients([*trained.values()], plan)
    name, place = _strongest(trained)
    gradient, start = trained[name].grad[place].item(), trained[name][place].item()  # type: ignore[index]
    of_a = [_largest(p.grad) for part, p in trained.items() if "lora_A" in part]
    limit, length = training.max_grad_norm, norm.item()
    update([*trained.values()], optimizer, plan, training.learning_rate, norm)
    moved = Moved(name, *place, gradient, _decay(optimizer, trained[name]), start, after=trained[name][place].item())
    return ByHand(
        before=before,
        after=_losses(model, batch, plan),
        loss=summed[0].item() / counted.losses,
        norm=length,
        factor=min(1.0, limit / length) if limit > 0 and length > 0 else 1.0,
        rate=training.learning_rate,
        first_rate=learning_rate(plan, 0),
        gradient_of_a=max(of_a, default=None),
        moved=moved,
    )


def adamw(plan: Plan, step: ByHand) -> AdamW:
    """The step of the moved number by the formula, in float64 (Loshchilov & Hutter 2019, with m and v at 0)."""
    training, moved = plan.config.training, step.moved
    gradient = moved.gradient * step.factor
    m, v = (1 - training.adam_beta1) * gradient, (1 - training.adam_beta2) * gradient**2
    mean, root = m / (1 - training.adam_beta1), math.sqrt(v / (1 - training.adam_beta2))
    direction = mean / (root + training.adam_epsilon) + moved.decay * moved.before
    return AdamW(gradient, m, v, mean, root, moved.before - step.rate * direction)


def _losses(model: nn.Module, batch: MicroBatch, plan: Plan) -> tuple[float, ...]:
    device = next(model.parameters()).device
    with inference(model), autocast(plan):
        return tuple(own_token_losses(model, batch.to(device)).tolist())


def _strongest(trained: dict[str, nn.Parameter]) -> tuple[str, tuple[int, int]]:
    """Name of the matrix, and place in it, of the number with the largest gradient; of an adapter in any B."""
    matrices = {name: p.grad for name, p in trained.items() if p.ndim == 2 and p.grad is not None}
    found = {name: grad for name, grad in matrices.items() if "lora_B" in name} or matrices
    name = max(found, key=lambda name: _largest(found[name]))
    row, column = divmod(int(found[name].abs().argmax()), found[name].shape[1])
    return name, (row, column)


def _largest(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else gradient.abs().max().item()


def _decay(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> float:
    groups = (group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    return float(next(groups)["weight_decay"])
