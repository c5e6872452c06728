r"""SwiGLU on gate|up side by side, and its gradient; see `luthier.model.lean.pieces` for the formulas.

Shape letters: T tokens, I intermediate size; gate|up is (T, 2 I).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options, rows_of, wide

_BLOCK = 1024


def swiglu(gate_up_TI: Tensor) -> Tensor:
    """silu(gate) * up: (T, 2 I) to (T, I)."""
    tokens, size = len(gate_up_TI), gate_up_TI.shape[1] // 2
    out_TI = torch.empty(tokens, size, dtype=gate_up_TI.dtype, device=gate_up_TI.device)
    if out_TI.numel():
        _, stride, _ = rows_of(gate_up_TI)
        block = min(_BLOCK, triton.next_power_of_2(size))
        _forward[(tokens, triton.cdiv(size, block))](
            gate_up_TI, out_TI, size, stride, WIDE=wide(gate_up_TI.dtype), BLOCK=block, **options(block)
        )
    return out_TI


def swiglu_backward(grad_TI: Tensor, gate_up_TI: Tensor) -> tuple[Tensor, Tensor]:
    """The output of `swiglu` once more, and the gradient of its input, given that of its output.

    They take the places of `grad_TI` and `gate_up_TI`: all four are read and written in one pass.
    """
    tokens, size = grad_TI.shape
    if grad_TI.numel():
        _, stride, _ = rows_of(gate_up_TI)
        _, grad_stride, _ = rows_of(grad_TI)
        block = min(_BLOCK, triton.next_power_of_2(size))
        _backward[(tokens, triton.cdiv(size, block))](
            grad_TI, gate_up_TI, size, grad_stride, stride,
            WIDE=wide(gate_up_TI.dtype), BLOCK=block, **options(block),
        )  # fmt: skip
    return grad_TI, gate_up_TI


@triton.jit
def _forward(gate_up, out, size, stride, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < size
    gate = tl.load(gate_up + token * stride + column, mask=there, other=0.0).to(WIDE)
    up = tl.load(gate_up + token * stride + size + column, mask=there, other=0.0).to(WIDE)
    tl.store(out + token * size + column, gate * tl.sigmoid(gate) * up, mask=there)


@triton.jit
def _backward(grad, gate_up, size, grad_stride, stride, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < size
    place = gate_up + token * stride + column
    gate = tl.load(place, mask=there, other=0.0).to(WIDE)
    up = tl.load(place + size, mask=there, other=0.0).to(WIDE)
    from_place = grad + token * grad_stride + column
    from_out = tl.load(from_place, mask=there, other=0.0).to(WIDE)
    open_ = tl.sigmoid(gate)
    tl.store(from_place, gate * open_ * up, mask=there)
    tl.store(place, from_out * up * open_ * (1.0 + gate * (1.0 - open_)), mask=there)
    tl.store(place + size, from_out * gate * open_, mask=there)
