"""One optimizer step: forward, loss, backward, update.

The loss of a step is one mean over all its trained tokens, on all ranks, however they are split into micro-batches:

    loss = sum over micro-batches, ranks of (sum of -log p) / (number of trained tokens in the whole step)

A mean of means would weigh a token of a short batch more than one of a long batch. Sum and norm are read together, when
all of the step but its update is queued: each reading waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from luthier.config.plan import Plan
from luthier.data.collate import MicroBatch, untrained
from luthier.machine.gradients import sum_gradients
from luthier.machine.memory import is_out_of_memory
from luthier.machine.ranks import all_or_none, in_step, on_any_rank, sum_over_ranks, together
from luthier.model.forward import LEAN, autocast, inference, summed_loss
from luthier.training.instruments import Lap
from luthier.training.optimizer import clip_and_step, gradient_norm, set_learning_rate

LOSS_SCALE = {"float16": 1024.0, "bfloat16": 1.0}
"""Powers of two, on the loss of formats of 16 bits; float16 has no numbers below 6e-8. They change no digit."""


def backward(
    model: nn.Module, batches: Sequence[MicroBatch], plan: Plan, lap: Lap = lambda _: None
) -> tuple[torch.Tensor, int, int]:
    """Forward and backward over a step's micro-batches; gradients of the step's mean loss are left in `.grad`.

    Args:
        model: The model, in training mode.
        batches: This rank's micro-batches of the step.
        plan: The plan.
        lap: Told the name of each phase when it ends.

    Returns:
        Sum of the negative log-likelihoods (a scalar tensor, not waited for), trained tokens and tokens, each over all
        ranks.
    """
    counts = (sum(b.num_trained for b in batches), sum(b.num_tokens for b in batches))
    trained_tokens, num_tokens = (int(n) for n in sum_over_ranks(*counts))
    if plan.sharded:  # each pass adds up its gradients itself
        own = in_step(lambda: _own_backward(model, _as_many(batches, plan), plan, trained_tokens, lap))
    else:
        own = all_or_none(lambda: _own_backward(model, batches, plan, trained_tokens, lap), is_out_of_memory)
        sum_gradients((p for p in model.parameters() if p.requires_grad), is_out_of_memory)
    if together():
        own = torch.tensor(sum_over_ranks(own.item())[0], dtype=torch.float64)
        lap("ranks")
    return own, trained_tokens, num_tokens


def norm_of_gradients(trained: Sequence[nn.Parameter], plan: Plan) -> torch.Tensor:
    """L2 norm over all gradients together, those of other ranks' parts of a sharded model included: a scalar tensor."""
    if plan.sharded:  # its ranks wait for each other
        return in_step(lambda: gradient_norm(trained))
    return all_or_none(lambda: gradient_norm(trained), is_out_of_memory)


def read(loss_sum: torch.Tensor, norm: torch.Tensor) -> tuple[float, float]:
    """The numbers of both, in one transfer; `loss_sum` has the wider format."""
    loss, length = torch.stack([loss_sum, norm.to(loss_sum)]).tolist()
    return loss, length


def _as_many(batches: Iterable[MicroBatch], plan: Plan) -> Iterator[MicroBatch]:
    """As many passes as the rank with the most makes, as all have to gather weights for each: some without a target."""
    left = iter(batches)
    while on_any_rank((batch := next(left, None)) is not None):
        yield batch or untrained(packed=plan.config.training.packing is True)


def _own_backward(
    model: nn.Module, batches: Iterable[MicroBatch], plan: Plan, trained_tokens: int, lap: Lap
) -> torch.Tensor:
    """This rank's part of the loss and of the gradients; with others it is waited for, as they hear of what fails."""
    device = next(model.parameters()).device
    loss_sum = _zero(device)
    share, rest = _shares(model, plan, trained_tokens)
    for batch in batches:
        with autocast(plan):
            loss = summed_loss(model, batch.to(device))
        lap("forward")
        (loss * share).backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.detach()
        lap("backward")
    if rest != 1.0:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= rest
    return loss_sum.cpu() if together() else loss_sum


def _shares(model: nn.Module, plan: Plan, trained_tokens: int) -> tuple[float, float]:
    """What the loss is multiplied by before a backward pass, and its gradients after all: 1 / tokens together.

    Any factor but a power of two would itself be rounded in a pass of 16 bits, and all gradients of the step with it
    (by up to 0.2 % in bfloat16). The lean path multiplies at its end, in the gradients' own float32.
    """
    scale = LOSS_SCALE.get(plan.config.model.dtype)
    if scale is None or hasattr(model, LEAN):
        return 1 / trained_tokens, 1.0
    share = scale / 2 ** trained_tokens.bit_length()
    return share, 1 / (share * trained_tokens)


def _zero(device: torch.device) -> torch.Tensor:
    """What losses are added to: float64, which mps has not."""
    return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def update(
    trained: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    learning_rate: float,
    grad_norm: torch.Tensor,
) -> None:
    """Clip, move the trained weights, forget the gradients."""
    set_learning_rate(optimizer, learning_rate)
    clip_and_step(optimizer, trained, grad_norm, plan.config.training.max_grad_norm)
    optimizer.zero_grad(set_to_none=True)


def evaluate(model: nn.Module, batches: Iterable[MicroBatch], plan: Plan) -> tuple[float, int]:
    """Sum of the negative log-likelihoods and number of trained tokens, over all ranks; no gradients, no dropout."""
    if plan.sharded:
        own = in_step(lambda: _own_loss(model, _as_many(batches, plan), plan))
    else:
        own = all_or_none(lambda: _own_loss(model, batches, plan), is_out_of_memory)
    loss_sum, tokens = sum_over_ranks(*own)
    return loss_sum, int(tokens)


def _own_loss(model: nn.Module, batches: Iterable[MicroBatch], plan: Plan) -> tuple[float, int]:
    """This rank's part of it."""
    device = next(model.parameters()).device
    total = _zero(device)
    trained_tokens = 0
    with inference(model), autocast(plan):
        for batch in batches:
            total += summed_loss(model, batch.to(device))
            trained_tokens += batch.num_trained
    return total.item(), trained_tokens
