"""One optimizer step: forward, loss, backward, update.

The loss of a step is one mean over all its trained tokens, on all ranks, however they are split into micro-batches:

    loss = sum over micro-batches, ranks of (sum of -log p) / (number of trained tokens in the whole step)

or over all its pairs (`luthier.training.objective`). A mean of means would weigh a token of a short batch more than one
of a long batch. Sum and norm are read together, when all of the step is queued, or all but its update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from luthier.config.plan import Plan
from luthier.data.collate import MicroBatch, untrained
from luthier.machine.gradients import sum_gradients
from luthier.machine.ranks import all_or_none, in_step, on_any_rank, sum_over_ranks, together
from luthier.model.forward import autocast, inference, lean_of
from luthier.training.instruments import Lap
from luthier.training.objective import SUMS, Counted, counts, sums, widest
from luthier.training.optimizer import clip_and_step, gradient_norm, set_learning_rate

_T = TypeVar("_T")


def backward(
    model: nn.Module,
    batches: Sequence[MicroBatch],
    plan: Plan,
    lap: Lap = lambda _: None,
    reference_P2: torch.Tensor | None = None,
    loss_scale: float = 1.0,
) -> tuple[torch.Tensor, Counted]:
    """Forward and backward over a step's micro-batches; gradients of the step's mean loss are left in `.grad`.

    Args:
        model: The model, in training mode.
        batches: This rank's micro-batches of the step.
        plan: The plan.
        lap: Told the name of each phase when it ends.
        reference_P2: Of all training pairs, where the objective is one of pairs.
        loss_scale: A power of two: how much larger gradients are on their way (`luthier.training.scale`).

    Returns:
        The objective's sums (K,), the loss first (not waited for), and what it went over, each over all ranks.
    """
    counted = Counted(*(int(n) for n in sum_over_ranks(*counts(batches))))
    work = _Work(model, plan, reference_P2, counted.losses, loss_scale, lap)
    own = _on_all_ranks(plan, lambda: _backward_on_this_rank(work, _as_many(batches, plan)))
    if not plan.sharded:  # there each pass adds up its gradients itself
        sum_gradients(p for p in model.parameters() if p.requires_grad)
    if together():
        own = torch.tensor(sum_over_ranks(*own.tolist()), dtype=torch.float64)
        lap("ranks")
    return own, counted


def norm_of_gradients(trained: Sequence[nn.Parameter], plan: Plan) -> torch.Tensor:
    """L2 norm over all gradients together, those of other ranks' parts of a sharded model included: a scalar tensor."""
    return _on_all_ranks(plan, lambda: gradient_norm(trained))


class Numbers:
    """A step's sums and the length of its gradient, on their way to the host in one transfer.

    Args:
        summed: The sums (K,), which have the wider format.
        norm: The length, a scalar.
    """

    def __init__(self, summed: torch.Tensor, norm: torch.Tensor) -> None:
        both = torch.cat([summed, norm.to(summed)[None]])
        self._host, self._arrived = both.to("cpu", non_blocking=both.is_cuda), None  # elsewhere nothing would wait
        if both.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def read(self) -> tuple[list[float], float]:
        """Both, once they are there; what was queued after them is not waited for."""
        if self._arrived is not None:
            self._arrived.synchronize()
        *sums, length = self._host.tolist()
        return sums, length


def nan_unless_finite(norm: torch.Tensor, summed: torch.Tensor) -> torch.Tensor:
    """The norm, of a step that is to be applied: NaN where its loss is no number, whatever its gradient is."""
    return norm + (0 * summed[0]).to(norm)


def _on_all_ranks(plan: Plan, work: Callable[[], _T]) -> _T:
    """What `work` returns; where it fails on one rank, it fails on all. Ranks of a sharded model wait inside of it."""
    return in_step(work) if plan.sharded else all_or_none(work)


def _as_many(batches: Iterable[MicroBatch], plan: Plan) -> Iterator[MicroBatch]:
    """The passes; of a sharded model as many as the rank with the most makes, some of them without a target.

    All its ranks have to gather weights for each pass.
    """
    if not plan.sharded:
        yield from batches
        return
    left = iter(batches)
    while on_any_rank((batch := next(left, None)) is not None):
        yield batch or untrained(packed=plan.packed)


@dataclass(frozen=True)
class _Work:
    """A step's: `losses` is what its loss is a mean over, on all ranks."""

    model: nn.Module
    plan: Plan
    reference_P2: torch.Tensor | None
    losses: int
    loss_scale: float
    lap: Lap


def _backward_on_this_rank(work: _Work, batches: Iterable[MicroBatch]) -> torch.Tensor:
    """This rank's part of the sums and of the gradients; with others it is waited for, as they hear of what fails."""
    model, plan, lap = work.model, work.plan, work.lap
    device = next(model.parameters()).device
    total = _zeros(plan, device)
    share, rest = _shares(work)
    for batch in batches:
        with autocast(plan):
            summed = sums(model, batch.to(device), plan, work.reference_P2)
        lap("forward")
        (summed[0] * share).backward()  # type: ignore[no-untyped-call]
        total += summed.detach()
        lap("backward")
    if rest != 1.0:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= rest
    return total.cpu() if together() else total


def _shares(work: _Work) -> tuple[float, float]:
    """What the loss is multiplied by before a backward pass, and its gradients after all: 1 / losses together.

    Any factor but a power of two would itself be rounded in a pass of 16 bits, and all gradients of the step with it
    (by up to 0.2 % in bfloat16). The lean path multiplies at its end, in the gradients' own float32.
    """
    lean = lean_of(work.model)
    if lean is not None:
        lean.scale_loss(work.loss_scale)
        return 1 / work.losses, 1.0
    if work.plan.config.model.dtype == "float32":
        return 1 / work.losses, 1.0
    return work.loss_scale, 1 / (work.loss_scale * work.losses)


def _zeros(plan: Plan, device: torch.device) -> torch.Tensor:
    """What sums (K,) are added to."""
    return torch.zeros(SUMS[plan.config.training.objective], dtype=widest(device), device=device)


def update(
    trained: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    learning_rate: float,
    grad_norm: torch.Tensor,
) -> None:
    """Clip, and move the trained weights."""
    set_learning_rate(optimizer, learning_rate)
    clip_and_step(optimizer, trained, grad_norm, plan.config.training.max_grad_norm)


def evaluate(
    model: nn.Module, batches: Iterable[MicroBatch], plan: Plan, reference_P2: torch.Tensor | None = None
) -> tuple[list[float], Counted]:
    """The objective's sums and what they went over, over all ranks; no gradients, no dropout.

    Args:
        model: The model.
        batches: This rank's passes.
        plan: The plan.
        reference_P2: Of all pairs that `batches` are of, where the objective is one of pairs.
    """
    own = _on_all_ranks(plan, lambda: _sums_on_this_rank(model, _as_many(batches, plan), plan, reference_P2))
    *summed, losses, trained_tokens, tokens = sum_over_ranks(*own)
    return summed, Counted(int(losses), int(trained_tokens), int(tokens))


def _sums_on_this_rank(
    model: nn.Module, batches: Iterable[MicroBatch], plan: Plan, reference_P2: torch.Tensor | None
) -> list[float]:
    """This rank's part of them."""
    device = next(model.parameters()).device
    total, seen = _zeros(plan, device), [0, 0, 0]
    with inference(model), autocast(plan):
        for batch in batches:
            total += sums(model, batch.to(device), plan, reference_P2)
            seen = [before + more for before, more in zip(seen, counts([batch]), strict=True)]
    return [*total.tolist(), *seen]
