"""Attention in buckets against one float64 product for each document."""

from itertools import accumulate, pairwise

import pytest
import torch

from luthier.model.bucketed import SHORT, bucketed_attention, buckets

LENGTHS = {"one": [5], "mixed": [3, 40, 1, 41, 97, 40], "long": [SHORT - 1, SHORT, SHORT + 1, SHORT + 70, 9]}


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
    parts, back = buckets(offsets(lengths))
    assert len(parts) < len(lengths)
    assert sum(len(part.kept) for part in parts) == sum(lengths) == len(back)
    assert sum(part.documents * part.length for part in parts) < 1.3 * sum(lengths)


@pytest.mark.parametrize("shared", [1, 7, SHORT - 20])
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
