"""Flash kernels of every version behind one call, with functions that take what that version takes.

The functions compute with plain torch, so that the arguments are tested and not only their names; `pytest -m gpu` runs
the real ones.
"""

from __future__ import annotations

import inspect
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from luthier.model.attention import document_attention
from luthier.model.flash import kernel_for, of_flash_attn, of_torch, repeatable
from luthier.model.lean.attention import Flash

OFFSETS = (0, 5, 6, 15)
CU = torch.tensor(OFFSETS, dtype=torch.int32)


def attend(q, k, v, cu, scale, window):
    """Documents one by one, as the kernels are documented: `window` is (left, right)."""
    groups, outputs = q.shape[1] // k.shape[1], []
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    for start, end in pairwise(cu.tolist()):
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)[None, :]
        seen = (distance <= window[0] if window[0] >= 0 else distance < end) & (distance >= -window[1])
        heads = (x[start:end].transpose(0, 1) for x in (q, k, v))
        outputs.append(torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale))
    return torch.cat(outputs, dim=1).transpose(0, 1)


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal and query.shape[1] == key.shape[1]
    return attend(query, key, value, cu_seq_q, None, (-1, 0))


def torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    assert query.shape[1] == key.shape[1] and max_q == max_k == 9
    return attend(query, key, value, cu_seq_q, scale, window_size)


def torch_2_12(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return attend(query, key, value, cu_seq_q, scale, window_size)


def flash_attn_2(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, deterministic=False,
):  # fmt: skip
    assert causal and deterministic
    return attend(q, k, v, cu_seqlens_q, softmax_scale, (window_size[0], 0))


def flash_attn_2_3(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1),
):  # fmt: skip
    assert causal
    return attend(q, k, v, cu_seqlens_q, softmax_scale, (window_size[0], 0))


def heads(key_heads=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(OFFSETS[-1], count, 8, generator=generator) for count in (4, key_heads, key_heads)]


@pytest.mark.parametrize("function", [torch_2_11, torch_2_12, flash_attn_2, flash_attn_2_3], ids=lambda f: f.__name__)
@pytest.mark.parametrize("window", [None, 3], ids=["all", "window"])
@pytest.mark.parametrize("key_heads", [2, 4], ids=["grouped", "not grouped"])
def test_every_version_gives_what_one_document_at_a_time_gives(function, window, key_heads):
    q, k, v = (x.requires_grad_() for x in heads(key_heads))
    of_flash = function in (flash_attn_2, flash_attn_2_3)
    kernel = of_flash_attn(function) if of_flash else of_torch(function, plain=False)
    found = kernel(q, k, v, CU, 9, 0.4, window)
    batched = (x.transpose(0, 1)[None] for x in (q, k, v))
    wanted, _ = document_attention(
        torch.nn.Identity(), *batched, None, scaling=0.4, sliding_window=window, document_offsets=OFFSETS
    )
    torch.testing.assert_close(found, wanted[0], atol=1e-6, rtol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    gradients = (torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (found, wanted[0]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


class Noted(torch.autograd.Function):
    """The identity; its backward pass notes how the process is switched."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.seen.append((torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory))
        return grad, None


def test_the_kernel_alone_is_told_to_repeat_itself():
    inside, outside = [], []

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        return Noted.apply(attend(query, key, value, cu_seq_q, scale, window_size), inside)

    q, k, v = (x.requires_grad_() for x in heads(4))
    found = of_torch(varlen_attn, plain=False)(Noted.apply(q, outside), k, v, CU, 9, 0.4, None)
    Noted.apply(found, outside).sum().backward()
    assert inside == [(2, False)] and outside == [(0, True)] * 2
    assert all(x.grad is not None for x in (q, k, v))


def test_a_checkpointed_layer_has_the_same_gradients():
    def gradients(*, again):
        q, k, v = (x.requires_grad_() for x in heads())
        kernel = of_torch(torch_2_12, plain=False)
        arguments = (lambda *x: kernel(*x, CU, 9, 0.4, None).square().sum()), q, k, v
        (checkpoint(*arguments, use_reentrant=False) if again else arguments[0](q, k, v)).backward()
        return [x.grad for x in (q, k, v)]

    torch.testing.assert_close(gradients(again=True), gradients(again=False), atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_the_switch_is_put_back_whatever_happens(mode):
    def now():
        return torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory

    torch.set_deterministic_debug_mode(mode)
    before = now()
    try:
        with pytest.raises(torch.OutOfMemoryError), repeatable():
            assert now() == (2, False)
            raise torch.OutOfMemoryError
        assert now() == before
    finally:
        torch.set_deterministic_debug_mode("default")


class Intercepted(TorchDispatchMode):
    """A CPU has no flash kernel: what it would be called with is enough."""

    def __init__(self):
        super().__init__()
        self.switched = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.copy_.default:
            return function(*args)
        assert function is torch.ops.aten._flash_attention_backward.default
        self.switched.append(torch.get_deterministic_debug_mode())
        return tuple(torch.zeros_like(x) for x in args[1:4])


def test_attention_of_the_lean_path_repeats_itself_too():
    q, k, v = heads()
    empty, out = torch.zeros(0), heads()
    inputs = {"cu_seq_lens": CU, "longest": 9}
    with Intercepted() as kernel:
        Flash(0.4, None).backward(q, (q, k, v), (q, empty, empty, empty), inputs, out)
    assert not any(x.any() for x in out), "the gradients are where they were wanted"
    assert kernel.switched == [2] and torch.get_deterministic_debug_mode() == 0


def test_the_oldest_one_knows_no_window_and_no_scale():
    assert of_torch(torch_2_10, plain=False) is None
    q, k, v = heads()
    found = of_torch(torch_2_10, plain=True)(q, k, v, CU, 9, 8**-0.5, None)
    torch.testing.assert_close(found, attend(q, k, v, CU, 8**-0.5, (-1, 0)))


def test_one_that_nobody_knows_is_left_alone():
    assert of_torch(lambda query, key, value: None, plain=True) is None


def test_the_installed_torch_is_one_of_those():
    from torch.nn.attention.varlen import varlen_attn

    names = [set(inspect.signature(f).parameters) for f in (torch_2_11, torch_2_12)]
    assert set(inspect.signature(varlen_attn).parameters) in names
    assert of_torch(varlen_attn, plain=False) is not None


def test_a_cpu_has_none():
    assert kernel_for(torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16), 8**-0.5, None) is None
