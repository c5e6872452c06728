r"""Cross-entropy of a chunk of logits, which become their own gradient; see `luthier.model.head` for the formulas.

A program reads its row twice: once for the maximum and the sum of exponentials, kept up to date piece by piece
(Milakov & Gimelshein 2018), and once to write softmax - onehot over the logits. No copy in float32 is made. At the
target p - 1 is minus the sum of all other probabilities, which keeps its digits where p is near 1.

Shape letters: C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options, rows_of, wide

_BLOCK = 8192


def cross_entropy(logits_CV: Tensor, targets_C: Tensor, *, gradient: bool) -> Tensor:
    """Loss of each row (C), in nats and at least float32. `logits_CV` holds its gradient afterwards, if asked for.

    Rows with the target `luthier.model.head.NO_TARGET` have a loss and a gradient of 0.
    """
    loss_C = logits_CV.new_empty(len(logits_CV), dtype=torch.promote_types(logits_CV.dtype, torch.float32))
    if len(logits_CV):
        _, stride, _ = rows_of(logits_CV)
        size = logits_CV.shape[1]
        block = min(_BLOCK, triton.next_power_of_2(size))
        _cross_entropy[(len(logits_CV),)](
            logits_CV, targets_C, loss_C, size, stride, targets_C.stride(0),
            GRADIENT=gradient, WIDE=wide(logits_CV.dtype), BLOCK=block, **options(block),
        )  # fmt: skip
    return loss_C


@triton.jit
def _cross_entropy(
    logits, targets, loss, size, stride, target_stride,
    GRADIENT: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    place = logits + row * stride
    target = tl.load(targets + row * target_stride)
    counts = target >= 0
    right = tl.load(place + tl.maximum(target, 0)).to(WIDE)
    top = right
    others = tl.full([], 0.0, WIDE)  # the sum of exp(z - top) without the target's
    for start in range(0, size, BLOCK):
        column = start + tl.arange(0, BLOCK)
        z = tl.load(place + column, mask=column < size, other=float("-inf")).to(WIDE)
        higher = tl.maximum(top, tl.max(z, axis=0))
        powers = tl.where(column == target, 0.0, tl.exp(z - higher))
        others = others * tl.exp(top - higher) + tl.sum(powers, axis=0)
        top = higher
    total = others + tl.exp(right - top)
    tl.store(loss + row, tl.where(counts, tl.log(total) + (top - right), 0.0))
    if GRADIENT:
        for start in range(0, size, BLOCK):
            column = start + tl.arange(0, BLOCK)
            z = tl.load(place + column, mask=column < size, other=float("-inf")).to(WIDE)
            change = tl.where(column == target, -others, tl.exp(z - top)) / total
            tl.store(place + column, tl.where(counts, change, 0.0), mask=column < size)
