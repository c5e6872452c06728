r"""Rows to 8-bit floats with their scales, in one pass; see `luthier.model.lean.fp8` for the formulas.

A program holds a whole row: it is read once, its largest number is found in registers, and one byte for each number is
written. The scale and its inverse are put together from bits, so no division rounds; the numbers are exactly those of
the plain reference.

Needs a device that converts to e4m3 (compute capability 8.9). Not covered: rows of more than a million numbers.

Shape letters: T rows, K numbers of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options, rows_of
from luthier.model.lean.fp8 import GRID, LEAST

_LEAST_BITS = int(torch.tensor(LEAST).view(torch.int32))


def quantize_rows(x_TK: Tensor, factor_K: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`x_TK` (times `factor_K`, column by column) in e4m3 (T x K), and the scale of each row (T x 1, float32)."""
    rows, size = x_TK.shape
    x8_TK = torch.empty(x_TK.shape, dtype=GRID, device=x_TK.device)
    scale_T1 = torch.empty(rows, 1, dtype=torch.float32, device=x_TK.device)
    if rows:
        _, stride, _ = rows_of(x_TK)
        block = triton.next_power_of_2(size)
        _quantize[(rows,)](
            x_TK, x_TK if factor_K is None else factor_K, x8_TK, scale_T1, size, stride,
            LEAST=_LEAST_BITS, FACTOR=factor_K is not None, ROUND=triton.knobs.runtime.interpret, BLOCK=block,
            **options(block),
        )  # fmt: skip
    return x8_TK, scale_T1


@triton.jit
def _quantize(
    x, factor, out, scales, size, stride,
    LEAST: tl.constexpr, FACTOR: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    there = column < size
    numbers = tl.load(x + row * stride + column, mask=there, other=0.0).to(tl.float32)
    if FACTOR:
        numbers *= tl.load(factor + column, mask=there, other=0.0)
    # the bits of positive floats are ordered as they are, with infinity and nan above all others
    most = tl.max(numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0)
    # a GPU's own nan has all bits set, and would run over
    power = (tl.minimum(tl.maximum(most, LEAST), 0x7F800000) + 0x1FFFFF) & 0x7F800000
    scale = tl.where(power == 0x7F800000, power, power - (8 << 23))
    inverse = ((254 << 23) - scale).to(tl.float32, bitcast=True)
    numbers *= inverse
    if ROUND:  # Triton's interpreter loses the carry when it rounds to 8 bits; a GPU rounds in the conversion
        numbers = _rounded(numbers)
    tl.store(scales + row, scale.to(tl.float32, bitcast=True))
    tl.store(out + row * size + column, numbers.to(tl.float8e4nv), mask=there)


@triton.jit
def _rounded(numbers):
    """To the nearest number of e4m3, ties to even."""
    bits = numbers.to(tl.int32, bitcast=True)
    normal = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000
    small = (numbers + 24576.0) - 24576.0  # whose last bit is 2^-9, the smallest step
    return tl.where(tl.abs(numbers) < 0.015625, small, normal.to(tl.float32, bitcast=True))
