r"""RMSNorm and the gradient of its input; see `luthier.model.lean.pieces` for the formulas.

A program holds whole rows. The residual stream's gradient is added while the norm's is at hand, which saves reading and
writing both once more. Forward the stream itself is added up there, for the same reason: the sum is rounded to its
format and written over the branch, and the norm is that of the rounded numbers.

Shape letters: T tokens, G vectors of a token (heads), D size of a vector. x may be a view: (T, D) or (T, G, D).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options, rows_of, tile, wide


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The rows of `x_TD` scaled to root mean square 1, times `weight_D`."""
    return _normed(x_TD, None, weight_D, eps)


def add_rms_norm(branch_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of a branch and the residual stream, in the branch's place, and `rms_norm` of it. Both are contiguous."""
    return branch_TD, _normed(branch_TD, x_TD, weight_D, eps)


def _normed(x_TD: Tensor, more_TD: Tensor | None, weight_D: Tensor, eps: float) -> Tensor:
    y_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    if x_TD.numel():
        groups, token, group = rows_of(x_TD)
        size = x_TD.shape[-1]
        count, (rows, block) = x_TD.numel() // size, tile(size)
        _forward[(triton.cdiv(count, rows),)](
            x_TD, x_TD if more_TD is None else more_TD, weight_D, y_TD, count, size, groups, token, group,
            EPS=eps, ADD=more_TD is not None, WIDE=wide(x_TD.dtype), ROWS=rows, BLOCK=block, **options(rows * block),
        )  # fmt: skip
    return y_TD


def rms_norm_backward(
    grad_TD: Tensor, x_TD: Tensor, weight_D: Tensor, eps: float, onto_TD: Tensor | None = None
) -> Tensor:
    """Gradient of the input of `rms_norm`, given that of its output; plus `onto_TD`, which is contiguous."""
    out_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    if x_TD.numel():
        groups, token, group = rows_of(x_TD)
        _, grad_token, grad_group = rows_of(grad_TD)
        size = x_TD.shape[-1]
        count, (rows, block) = x_TD.numel() // size, tile(size)
        _backward[(triton.cdiv(count, rows),)](
            grad_TD, x_TD, weight_D, out_TD if onto_TD is None else onto_TD, out_TD, count, size, groups,
            grad_token, grad_group, token, group,
            EPS=eps, ONTO=onto_TD is not None, WIDE=wide(x_TD.dtype), ROWS=rows, BLOCK=block,
            **options(rows * block),
        )  # fmt: skip
    return out_TD


@triton.jit
def _place(row, column, groups, token_stride, group_stride):
    row = row.to(tl.int64)
    return (row // groups) * token_stride + (row % groups) * group_stride + column


@triton.jit
def _forward(
    x, more, weight, y, count, size, groups, token, group,
    EPS: tl.constexpr, ADD: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    there = (row < count) & (column < size)
    place, flat = x + _place(row, column, groups, token, group), row.to(tl.int64) * size + column
    numbers = tl.load(place, mask=there, other=0.0).to(WIDE)
    if ADD:
        sums = (numbers + tl.load(more + flat, mask=there, other=0.0).to(WIDE)).to(x.dtype.element_ty)
        tl.store(place, sums, mask=there)
        numbers = sums.to(WIDE)
    factor = tl.load(weight + column, mask=column < size, other=0.0).to(WIDE)
    inverse = tl.rsqrt(tl.sum(numbers * numbers, axis=1) / size + EPS)[:, None]
    tl.store(y + flat, numbers * inverse * factor, mask=there)


@triton.jit
def _backward(
    grad, x, weight, onto, out, count, size, groups, grad_token, grad_group, token, group,
    EPS: tl.constexpr, ONTO: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    there = (row < count) & (column < size)
    numbers = tl.load(x + _place(row, column, groups, token, group), mask=there, other=0.0).to(WIDE)
    weighted = tl.load(grad + _place(row, column, groups, grad_token, grad_group), mask=there, other=0.0).to(WIDE)
    weighted *= tl.load(weight + column, mask=column < size, other=0.0).to(WIDE)
    inverse = tl.rsqrt(tl.sum(numbers * numbers, axis=1) / size + EPS)[:, None]
    # normalized before they are multiplied: the square of the inverse would underflow where numbers are huge
    unit = numbers * inverse
    along = tl.sum(weighted * unit, axis=1)[:, None] / size
    result = (weighted - unit * along) * inverse
    flat = row.to(tl.int64) * size + column
    if ONTO:
        result += tl.load(onto + flat, mask=there, other=0.0).to(WIDE)
    tl.store(out + flat, result, mask=there)
