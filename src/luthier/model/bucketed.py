r"""Attention of many documents at once, on a CPU, with its backward pass written out.

Documents of similar length are padded to a rectangle and attended to in one batched product:

    lengths  35 36 40 | 90 97 104        buckets: the longest is at most a quarter longer than the shortest
    (N, L)      (3, 40)   (3, 104)       for all N documents of a bucket and all heads, S = L:

    forward     P = softmax(c Q K^T + causal)      O = P V      c = 1 / sqrt(D)
    backward    dV = P^T dO      dP = dO V^T      dZ = P (dP - sum(P dP))      dQ = c dZ K      dK = c dZ^T Q

Scores are made for at most `TILE` queries of a document at a time, and for as many documents and heads as `PIECE` bytes
hold (one key/value head at least), so that those of short documents stay in the processor's caches. Keys that lie
behind all queries of a tile are left out. The backward pass makes P once more;
nothing is kept for it. All of it is computed in float32, also in 16 bits: nearer to the truth than flash attention, and
faster than 16 bits, since each size of a product there costs its own machine code (`luthier.model.lean.filling`).

Documents may share their beginning: the first `shared` tokens lie there once, as a document of their own, and every
other document attends to them before its own tokens. In exact arithmetic that is what each with a copy of its own would
compute, and so are the gradients, which add up in the shared keys and values.

    tokens   p p p | a a | b b b        keys of a: p p p a a        keys of b: p p p b b b

Not covered: sliding windows, dropout (the caller attends to one document after another there), second derivatives.

Shape letters: N documents of a bucket, L tokens of the longest, P shared tokens, S = P + L keys, T tokens in all, K
key/value heads, G query heads for each, H = K G query heads, D head size; l and s are the queries and keys of a tile, M
the pairs of a document and a key/value head in a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE = 256
PIECE = 4 * 2**20
_SPREAD, _SLACK = 1.25, 8  # a bucket's longest document in units of its shortest, and tokens on top

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries (T, H, D), keys and values (T, K, D)."""
Spans = list[tuple[int, int]]
"""First token of each document, and the one behind its last."""


@dataclass(frozen=True)
class Bucket:
    """Documents of similar length.

    Attributes:
        documents, length, shared: N, L, and P (0 in the bucket of the shared beginning itself).
        tiles: First and last query of each tile, within a document.
        query_row, key_row: Where the bucket begins among the gathered queries and keys.
    """

    documents: int
    length: int
    shared: int
    tiles: tuple[tuple[int, int], ...]
    query_row: int
    key_row: int


class Rows(NamedTuple):
    """Rows that are gathered, one a token and head.

    Attributes:
        tokens, heads: Of each.
        own: Whether it is the token's own place: no padding, and no shared beginning before another document.
    """

    tokens: Tensor
    heads: Tensor
    own: Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows are gathered, and where each comes back from.

    Attributes:
        buckets: All of them.
        queries: Tile by tile; in each by document, key/value head, query head and position.
        keys: Bucket by bucket; in each by document, head and position.
        padding: Gathered queries that are past the end of their document.
        query_back, key_back: For each token and head, in order: where it lies among the gathered rows.
    """

    buckets: tuple[Bucket, ...]
    queries: Rows
    keys: Rows
    padding: Tensor
    query_back: Tensor
    key_back: Tensor


@dataclass(frozen=True)
class _Piece:
    """Rows that are attended to at a time.

    Attributes:
        queries: Where they lie among the gathered queries; M G l rows.
        sizes: M, G, l.
        keys: Where the bucket's keys lie among the gathered ones; N K S rows.
        pairs: Which of the N K.
        key_sizes: S, and s.
    """

    queries: slice
    sizes: tuple[int, int, int]
    keys: slice
    pairs: slice
    key_sizes: tuple[int, int]

    def of_queries(self, flat_XD: Tensor) -> Tensor:
        """As (M, G l, D)."""
        pairs, groups, rows = self.sizes
        return flat_XD[self.queries].view(pairs, groups * rows, -1)

    def of_keys(self, flat_XD: Tensor) -> Tensor:
        """As (M, s, D)."""
        width, seen = self.key_sizes
        return flat_XD[self.keys].view(-1, width, flat_XD.shape[1])[self.pairs, :seen]


@lru_cache(maxsize=4)  # the layers of a model ask for the same micro-batch one after another
def layout(offsets: tuple[int, ...], shared: int, heads: int, key_heads: int) -> Layout:
    """Where the documents of a micro-batch lie; arguments as those of `attend`."""
    spans = [(start, end) for start, end in pairwise(offsets) if end > start]
    groups = _similar(spans[1:] if shared else spans)
    buckets: list[Bucket] = []
    queries: list[Rows] = []
    keys: list[Rows] = []
    # the shared beginning is a document itself, the first one
    for group, beginning in [*([(spans[:1], 0)] if shared else []), *((group, shared) for group in groups)]:
        length = group[-1][1] - group[-1][0]
        tiles = tuple((first, min(first + TILE, length)) for first in range(0, length, TILE))
        query_row, key_row = (sum(len(rows.tokens) for rows in side) for side in (queries, keys))
        buckets.append(Bucket(len(group), length, beginning, tiles, query_row, key_row))
        queries += [_query_rows(group, tile, heads, key_heads) for tile in tiles]
        keys.append(_key_rows(group, beginning, key_heads))
    all_queries, all_keys = (Rows(*(torch.cat(x) for x in zip(*side, strict=True))) for side in (queries, keys))
    padding = (~all_queries.own).nonzero()[:, 0]
    return Layout(
        tuple(buckets), all_queries, all_keys, padding, _places(all_queries, heads), _places(all_keys, key_heads)
    )


def _query_rows(group: Spans, tile: tuple[int, int], heads: int, key_heads: int) -> Rows:
    """Queries of a tile; past the end of a document its last token is repeated."""
    starts_N1, ends_N1 = (torch.tensor(side)[:, None] for side in zip(*group, strict=True))
    tokens_NL = starts_N1 + torch.arange(*tile)
    shape_NKGL = (len(group), key_heads, heads // key_heads, tokens_NL.shape[1])
    heads_NKGL = torch.arange(heads).view(1, *shape_NKGL[1:3], 1).expand(shape_NKGL)
    own_NL, within_NL = tokens_NL < ends_N1, torch.minimum(tokens_NL, ends_N1 - 1)
    tokens, own = (x[:, None, None].expand(shape_NKGL).flatten() for x in (within_NL, own_NL))
    return Rows(tokens, heads_NKGL.flatten(), own)


def _key_rows(group: Spans, beginning: int, key_heads: int) -> Rows:
    """Keys of a bucket: those of the beginning, then the document's own, its last one repeated."""
    starts_N1, ends_N1 = (torch.tensor(side)[:, None] for side in zip(*group, strict=True))
    own_NL = starts_N1 + torch.arange(group[-1][1] - group[-1][0])
    before_NP = torch.arange(beginning).expand(len(group), -1)
    tokens_NS = torch.cat([before_NP, torch.minimum(own_NL, ends_N1 - 1)], dim=1)
    own_NS = torch.cat([torch.zeros_like(before_NP, dtype=torch.bool), own_NL < ends_N1], dim=1)
    shape_NKS = (len(group), key_heads, tokens_NS.shape[1])
    tokens, own = (x[:, None].expand(shape_NKS).flatten() for x in (tokens_NS, own_NS))
    return Rows(tokens, torch.arange(key_heads)[None, :, None].expand(shape_NKS).flatten(), own)


def _similar(spans: Spans) -> list[Spans]:
    """Documents in groups of similar length, each from the shortest to the longest."""
    groups: list[Spans] = []
    for start, end in sorted(spans, key=lambda span: span[1] - span[0]):
        shortest = groups[-1][0][1] - groups[-1][0][0] if groups else 0
        if groups and end - start <= _SPREAD * shortest + _SLACK:
            groups[-1].append((start, end))
        else:
            groups.append([(start, end)])
    return groups


def _places(rows: Rows, heads: int) -> Tensor:
    """For each token and head, in order: its own place among the rows."""
    places = rows.own.nonzero()[:, 0]
    return places[torch.argsort((rows.tokens * heads + rows.heads)[places])]


def attend(heads: Heads, scale: float, offsets: tuple[int, ...], shared: int = 0) -> Tensor:
    """Causal attention within each document.

    Args:
        heads: Queries, keys and values; head h of the queries reads key/value head h // G. Queries and keys may come in
            a wider format than values.
        scale: Factor on the scores.
        offsets: Where each document starts, and T at the end.
        shared: P, when the first document is the beginning of all others.

    Returns:
        Output of shape (T, H, D) in the values' format.
    """
    where, (query_XD, key_XD, value_XD) = _gathered(heads, offsets, shared)
    output_XD = torch.empty_like(query_XD)
    for piece, weights in _weights(where, heads, query_XD, key_XD, scale):
        torch.bmm(weights, piece.of_keys(value_XD), out=piece.of_queries(output_XD))
    return output_XD.to(heads[2].dtype).index_select(0, where.query_back).view(heads[0].shape)


def attend_backward(
    grad_THD: Tensor, heads: Heads, scale: float, offsets: tuple[int, ...], shared: int, out: Heads
) -> None:
    """Write the gradients of queries, keys and values into `out`, given that of the output of `attend`."""
    where, (query_XD, key_XD, value_XD) = _gathered(heads, offsets, shared)
    grad_XD = _rows(grad_THD, where, "queries").index_fill_(0, where.padding, 0)
    grad_query_XD = torch.empty_like(query_XD)
    grad_key_XD, grad_value_XD = (torch.zeros_like(key_XD) for _ in range(2))
    for piece, weights in _weights(where, heads, query_XD, key_XD, scale):
        grad, value = piece.of_queries(grad_XD).to(weights.dtype), piece.of_keys(value_XD)
        query, key = piece.of_queries(query_XD), piece.of_keys(key_XD)
        piece.of_keys(grad_value_XD).add_(weights.transpose(1, 2) @ grad)
        grad_weights = grad @ value.transpose(1, 2)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(scale)
        torch.bmm(grad_scores, key, out=piece.of_queries(grad_query_XD))
        piece.of_keys(grad_key_XD).add_(grad_scores.transpose(1, 2) @ query)
    _put(grad_query_XD, where.query_back, out[0])
    for grad_XD, place_TKD in ((grad_key_XD, out[1]), (grad_value_XD, out[2])):
        _put(grad_XD, where.key_back, place_TKD)
        _add_shared(grad_XD, where, place_TKD)


def _weights(
    where: Layout, heads: Heads, query_XD: Tensor, key_XD: Tensor, scale: float
) -> Iterator[tuple[_Piece, Tensor]]:
    """Attention weights (M, G l, s) piece by piece."""
    for piece in _pieces(where, heads[0].shape[1], heads[1].shape[1], query_XD.element_size()):
        _, groups, rows = piece.sizes
        query, key = piece.of_queries(query_XD), piece.of_keys(key_XD)
        scores = torch.bmm(query, key.transpose(1, 2)).mul_(scale)
        ahead = scores.view(-1, groups, rows, scores.shape[-1])[..., -rows:]
        ahead += _future(rows, scores.dtype)
        yield piece, torch.softmax(scores, dim=-1)


@lru_cache(maxsize=256)
def _future(rows: int, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, -inf where it may not."""
    return torch.full((rows, rows), float("-inf"), dtype=dtype).triu(1)


def _pieces(where: Layout, heads: int, key_heads: int, bytes_each: int) -> Iterator[_Piece]:
    groups = heads // key_heads
    for bucket in where.buckets:
        width, pairs = bucket.shared + bucket.length, bucket.documents * key_heads
        keys = slice(bucket.key_row, bucket.key_row + pairs * width)
        start = bucket.query_row
        for first, last in bucket.tiles:
            rows, seen = last - first, bucket.shared + last
            most = max(1, PIECE // (groups * rows * seen * bytes_each))
            for pair in range(0, pairs, most):
                count = min(most, pairs - pair)
                end = start + count * groups * rows
                yield _Piece(slice(start, end), (count, groups, rows), keys, slice(pair, pair + count), (width, seen))
                start = end


def _gathered(heads: Heads, offsets: tuple[int, ...], shared: int) -> tuple[Layout, Heads]:
    """Rows of D numbers in the order of `Layout`, in the format of the scores."""
    query_THD, key_TKD, value_TKD = heads
    where = layout(offsets, shared, query_THD.shape[1], key_TKD.shape[1])
    wide = torch.promote_types(query_THD.dtype, torch.float32)
    query_XD, key_XD = _rows(query_THD, where, "queries").to(wide), _rows(key_TKD, where, "keys").to(wide)
    return where, (query_XD, key_XD, _rows(value_TKD, where, "keys").to(wide))


def _rows(x_THD: Tensor, where: Layout, side: str) -> Tensor:
    """Gathered out of where they stand, if they stand in rows of D numbers."""
    size = x_THD.shape[-1]
    if x_THD.stride(2) != 1 or any(stride % size for stride in x_THD.stride()[:2]):
        x_THD = x_THD.contiguous()
    steps = (x_THD.stride(0) // size, x_THD.stride(1) // size)
    last = sum((count - 1) * step for count, step in zip(x_THD.shape[:2], steps, strict=True))
    return x_THD.as_strided((last + 1, size), (size, 1)).index_select(0, _numbers(where, side, steps))


@lru_cache(maxsize=24)
def _numbers(where: Layout, side: str, steps: tuple[int, int]) -> Tensor:
    rows: Rows = getattr(where, side)
    return rows.tokens * steps[0] + rows.heads * steps[1]


def _put(x_XD: Tensor, back: Tensor, out_THD: Tensor) -> None:
    """Gathered rows to where they stand."""
    x_XD = x_XD.to(out_THD.dtype)
    if out_THD.is_contiguous():
        torch.index_select(x_XD, 0, back, out=out_THD.view(-1, out_THD.shape[-1]))
    else:
        out_THD.copy_(x_XD.index_select(0, back).view(out_THD.shape))


def _add_shared(grad_XD: Tensor, where: Layout, out_TKD: Tensor) -> None:
    """The gradients of the shared beginning are those of all documents, added before they are rounded."""
    heads, parts = out_TKD.shape[1], []
    for bucket in where.buckets:
        if bucket.shared:
            width = bucket.shared + bucket.length
            rows = bucket.documents * heads * width
            of_all = grad_XD[bucket.key_row :][:rows].view(bucket.documents, heads, width, -1)
            parts.append(of_all[:, :, : bucket.shared].sum(0).transpose(0, 1))
    if parts:
        own_TKD = grad_XD.index_select(0, where.key_back[: parts[0].shape[0] * heads]).view(parts[0].shape)
        out_TKD[: len(own_TKD)] = sum(parts, own_TKD)


class _Attention(torch.autograd.Function):
    """`attend` in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, *where: Any) -> Tensor:
        ctx.save_for_backward(query_THD, key_TKD, value_TKD)
        ctx.where = where
        with torch.autocast(query_THD.device.type, enabled=False):  # formats are chosen here
            return attend((query_THD, key_TKD, value_TKD), *where)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        heads: Heads = ctx.saved_tensors
        with torch.autocast(heads[0].device.type, enabled=False):
            query, key, value = (torch.empty(x.shape, dtype=heads[2].dtype) for x in heads)
            scale, offsets, shared = ctx.where
            attend_backward(grad_outputs[0], heads, scale, offsets, shared, (query, key, value))
        return query.to(heads[0].dtype), key.to(heads[1].dtype), value, None, None, None


def bucketed_attention(
    query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, scale: float, offsets: tuple[int, ...], shared: int = 0
) -> Tensor:
    """`attend`, differentiable."""
    return _Attention.apply(query_THD, key_TKD, value_TKD, scale, offsets, shared)  # type: ignore[no-any-return, no-untyped-call]
