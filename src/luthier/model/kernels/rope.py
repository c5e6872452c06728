r"""Rotation of the heads of stacked q|k, where they lie; see `luthier.model.lean.pieces.rotate`.

    (a, b) -> (a cos - b sin, b cos + a sin)        forward
    (a, b) -> (a cos + b sin, b cos - a sin)        its inverse, which is its transpose: for gradients

A program turns some heads of one token: it reads both halves before it writes either, so nothing is copied.

Shape letters: T tokens, H heads, D size of a head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options, rows_of, tile, wide


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, inverse: bool = False) -> Tensor:
    """`x_THD` itself, its heads turned in place by their positions' angles. It may be a view.

    The halves of `cos_TD` and `sin_TD` are equal, as transformers makes them.
    """
    if x_THD.numel():
        heads, token, head = rows_of(x_THD)
        half = x_THD.shape[-1] // 2
        rows, block = tile(half)
        rows = min(rows, triton.next_power_of_2(heads))
        _rotate[(len(x_THD), triton.cdiv(heads, rows))](
            x_THD, cos_TD, sin_TD, heads, half, token, head, cos_TD.stride(0), sin_TD.stride(0),
            INVERSE=inverse, WIDE=wide(torch.promote_types(x_THD.dtype, cos_TD.dtype)), ROWS=rows, BLOCK=block,
            **options(rows * block),
        )  # fmt: skip
    return x_THD


@triton.jit
def _rotate(
    x, cos, sin, heads, half, token_stride, head_stride, cos_stride, sin_stride,
    INVERSE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    there = (head < heads) & (column < half)
    place = x + token * token_stride + head * head_stride + column
    first = tl.load(place, mask=there, other=0.0).to(WIDE)
    second = tl.load(place + half, mask=there, other=0.0).to(WIDE)
    c = tl.load(cos + token * cos_stride + column, mask=column < half, other=0.0).to(WIDE)
    s = tl.load(sin + token * sin_stride + column, mask=column < half, other=0.0).to(WIDE)
    if INVERSE:
        s = -s
    tl.store(place, first * c - second * s, mask=there)
    tl.store(place + half, second * c + first * s, mask=there)
