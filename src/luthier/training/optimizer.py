"""AdamW: each trained number moves against its average gradient, divided by its typical size (Loshchilov 2019).

m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
w <- w - lr ( m^ / (sqrt(v^) + eps) + weight_decay w )          ^ = corrected for starting at 0
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from luthier.config.plan import Plan
from luthier.machine.shards import whole
from luthier.model.forward import lean_of
from luthier.training.flat import FlatAdamW, one_buffer


def build_optimizer(model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """The plan's optimizer over the trainable parameters; biases and norms are not decayed."""
    training = plan.config.training
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 and "norm" not in name else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
    }
    groups = [group for group in groups if group["params"]]
    if training.optim == "paged_adamw_8bit":
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit(groups, **options)  # type: ignore[no-any-return]
    fused = training.optim == "adamw_torch_fused"
    lean = lean_of(model)
    if fused and lean is not None and lean.pieces.adamw is not None:
        return FlatAdamW(groups, kernel=lean.pieces.adamw, fused=True, **options)
    return torch.optim.AdamW(groups, fused=fused, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use this learning rate in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """L2 norm over all gradients together, sharded ones included: a scalar tensor."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients and (buffer := one_buffer(gradients)) is not None:
        norm: torch.Tensor = torch.linalg.vector_norm(buffer)
        return norm
    return whole(torch.nn.utils.get_total_norm(gradients))


def prepare_step(optimizer: torch.optim.Optimizer) -> None:
    """What `clip_and_step` can do before the norm is known; the gradients stay as they are until then."""
    if isinstance(optimizer, FlatAdamW):
        optimizer.prepare()


def leaves_out_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the next `clip_and_step` moves nothing where the norm is no number, without asking the host."""
    return isinstance(optimizer, FlatAdamW) and optimizer.is_ready


def take_back(optimizer: torch.optim.Optimizer) -> None:
    """Not count a step that left itself out."""
    if isinstance(optimizer, FlatAdamW):
        optimizer.take_back()


def clip_and_step(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], norm: torch.Tensor, max_norm: float
) -> None:
    """Shorten the gradient to `max_norm` when it is longer (0: never), and move the weights."""
    if isinstance(optimizer, FlatAdamW) and optimizer.clip_and_step(norm, max_norm):
        return
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    optimizer.step()
