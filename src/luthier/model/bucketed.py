"""Attention of many documents at once, on a CPU.

Documents of similar length are padded to a rectangle and attended to in one batched product:

    lengths  35 36 40 | 90 97 104        buckets: the longest is at most a quarter longer than the shortest
    (N, L)      (3, 40)   (3, 104)       softmax(Q K^T / sqrt(D) + causal) V for all N documents of a bucket

Up to `SHORT` tokens the scores are written out, in float32: that takes half the time of the fused CPU kernel, whose
fixed cost is high (most of all backward), and in 16 bits it is the more accurate of the two. Memory grows with L^2, so
buckets of longer documents go through the fused kernel.

Documents may share their beginning: the first `shared` tokens lie there once, as a document of their own, and every
other document attends to them before its own tokens. In exact arithmetic that is what each with a copy of its own would
compute, and so are the gradients, which add up in the shared keys and values.

    tokens   p p p | a a | b b b        keys of a: p p p a a        keys of b: p p p b b b

Not covered: sliding windows, dropout (the caller attends to one document after another there).

Shape letters: N documents, L tokens of the longest, P shared tokens, T tokens in all, K key/value heads, G query heads
for each, H = K G query heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention

SHORT = 256
_SPREAD, _SLACK = 1.25, 8  # a bucket's longest document in units of its shortest, and tokens on top


@dataclass(frozen=True)
class Bucket:
    """Documents of similar length.

    Attributes:
        documents, length, shared: N, L, and P (0 in the bucket of the shared beginning itself).
        rows: (N L,) positions in the micro-batch; past the end of a document its last token is repeated.
        kept: Indices into `rows` that are no padding.
        causal_LS: 0 where a token may look, -inf where it may not, over the P + L keys; empty for documents that
            are not short.
    """

    documents: int
    length: int
    shared: int
    rows: torch.Tensor
    kept: torch.Tensor
    causal_LS: torch.Tensor


@lru_cache(maxsize=16)  # the layers of a model ask for the same micro-batch one after another
def buckets(offsets: tuple[int, ...], shared: int = 0) -> tuple[tuple[Bucket, ...], torch.Tensor]:
    """Documents in buckets, and the permutation that puts the kept tokens of all buckets back in order."""
    spans = list(pairwise(offsets))
    beginning, own = (spans[:1], spans[1:]) if shared else ([], spans)
    groups: list[list[tuple[int, int]]] = []
    for start, end in sorted(own, key=lambda span: span[1] - span[0]):
        shortest = groups[-1][0][1] - groups[-1][0][0] if groups else 0
        if groups and end - start <= _SPREAD * shortest + _SLACK:
            groups[-1].append((start, end))
        else:
            groups.append([(start, end)])
    parts = [_bucket(beginning, 0)] if shared else []
    parts += [_bucket(group, shared) for group in groups]
    order = torch.cat([torch.arange(start, end) for group in [beginning, *groups] for start, end in group])
    return tuple(parts), torch.argsort(order)


def _bucket(spans: list[tuple[int, int]], shared: int) -> Bucket:
    length = spans[-1][1] - spans[-1][0]
    rows = torch.cat([torch.arange(start, start + length).clamp(max=end - 1) for start, end in spans])
    kept = torch.cat([torch.arange(end - start) + number * length for number, (start, end) in enumerate(spans)])
    side = length if shared + length <= SHORT else 0
    causal = torch.full((side, shared + side), float("-inf")).triu(shared + 1)
    return Bucket(len(spans), length, shared, rows, kept, causal)


def bucketed_attention(
    query_THD: torch.Tensor,
    key_TKD: torch.Tensor,
    value_TKD: torch.Tensor,
    scale: float,
    offsets: tuple[int, ...],
    shared: int = 0,
) -> torch.Tensor:
    """Causal attention within each document.

    Args:
        query_THD: Queries; head h reads key/value head h // G.
        key_TKD: Keys.
        value_TKD: Values.
        scale: Factor on the scores.
        offsets: Where each document starts, and T at the end.
        shared: P, when the first document is the beginning of all others.

    Returns:
        Output of shape (T, H, D) in the values' format; queries and keys may come in a wider one.
    """
    parts, back = buckets(offsets, shared)
    outputs = []
    for part in parts:
        attend = _written_out if part.shared + part.length <= SHORT else _fused
        query, key, value = (
            x_TXD.index_select(0, part.rows).view(part.documents, part.length, *x_TXD.shape[1:])
            for x_TXD in (query_THD, key_TKD, value_TKD)
        )
        if part.shared:
            key, value = (
                torch.cat([x_TKD[:shared].expand(part.documents, *x_TKD[:shared].shape), own_NLKD], dim=1)
                for x_TKD, own_NLKD in ((key_TKD, key), (value_TKD, value))
            )
        outputs.append(attend(query, key, value, scale, part).flatten(0, 1).index_select(0, part.kept))
    return torch.cat(outputs).index_select(0, back)


def _written_out(
    query_NLHD: torch.Tensor, key_NSKD: torch.Tensor, value_NSKD: torch.Tensor, scale: float, part: Bucket
) -> torch.Tensor:
    """Output (N, L, H, D); S = P + L keys."""
    n, length, heads, size = query_NLHD.shape
    key_heads = key_NSKD.shape[2]
    wide = torch.promote_types(query_NLHD.dtype, torch.float32)
    query = query_NLHD.to(wide).view(n, length, key_heads, -1, size).permute(0, 2, 3, 1, 4)
    query = query.reshape(n * key_heads, -1, size)
    key, value = (x.to(wide).transpose(1, 2).flatten(0, 1) for x in (key_NSKD, value_NSKD))  # (N K, S, D)
    causal = part.causal_LS.to(wide).repeat(heads // key_heads, 1)[None]
    scores = torch.baddbmm(causal, query, key.transpose(1, 2), alpha=scale)  # (N K, G L, S)
    output = torch.bmm(torch.softmax(scores, dim=-1), value).view(n, key_heads, -1, length, size)
    return output.permute(0, 3, 1, 2, 4).reshape(n, length, heads, size).to(value_NSKD.dtype)


def _fused(
    query_NLHD: torch.Tensor, key_NSKD: torch.Tensor, value_NSKD: torch.Tensor, scale: float, part: Bucket
) -> torch.Tensor:
    """Output (N, L, H, D); S = P + L keys."""
    query, key, value = (x.to(value_NSKD.dtype).transpose(1, 2) for x in (query_NLHD, key_NSKD, value_NSKD))
    mask = None  # the kernel knows plain causality by itself
    if part.shared:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(part.shared)
    grouped = query.shape[1] != key.shape[1]
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
    return output.transpose(1, 2)
