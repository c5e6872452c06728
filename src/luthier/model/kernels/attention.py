r"""Causal attention within short documents, forward and backward; what `luthier.model.lean.attention` takes for them.

    forward     P = softmax(c Q K^T + causal)    O = P V        kept: L = log2 of each row's sum of 2^scores
    backward    D = rowsum(dO O)    dZ = P (dO V^T - D)    dQ = c dZ K    dV = P^T dO    dK = c dZ^T Q

A document of some hundred tokens is two to four blocks long, so what counts is that many programs run side by side and
that nothing is done around them: no heads are repeated, summed or copied afterwards, and gradients are written where
they are wanted.

- **A row is a query of one head.** The G heads that share a key/value head stand in one tile, 64 rows for 16 queries of
  4 heads. A tile's products are as large as with one head; less of it lies past the document's end or above the
  diagonal; and the sum of dK and dV over those heads is part of a product.
- **The grid is known without reading where documents start**, so that it can be recorded: T // B + (documents) blocks
  of B tokens. Document d, which begins at s, owns those from s // B + d on; it needs at most as many as come before the
  next document's, and a program finds its own by counting. A block that a document does not need ends at once: one a
  document at most. With blocks up to `longest` for each document most would be such.
- **No atomics**: each number is written by one program, which adds in one order. The same bits each time.

Products take the inputs' format and add in float32 (float64 for float64). P and dZ are rounded to that format in
between, as in flash attention.

Source: Dao 2023 (FlashAttention-2); Ainslie et al. 2023 (grouped-query attention). Not covered: dropout, sizes of a
head that are no power of two or less than 16, documents of 2^31 numbers, and the speed of long ones, where blocks that
are not on the diagonal would be worth code of their own.

Shape letters: T tokens, H query heads, K key/value heads, G = H / K, S size of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.bucketed import Heads
from luthier.model.kernels.launch import wide


class Blocks(NamedTuple):
    """How a kernel is cut: rows (queries times G) and keys of a tile, warps of a program, and loads in flight."""

    rows: int
    keys: int
    warps: int
    stages: int


def blocks_for(kernel: str, dtype: torch.dtype, size: int) -> Blocks:
    """The choice for `forward`, `queries` or `keys` (the two halves of the backward pass): the one place for it."""
    if dtype.itemsize > 2:
        return Blocks(32, 32, 4, 1)
    # two or three programs to a multiprocessor; more numbers than four warps have registers for spill in the backward
    return Blocks(64, 64, 8 if kernel != "forward" and size > 64 else 4, 2)


def attend(
    heads: Heads, starts: Tensor, scale: float, window: int | None = None, blocks: Blocks | None = None
) -> tuple[Tensor, Tensor]:
    """Output (T, H, S), and the logarithms L (K, T, G) that `attend_backward` wants.

    Args:
        heads: Queries (T, H, S), keys and values (T, K, S). They may be views, each token's heads lying together.
        starts: int32, on the device: where each document starts, and T at the end. Documents may be empty.
        scale: Factor c on the scores.
        window: Tokens that each one sees back to, itself included; None: all.
        blocks: Instead of `blocks_for`'s.

    Raises:
        ValueError: Heads that do not lie together, or are not covered here.
    """
    query_THS, key_TKS, _ = heads
    tokens, count, size = query_THS.shape
    key_heads, documents = key_TKS.shape[1], len(starts) - 1
    output_THS = query_THS.new_empty(tokens, count, size)
    dtype = torch.promote_types(query_THS.dtype, torch.float32)
    sums_KTG = query_THS.new_empty(key_heads, tokens, count // key_heads, dtype=dtype)
    chosen = blocks or blocks_for("forward", query_THS.dtype, size)
    constants = _constants(heads, starts, scale, window, chosen)
    if tokens:
        _attend[(key_heads, tokens // _queries(chosen, heads) + documents)](
            *heads, output_THS, sums_KTG, starts, tokens, documents, window or 0, *_strides(*heads, output_THS),
            **constants,
        )  # fmt: skip
    return output_THS, sums_KTG


def attend_backward(
    grad_THS: Tensor,
    heads: Heads,
    output_THS: Tensor,
    sums_KTG: Tensor,
    starts: Tensor,
    scale: float,
    window: int | None,
    out: Heads,
    blocks: tuple[Blocks, Blocks] | None = None,
) -> None:
    """Write the gradients of queries, keys and values into `out`, given that of the output of `attend`.

    Args:
        grad_THS: Gradient of the output.
        heads: As `attend` had them.
        output_THS: What it returned.
        sums_KTG: The same.
        starts: As it had them.
        scale: The same.
        window: The same.
        out: Places of the gradients; views like `heads`.
        blocks: For the gradient of the queries, and of the keys and values; instead of `blocks_for`'s.

    Raises:
        ValueError: Heads that do not lie together, or are not covered here.
    """
    (tokens, _, size), key_heads, documents = grad_THS.shape, heads[1].shape[1], len(starts) - 1
    named = [blocks_for(name, grad_THS.dtype, size) for name in ("queries", "keys")]
    of_queries, of_keys = blocks or named
    deltas_KTG = torch.empty_like(sums_KTG)
    where = (starts, tokens, documents, window or 0)
    if tokens:
        _backward_queries[(key_heads, tokens // _queries(of_queries, heads) + documents)](
            grad_THS, *heads, output_THS, sums_KTG, deltas_KTG, out[0], *where,
            *_strides(grad_THS, *heads, output_THS, out[0]), **_constants(heads, starts, scale, window, of_queries),
        )  # fmt: skip
        _backward_keys[(key_heads, tokens // of_keys.keys + documents)](
            grad_THS, *heads, sums_KTG, deltas_KTG, *out[1:], *where,
            *_strides(grad_THS, *heads, *out[1:]), **_constants(heads, starts, scale, window, of_keys),
        )  # fmt: skip


def _queries(blocks: Blocks, heads: Heads) -> int:
    """Queries of a tile."""
    return blocks.rows * heads[1].shape[1] // heads[0].shape[1]


def _strides(*tensors: Tensor) -> list[int]:
    """How far tokens lie apart in each tensor."""
    for x in tensors:
        if x.stride(2) != 1 or (x.shape[1] > 1 and x.stride(1) != x.shape[2]):
            raise ValueError(f"a token's heads must lie together, not {x.stride()[1:]} apart")
    return [x.stride(0) for x in tensors]


def _constants(heads: Heads, starts: Tensor, scale: float, window: int | None, blocks: Blocks) -> dict[str, object]:
    """What a kernel is compiled for."""
    query_THS, key_TKS, value_TKS = heads
    size, groups = query_THS.shape[2], query_THS.shape[1] // key_TKS.shape[1]
    if size < 16 or size & (size - 1) or groups > blocks.rows or key_TKS.shape != value_TKS.shape:
        raise ValueError(f"{groups} heads of size {size} to a key/value head are not covered")
    return {
        "GROUP": groups, "SIZE": size, "SCALE": scale, "WINDOW": window is not None, "WIDE": wide(query_THS.dtype),
        "ROWS": blocks.rows, "KEYS": blocks.keys, "DOCUMENTS": max(16, triton.next_power_of_2(len(starts) - 1)),
        "num_warps": blocks.warps, "num_stages": blocks.stages,
    }  # fmt: skip


_LOG2_E = tl.constexpr(1.4426950408889634)
_VARIES = ["tokens", "documents", "window"]
"""Not worth another compilation when they happen to be multiples of 16."""


@triton.jit
def _find(starts, documents, BLOCK: tl.constexpr, DOCUMENTS: tl.constexpr):
    """Where this program's document starts, how many tokens it has, and the first of them that is this program's."""
    program = tl.program_id(1)
    number = tl.arange(0, DOCUMENTS)
    end = tl.load(starts + 1 + number, mask=number < documents, other=0)
    passed = (number < documents) & (end // BLOCK + number + 1 <= program)
    document = tl.sum(passed.to(tl.int32), axis=0)
    start = tl.load(starts + document)
    first = (program - start // BLOCK - document) * BLOCK
    return start.to(tl.int64), tl.load(starts + document + 1) - start, first


@triton.jit
def _across(a, b, WIDE: tl.constexpr):
    """Product of a with b transposed."""
    return tl.dot(a, tl.trans(b), out_dtype=WIDE, input_precision="ieee")


@triton.jit
def _product(a, b, onto, WIDE: tl.constexpr):
    """Product, a rounded to b's format before, added onto a third."""
    return tl.dot(a.to(b.dtype), b, onto, out_dtype=WIDE, input_precision="ieee")


@triton.jit
def _seen(query, key, window, WINDOW: tl.constexpr):
    seen = key <= query
    if WINDOW:
        seen = seen & (query - key < window)
    return seen


@triton.jit
def _first_key(first, window, WINDOW: tl.constexpr, KEYS: tl.constexpr):
    low = first * 0
    if WINDOW:
        low = tl.maximum(first - window + 1, 0) // KEYS * KEYS
    return low


@triton.jit(do_not_specialize=_VARIES)
def _attend(
    q, k, v, out, sums, starts, tokens, documents, window, q_row, k_row, v_row, out_row,
    GROUP: tl.constexpr, SIZE: tl.constexpr, SCALE: tl.constexpr, WINDOW: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    QUERIES: tl.constexpr = ROWS // GROUP
    start, length, first = _find(starts, documents, QUERIES, DOCUMENTS)
    if first >= length:
        return
    key_head = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, ROWS), tl.arange(0, SIZE)[None, :]
    query = first + row // GROUP
    there = (row < QUERIES * GROUP) & (query < length)
    head = (row % GROUP * SIZE)[:, None] + column
    own = key_head * GROUP * SIZE
    queries = tl.load(q + start * q_row + own + query[:, None] * q_row + head, mask=there[:, None], other=0.0)
    k += start * k_row + key_head * SIZE
    v += start * v_row + key_head * SIZE
    top = tl.full([ROWS], float("-inf"), WIDE)
    total = tl.zeros([ROWS], WIDE)
    added = tl.zeros([ROWS, SIZE], WIDE)
    for block in range(_first_key(first, window, WINDOW, KEYS), tl.minimum(first + QUERIES, length), KEYS):
        key = block + tl.arange(0, KEYS)
        inside = (key < length)[:, None]
        keys = tl.load(k + key[:, None] * k_row + column, mask=inside, other=0.0)
        values = tl.load(v + key[:, None] * v_row + column, mask=inside, other=0.0)
        scores = _across(queries, keys, WIDE) * (SCALE * _LOG2_E)
        scores = tl.where(_seen(query[:, None], key[None, :], window, WINDOW), scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        shift = higher
        if WINDOW:  # a row may see none of the first keys
            shift = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - shift[:, None])
        shrunk = tl.exp2(top - shift)
        total = total * shrunk + tl.sum(weights, axis=1)
        added = _product(weights, values, added * shrunk[:, None], WIDE)
        top = higher
    total = tl.where(there, total, 1.0)  # rows of nothing saw nothing
    place = out + start * out_row + own + query[:, None] * out_row + head
    tl.store(place, added / total[:, None], mask=there[:, None])
    tl.store(sums + (key_head * tokens + start + first) * GROUP + row, top + tl.log2(total), mask=there)


@triton.jit
def _weights(scores, sums, seen):
    """Attention's weights anew; where scores are huge, rounding must not lift one above 1."""
    return tl.where(seen, tl.exp2(tl.minimum(scores - sums, 0.0)), 0.0)


@triton.jit(do_not_specialize=_VARIES)
def _backward_queries(
    grad, q, k, v, out, sums, deltas, grad_q, starts, tokens, documents, window,
    grad_row, q_row, k_row, v_row, out_row, grad_q_row,
    GROUP: tl.constexpr, SIZE: tl.constexpr, SCALE: tl.constexpr, WINDOW: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    QUERIES: tl.constexpr = ROWS // GROUP
    start, length, first = _find(starts, documents, QUERIES, DOCUMENTS)
    if first >= length:
        return
    key_head = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, ROWS), tl.arange(0, SIZE)[None, :]
    query = first + row // GROUP
    there = (row < QUERIES * GROUP) & (query < length)
    head = (row % GROUP * SIZE)[:, None] + column
    own = key_head * GROUP * SIZE
    queries = tl.load(q + start * q_row + own + query[:, None] * q_row + head, mask=there[:, None], other=0.0)
    grads = tl.load(grad + start * grad_row + own + query[:, None] * grad_row + head, mask=there[:, None], other=0.0)
    outputs = tl.load(out + start * out_row + own + query[:, None] * out_row + head, mask=there[:, None], other=0.0)
    delta = tl.sum(outputs.to(WIDE) * grads.to(WIDE), axis=1)
    flat = (key_head * tokens + start + first) * GROUP + row
    tl.store(deltas + flat, delta, mask=there)
    total = tl.load(sums + flat, mask=there, other=0.0)
    k += start * k_row + key_head * SIZE
    v += start * v_row + key_head * SIZE
    added = tl.zeros([ROWS, SIZE], WIDE)
    for block in range(_first_key(first, window, WINDOW, KEYS), tl.minimum(first + QUERIES, length), KEYS):
        key = block + tl.arange(0, KEYS)
        inside = (key < length)[:, None]
        keys = tl.load(k + key[:, None] * k_row + column, mask=inside, other=0.0)
        values = tl.load(v + key[:, None] * v_row + column, mask=inside, other=0.0)
        scores = _across(queries, keys, WIDE) * (SCALE * _LOG2_E)
        weights = _weights(scores, total[:, None], _seen(query[:, None], key[None, :], window, WINDOW))
        change = weights * (_across(grads, values, WIDE) - delta[:, None])
        added = _product(change, keys, added, WIDE)
    place = grad_q + start * grad_q_row + own + query[:, None] * grad_q_row + head
    tl.store(place, added * SCALE, mask=there[:, None])


@triton.jit(do_not_specialize=_VARIES)
def _backward_keys(
    grad, q, k, v, sums, deltas, grad_k, grad_v, starts, tokens, documents, window,
    grad_row, q_row, k_row, v_row, grad_k_row, grad_v_row,
    GROUP: tl.constexpr, SIZE: tl.constexpr, SCALE: tl.constexpr, WINDOW: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    QUERIES: tl.constexpr = ROWS // GROUP
    start, length, first = _find(starts, documents, KEYS, DOCUMENTS)
    if first >= length:
        return
    key_head = tl.program_id(0).to(tl.int64)
    row, column = tl.arange(0, ROWS), tl.arange(0, SIZE)[None, :]
    head = (row % GROUP * SIZE)[:, None] + column
    key = first + tl.arange(0, KEYS)
    inside = (key < length)[:, None]
    own = key_head * SIZE
    keys = tl.load(k + start * k_row + own + key[:, None] * k_row + column, mask=inside, other=0.0)
    values = tl.load(v + start * v_row + own + key[:, None] * v_row + column, mask=inside, other=0.0)
    q += start * q_row + own * GROUP
    grad += start * grad_row + own * GROUP
    flat = (key_head * tokens + start) * GROUP
    added_k = tl.zeros([KEYS, SIZE], WIDE)
    added_v = tl.zeros([KEYS, SIZE], WIDE)
    last = length
    if WINDOW:
        last = tl.minimum(length, first + KEYS + window - 1)
    for block in range(first, last, QUERIES):
        query = block + row // GROUP
        there = (row < QUERIES * GROUP) & (query < length)
        queries = tl.load(q + query[:, None] * q_row + head, mask=there[:, None], other=0.0)
        grads = tl.load(grad + query[:, None] * grad_row + head, mask=there[:, None], other=0.0)
        total = tl.load(sums + flat + block * GROUP + row, mask=there, other=0.0)[None, :]
        delta = tl.load(deltas + flat + block * GROUP + row, mask=there, other=0.0)[None, :]
        scores = _across(keys, queries, WIDE) * (SCALE * _LOG2_E)
        weights = _weights(scores, total, _seen(query[None, :], key[:, None], window, WINDOW))
        added_v = _product(weights, grads, added_v, WIDE)
        change = weights * (_across(values, grads, WIDE) - delta)
        added_k = _product(change, queries, added_k, WIDE)
    tl.store(grad_k + start * grad_k_row + own + key[:, None] * grad_k_row + column, added_k * SCALE, mask=inside)
    tl.store(grad_v + start * grad_v_row + own + key[:, None] * grad_v_row + column, added_v, mask=inside)
