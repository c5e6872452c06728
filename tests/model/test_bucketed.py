"""Attention in buckets against one float64 product for each document."""

from itertools import accumulate, pairwise

import pytest
import torch

from luthier.model import bucketed
from luthier.model.bucketed import TILE, bucketed_attention, layout

LENGTHS = {"one": [5], "mixed": [3, 40, 1, 41, 97, 40], "long": [TILE - 1, TILE, TILE + 1, 2 * TILE + 70, 9]}


def offsets(lengths):
    return tuple(accumulate(lengths, initial=0))


def tensors(length, heads, key_heads, dtype):
    torch.manual_seed(0)
    return [torch.randn(length, h, 16).to(dtype).requires_grad_() for h in (heads, key_heads, key_heads)]


def reference(query, key, value, scale, bounds):
    outputs = []
    for start, end in pairwise(bounds):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
        future = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(future, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_output_and_gradients_equal_float64(lengths, heads, dtype, tolerance):
    bounds = offsets(lengths)
    inputs = tensors(bounds[-1], *heads, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    output, wanted = bucketed_attention(*inputs, 0.2, bounds), reference(*exact, 0.2, bounds)
    torch.manual_seed(1)
    direction = torch.randn(wanted.shape)
    output.backward(direction.to(dtype))
    wanted.backward(direction.to(dtype).double())
    assert output.dtype is dtype
    torch.testing.assert_close(output.double(), wanted, atol=tolerance, rtol=tolerance)
    for mine, theirs in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=4 * tolerance, rtol=tolerance)


def test_similar_lengths_share_a_bucket_and_padding_is_bounded():
    lengths = LENGTHS["mixed"] + LENGTHS["long"]
    where = layout(offsets(lengths), 0, 4, 2)
    assert len(where.buckets) < len(lengths)
    assert len(where.query_back) == 4 * sum(lengths) and len(where.key_back) == 2 * sum(lengths)
    assert len(where.queries.tokens) == len(where.padding) + 4 * sum(lengths)
    assert len(where.queries.tokens) < 1.3 * 4 * sum(lengths)


def test_no_more_scores_are_written_out_than_a_piece_holds(monkeypatch):
    bounds = offsets([*LENGTHS["mixed"], 3 * TILE])
    inputs = tensors(bounds[-1], 4, 2, torch.float64)
    whole = bucketed_attention(*inputs, 0.2, bounds)
    wanted = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr(bucketed, "PIECE", 1)  # so one document and key/value head at a time
    sizes = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: sizes.append(x.shape) or softmax(x, dim))
    output = bucketed_attention(*inputs, 0.2, bounds)
    torch.testing.assert_close(output, whole)
    for found, gradient in zip(torch.autograd.grad(output.square().sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(found, gradient)
    assert max(size.numel() for size in sizes) == 2 * TILE * 3 * TILE  # two query heads
    # what lies behind a tile is left out: of three tiles' scores, the half
    long = [size for size in sizes if size[1] == 2 * TILE]
    assert sum(size.numel() for size in long) == 2 * 2 * 2 * TILE * TILE * (1 + 2 + 3)


def test_keys_and_queries_may_lie_in_any_order_in_memory():
    bounds = offsets(LENGTHS["mixed"])
    inputs = tensors(bounds[-1], 4, 2, torch.float64)
    wanted = bucketed_attention(*inputs, 0.2, bounds)
    joint = torch.cat(inputs, dim=1)
    heads_first = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in inputs]
    odd = [torch.nn.functional.pad(x.detach(), (0, 1))[..., :-1] for x in inputs]
    for laid_out in (torch.split(joint.detach(), [4, 2, 2], dim=1), heads_first, odd):
        torch.testing.assert_close(bucketed_attention(*laid_out, 0.2, bounds), wanted.detach())


@pytest.mark.parametrize("shared", [1, 7, TILE + 20])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_a_shared_beginning_is_what_copies_of_it_compute(shared, heads):
    own = [3, 40, 1, 41, 97, 40]
    bounds = offsets([shared, *own])
    inputs = tensors(bounds[-1], *heads, torch.float64)
    output = bucketed_attention(*inputs, 0.2, bounds, shared)
    # each document with its own copy of the beginning
    rows = [torch.cat([torch.arange(shared), torch.arange(start, end)]) for start, end in list(pairwise(bounds))[1:]]
    copies = [x.detach()[torch.cat(rows)].requires_grad_() for x in inputs]
    copied = reference(*copies, 0.2, offsets([shared + n for n in own]))
    spans = list(pairwise(offsets([shared + n for n in own])))
    torch.testing.assert_close(output[shared:], torch.cat([copied[start + shared : end] for start, end in spans]))
    torch.testing.assert_close(output[:shared], copied[:shared])
    torch.manual_seed(1)
    direction = torch.randn(output.shape, dtype=torch.float64)
    direction[:shared] = 0  # nobody reads the output there
    output.backward(direction)
    copied.backward(torch.cat([torch.cat([direction[:shared], direction[a:b]]) for a, b in list(pairwise(bounds))[1:]]))
    for mine, theirs in zip(inputs, copies, strict=True):
        summed = torch.zeros_like(mine).index_add_(0, torch.cat(rows), theirs.grad)
        torch.testing.assert_close(mine.grad, summed)


def test_autocast_changes_no_format_in_it():
    bounds = offsets(LENGTHS["mixed"])
    query, key, value = tensors(bounds[-1], 4, 2, torch.float32)
    inputs = (3 * query, 3 * key, value.bfloat16())
    wanted = bucketed_attention(*inputs, 0.2, bounds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bucketed_attention(*inputs, 0.2, bounds)
    assert torch.equal(found, wanted)
