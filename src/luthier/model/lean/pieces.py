r"""The pieces of a Llama layer beside its products: norm, rotation and gate, each with its backward pass written out.

    rms_norm    y = w x / rms(x),  rms(x) = sqrt(mean(x^2) + eps)             (Zhang & Sennrich 2019)
                of the residual stream x + branch, too: the sum is rounded first, as if it were added before
                dx = (g - x (g . x) / (D rms^2)) / rms,  g = w dy             w is frozen: it gets no gradient
    rotate      (a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b of a head  (RoPE: Su et al. 2021)
                its transpose turns a gradient back: the same with -sin
    swiglu      h = silu(g) u,  silu(g) = g sigmoid(g)                        (Shazeer 2020)
                dg = dh u sigmoid(g) (1 + g (1 - sigmoid(g))),  du = dh silu(g)

Nothing is kept between forward and backward here: what backward needs is computed again from the input, which costs
one pass over memory and saves holding it.

These are plain torch, and the reference for `luthier.model.kernels`; a `Pieces` holds one set of them or the other.

Shape letters: T tokens, D size of a vector, H heads, I intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bitsandbytes
import torch
from torch import Tensor
from torch.nn import functional

from luthier.model.lean.fp8 import quantize_rows

Halves = tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., None]]
"""Forward and backward of attention, as `attend` and `attend_backward` in `luthier.model.kernels.attention`."""
_silu_backward = torch.ops.aten.silu_backward


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The rows of `x_TD` scaled to root mean square 1, times `weight_D`. Any leading dimensions."""
    x, inverse_T1 = _wide_and_inverse(x_TD, eps)
    return torch.mul(x, inverse_T1).mul_(weight_D.to(x.dtype)).to(x_TD.dtype)


def add_rms_norm(branch_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of a branch and the residual stream, in the branch's place, and `rms_norm` of it. Both are contiguous."""
    sum_TD = branch_TD.add_(x_TD)
    return sum_TD, rms_norm(sum_TD, weight_D, eps)


def rms_norm_backward(
    grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float, onto_TD: Tensor | None = None
) -> Tensor:
    """Gradient of the input of `rms_norm`, given that of its output; plus `onto_TD` (the residual stream's)."""
    x, inverse_T1 = _wide_and_inverse(x_TD, eps)  # in 16 bits the difference below would lose its digits
    weighted = torch.mul(grad_TD.to(x.dtype), weight_D.to(x.dtype))
    along_T1 = torch.linalg.vecdot(weighted, x)[..., None].mul_(inverse_T1.pow(3)).div_(-x.shape[-1])
    own_TD = weighted.mul_(inverse_T1).addcmul_(x, along_T1).to(x_TD.dtype)
    return own_TD if onto_TD is None else own_TD.add_(onto_TD)


def _wide_and_inverse(x_TD: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The rows in float32 or wider, and 1 / rms of each."""
    x = x_TD.to(torch.promote_types(x_TD.dtype, torch.float32))
    size_T1 = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x, size_T1.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, inverse: bool = False) -> Tensor:
    """Each head turned by its position's angles, in the wider of both formats; `inverse` turns back.

    The halves of `cos_TD` and `sin_TD` are equal, as transformers makes them.
    """
    dtype = torch.promote_types(x_THD.dtype, cos_TD.dtype)
    half = x_THD.shape[-1] // 2
    cos_T1D, sin_T1D = cos_TD[:, None, :half], sin_TD[:, None, :half]
    sin_T1D = -sin_T1D if inverse else sin_T1D
    first, second = torch.split(x_THD.to(dtype), half, dim=-1)
    turned_THD = torch.empty(x_THD.shape, dtype=dtype, device=x_THD.device)
    torch.mul(first, cos_T1D, out=turned_THD[..., :half]).addcmul_(second, sin_T1D, value=-1)
    torch.mul(second, cos_T1D, out=turned_THD[..., half:]).addcmul_(first, sin_T1D)
    return turned_THD


def swiglu(gate_up_TI: Tensor) -> Tensor:
    """silu(gate) * up, for gate and up side by side: (T, 2 I) to (T, I)."""
    gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
    return functional.silu(gate_TI).mul_(up_TI)


def swiglu_backward(grad_TI: Tensor, gate_up_TI: Tensor) -> tuple[Tensor, Tensor]:
    """The output (T, I) of `swiglu` once more, and the gradient (T, 2 I) of its input, given that of its output.

    Both arguments may be overwritten.
    """
    gate_TI, up_TI = gate_up_TI.chunk(2, dim=-1)
    grad_gate_up_TI = torch.empty_like(gate_up_TI)
    grad_gate_TI, grad_up_TI = grad_gate_up_TI.chunk(2, dim=-1)
    silu_TI = functional.silu(gate_TI)
    torch.mul(grad_TI, silu_TI, out=grad_up_TI)
    grad_gate_TI.copy_(_silu_backward(grad_TI.mul_(up_TI), gate_TI))
    return silu_TI.mul_(up_TI), grad_gate_up_TI


def unpack(base: Any, out: Tensor) -> None:
    """Write a frozen layer's weights into `out`; out of 4 bits where they are packed, by bitsandbytes itself."""
    weight = base.weight
    state = getattr(weight, "quant_state", None)
    out.copy_(weight.detach() if state is None else bitsandbytes.functional.dequantize_4bit(weight.data, state))


@dataclass(frozen=True)
class Pieces:
    """What a lean layer is put together from, beside matrix products.

    Attributes:
        name: For people.
        rms_norm, add_rms_norm, rms_norm_backward, rotate, swiglu, swiglu_backward, unpack: As the functions of this
            module.
        quantize_rows: Rows to 8-bit floats, as `luthier.model.lean.fp8.quantize_rows`.
        rotates_in_place: Whether `rotate` changes its input.
        cross_entropy: Turns logits into their gradient (`luthier.model.kernels.loss`); None: `luthier.model.head` does.
        attention: Both halves of attention among short documents (`luthier.model.kernels.attention`); None: what
            `luthier.model.lean.attention` has without.
        adamw: Clips and updates a flat buffer (`luthier.model.kernels.adamw`); None: the optimizer of torch does.
        copies: Copies many matrices in one launch (`luthier.model.kernels.copies.Copies`); None: one after the other.
    """

    name: str
    rms_norm: Callable[..., Tensor]
    add_rms_norm: Callable[..., tuple[Tensor, Tensor]]
    rms_norm_backward: Callable[..., Tensor]
    rotate: Callable[..., Tensor]
    rotates_in_place: bool
    swiglu: Callable[..., Tensor]
    swiglu_backward: Callable[..., tuple[Tensor, Tensor]]
    unpack: Callable[[Any, Tensor], None]
    quantize_rows: Callable[..., tuple[Tensor, Tensor]]
    cross_entropy: Callable[..., Tensor] | None = None
    attention: Halves | None = None
    adamw: Callable[..., None] | None = None
    copies: Callable[..., Any] | None = None


PLAIN = Pieces(
    "torch", rms_norm, add_rms_norm, rms_norm_backward, rotate, False, swiglu, swiglu_backward, unpack, quantize_rows
)
