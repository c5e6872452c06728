"""Attention among short documents, and its gradients, against a plain softmax of each document in float64."""

from itertools import accumulate, pairwise

import pytest
import torch

from luthier.model.lean import attention as lean
from luthier.model.lean.attention import LONGEST, Flash, Recomputed, Short, _works
from tests.model.kernels.support import DEVICE, ON_GPU, close, normal
from tests.model.kernels.support import pytestmark as marks

pytestmark = marks()
kernels = pytest.importorskip("luthier.model.kernels.attention")
Blocks = kernels.Blocks

HALVES = (kernels.attend, kernels.attend_backward)
# largest difference, in units of the reference's largest number; the interpreter multiplies no bfloat16
ANYWHERE = {torch.float32: 5e-6, torch.float16: 4e-3}
TOLERANCES = ANYWHERE | ({torch.bfloat16: 3e-2} if ON_GPU else {torch.float64: 1e-12})
# rows and keys: small ones, so that short documents have several blocks
SMALL = Blocks(32, 16, 4, 2)
SCALE = 0.3


def reference(heads, grad, scale, bounds, window=None):
    """Output and gradients."""
    query, key, value = exact = [x.double().detach().requires_grad_() for x in heads]
    outputs = []
    for start, end in pairwise(bounds):
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        k, v = (x.repeat_interleave(len(q) // len(k), dim=0) for x in (k, v))
        distance = torch.arange(end - start, device=DEVICE)[:, None] - torch.arange(end - start, device=DEVICE)
        seen = (distance >= 0) & (distance < (window or end - start + 1))
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    output = torch.cat(outputs)
    return [output.detach(), *torch.autograd.grad(output, exact, grad.double())]


def parts(tensor, heads, key_heads):
    """Queries, keys and values as views; before and behind them lie heads of nobody."""
    return torch.split(tensor, [1, heads, key_heads, key_heads, 1], dim=1)[1:4]


def case(lengths, heads, key_heads, size, dtype):
    """Heads as views of one tensor, a gradient, and where documents start."""
    bounds = tuple(accumulate(lengths, initial=0))
    stacked = normal(bounds[-1], heads + 2 * key_heads + 2, size, dtype=dtype)
    grad = normal(bounds[-1], heads, size, dtype=dtype, seed=1)
    starts = torch.tensor(bounds, dtype=torch.int32, device=DEVICE)
    return parts(stacked, heads, key_heads), grad, bounds, starts


def found_for(tensors, grad, starts, scale=SCALE, window=None, blocks=SMALL):
    """Output and gradients; nothing else has been written."""
    heads, key_heads = tensors[0].shape[1], tensors[1].shape[1]
    output, sums = kernels.attend(tensors, starts, scale, window, blocks)
    around = torch.full_like(tensors[0]._base, torch.nan)
    out = parts(around, heads, key_heads)
    kernels.attend_backward(grad, tensors, output, sums, starts, scale, window, out, (blocks, blocks))
    assert around[:, [0, -1]].isnan().all()
    return [output, *out]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "window"),
    [(1, 1, 16, None), (4, 2, 64, None), (4, 1, 16, None), (3, 1, 32, None), (2, 2, 16, 5), (2, 1, 128, 20)],
    ids=str,
)
def test_output_and_gradients_equal_float64(dtype, heads, key_heads, size, window):
    # around the blocks of 16 keys and of 32, 16, 10 or 8 queries; nothing at the beginning, in between and at the end
    lengths = [0, 1, 2, 15, 16, 0, 17, 35, 7, 0, 0]
    tensors, grad, bounds, starts = case(lengths, heads, key_heads, size, dtype)
    scale = size**-0.5
    wanted = reference(tensors, grad, scale, bounds, window)
    for found, exact in zip(found_for(tensors, grad, starts, scale, window), wanted, strict=True):
        assert found.dtype is dtype
        close(found, exact, TOLERANCES[dtype])


@pytest.mark.parametrize("lengths", [[1, 2], [64], [63, 1], [130], [1] * 40 + [3]], ids=str)
def test_blocks_as_they_are_chosen(lengths):
    tensors, grad, bounds, starts = case(lengths, 4, 1, 16, torch.float16)
    wanted = reference(tensors, grad, SCALE, bounds)
    blocks = kernels.blocks_for("forward", torch.float16, 16)
    for found, exact in zip(found_for(tensors, grad, starts, blocks=blocks), wanted, strict=True):
        close(found, exact, ANYWHERE[torch.float16])


def test_heads_may_lie_in_tensors_of_their_own():
    lengths, dtype = [9, 20], torch.float32
    tensors, grad, bounds, starts = case(lengths, 2, 1, 16, dtype)
    apart = tuple(x.clone(memory_format=torch.contiguous_format) for x in tensors)
    output, sums = kernels.attend(apart, starts, SCALE)
    out = tuple(torch.full_like(x, torch.nan) for x in apart)
    kernels.attend_backward(grad, apart, output, sums, starts, SCALE, None, out)
    for found, exact in zip([output, *out], reference(tensors, grad, SCALE, bounds), strict=True):
        close(found, exact, ANYWHERE[dtype])


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("size", [1e3, 1e17], ids=str)
def test_huge_scores(size, window):
    tensors, grad, bounds, starts = case([5, 18], 2, 1, 16, torch.float32)
    tensors[0].mul_(size)
    found, wanted = (f(tensors, grad, *rest) for f, rest in
                     ((found_for, (starts, SCALE, window)), (reference, (SCALE, bounds, window))))  # fmt: skip
    close(found[0], wanted[0], 1e-3)
    assert all(torch.isfinite(x).all() for x in found)


def test_the_same_bits_each_time():
    tensors, grad, _, starts = case([40, 3, 25], 4, 2, 16, torch.float16)
    first = found_for(tensors, grad, starts)
    for _ in range(3 if not ON_GPU else 50):
        assert all(torch.equal(a, b) for a, b in zip(first, found_for(tensors, grad, starts), strict=True))


def test_a_document_sees_no_other():
    tensors, grad, _, starts = case([20, 30], 2, 1, 16, torch.float32)
    first = found_for(tensors, grad, starts)
    for x in (*tensors, grad):
        x[20:] = 1e3
    again = found_for(tensors, grad, starts)
    assert all(torch.equal(a[:20], b[:20]) for a, b in zip(first, again, strict=True))


def test_nothing():
    tensors, grad, _, starts = case([0, 0], 2, 1, 16, torch.float32)
    assert all(len(x) == 0 for x in found_for(tensors, grad, starts))


def test_what_is_not_covered_is_refused():
    tensors, _, _, starts = case([4], 2, 1, 24, torch.float32)
    with pytest.raises(ValueError, match="2 heads of size 24 to a key/value head are not covered"):
        kernels.attend(tensors, starts, SCALE)
    tensors, _, _, starts = case([4], 96, 1, 16, torch.float32)
    with pytest.raises(ValueError, match="96 heads of size 16"):
        kernels.attend(tensors, starts, SCALE)
    query, key, value = case([4], 2, 2, 16, torch.float32)[0]
    with pytest.raises(ValueError, match="must lie together"):
        kernels.attend((query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)), starts, SCALE)


def test_long_documents_are_left_to_flash(monkeypatch):
    """`Short` asks how long the longest is; each half is asked of the one that has made the output."""
    tensors, grad, bounds, starts = case([9, 20], 2, 1, 16, torch.float32)
    asked = []
    plain = Recomputed(torch.nn.Identity(), SCALE, None)
    monkeypatch.setattr(Flash, "forward", lambda self, *args: asked.append("forward") or plain.forward(*args))
    monkeypatch.setattr(Flash, "backward", lambda self, *args: asked.append("backward") or plain.backward(*args))
    wanted, short = reference(tensors, grad, SCALE, bounds), Short(HALVES, Flash(SCALE, None))
    for longest, by in ((LONGEST, []), (LONGEST + 1, ["forward", "backward"])):
        inputs = {"document_offsets": bounds, "cu_seq_lens": starts, "longest": longest}
        output, kept = short.forward(tensors, inputs)
        out = parts(torch.full_like(tensors[0]._base, torch.nan), 2, 1)
        short.backward(grad, tensors, kept, inputs, out)
        assert asked == by
        for found, exact in zip([output, *out], wanted, strict=True):
            close(found, exact, 1e-3)


@pytest.mark.parametrize("window", [None, 30])
def test_they_are_compared_with_autograd_before_they_are_taken(window):
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    where = (torch.device(DEVICE), dtype, (2, 1, 16))
    assert _works(Short(HALVES, Flash(SCALE, window)), *where)

    def wrong(*arguments):
        kernels.attend_backward(*arguments)
        arguments[-1][1].neg_()

    def half(*arguments):
        *given, (query, _, value) = arguments
        kernels.attend_backward(*given, (query, torch.empty_like(query[:, :1]), value))

    def fails(*arguments):
        raise AssertionError("no such layout")

    for backward in (wrong, half, fails):
        assert not _works(Short((kernels.attend, backward), Flash(SCALE, window)), *where)


@pytest.mark.skipif(ON_GPU, reason="tests.gpu does it without a patch")
def test_where_they_fail_flash_stays(monkeypatch):
    """The order in which attentions are tried, with a flash kernel that is not there."""
    like = torch.empty(1, 2, 16, device="meta", dtype=torch.bfloat16)
    good = {Flash, Short}
    monkeypatch.setattr(lean, "kernel_for", lambda *_: print)
    monkeypatch.setattr(lean, "_works", lambda way, *_: type(way) in good)
    arguments = (torch.nn.Identity(), SCALE, None, like, 1)
    assert lean.attention_for(*arguments, HALVES) == Short(HALVES, Flash(SCALE, None))
    assert lean.attention_for(*arguments) == Flash(SCALE, None)
    monkeypatch.setattr(lean, "_works", lambda way, *_: type(way) is Flash or way.flash.window is None)
    windowed = (torch.nn.Identity(), SCALE, 1000, like, 1, HALVES)
    assert lean.attention_for(*windowed) == Flash(SCALE, 1000), "a window shorter than a document is a kernel of its own"
    monkeypatch.setattr(lean, "_works", lambda way, *_: type(way) in good)
    assert lean.attention_for(*windowed) == Short(HALVES, Flash(SCALE, 1000))
    good.remove(Short)
    assert lean.attention_for(*arguments, HALVES) == Flash(SCALE, None)
    good.remove(Flash)
    assert lean.attention_for(*arguments, HALVES).reads_device, "recomputed by a kernel of autograd's"
