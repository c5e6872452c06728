r"""Clipping and AdamW in one pass over a flat buffer; the formulas are those of `luthier.training.optimizer`.

    g <- g min(1, max_norm / (norm + 1e-6))          as `torch.nn.utils.clip_grads_with_norm_`
    w, m, v <- AdamW(w, g, m, v)                     as `torch.optim.AdamW`

The norm stays on the device: nothing waits for it. Where it is no number, nothing moves.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options

_BLOCK = 1024


def adamw(
    weights: Tensor, gradients: Tensor, average: Tensor, squares: Tensor, norm: Tensor, *,
    step: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, max_norm: float,
) -> None:  # fmt: skip
    """Move `weights`, and its moments `average` and `squares`, by one step. Flat float32 tensors of one length.

    Args:
        weights: Changed in place.
        gradients: Not changed.
        average: Of the gradients; changed in place.
        squares: Average of their squares; changed in place.
        norm: Length of the whole gradient, a scalar tensor; NaN or infinite: the step is left out.
        step: The number of this step, from 1.
        lr: Learning rate.
        betas: How much of the averages stays.
        eps: Keeps the division finite.
        weight_decay: Pull towards zero.
        max_norm: Longer gradients are shortened to it; 0: never.
    """
    if weights.numel():
        first, second = betas
        _adamw[(triton.cdiv(weights.numel(), _BLOCK),)](
            weights, gradients, average, squares, norm, weights.numel(),
            1 - first, 1 - second, lr / (1 - first**step), (1 - second**step) ** 0.5, eps, 1 - lr * weight_decay,
            max_norm, CLIP=max_norm > 0, BLOCK=_BLOCK, **options(_BLOCK),
        )  # fmt: skip


@triton.jit
def _adamw(
    weights, gradients, average, squares, norm, count, new, new_square, rate, correction, eps, stays, max_norm,
    CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    length = tl.load(norm)
    there = place < tl.where(tl.abs(length) < float("inf"), count, 0)
    g = tl.load(gradients + place, mask=there, other=0.0)
    if CLIP:
        g *= tl.minimum(1.0, max_norm / (length + 1e-6))
    m = tl.load(average + place, mask=there, other=0.0)
    v = tl.load(squares + place, mask=there, other=0.0)
    w = tl.load(weights + place, mask=there, other=0.0) * stays
    m += (g - m) * new
    v += (g * g - v) * new_square
    tl.store(average + place, m, mask=there)
    tl.store(squares + place, v, mask=there)
    tl.store(weights + place, w - rate * m / (tl.sqrt(v) / correction + eps), mask=there)
