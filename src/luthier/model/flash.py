r"""All documents of a micro-batch in one call of a variable-length flash kernel (CUDA, 16 bits).

    1. torch's own `varlen_attn`             its signature differs between versions, so it is looked at
    2. flash-attn's `flash_attn_varlen_func`    where it is installed
    3. none: `luthier.model.attention` goes through the documents one by one

Backward, blocks of keys add to the gradient of the queries as they come to an end, so that it would be rounded another
way each time. All are told to add it up in one order (`repeatable`).

| torch | says that it is causal by | scale | grouped heads |
|---|---|---|---|
| 2.10 | `is_causal=True` | not taken | not taken |
| 2.11 | `window_size=(n, 0)` | `scale` | not taken |
| 2.12 and later | `window_size=(n, 0)` | `scale` | `enable_gqa=True` |

Source: Dao 2023 (FlashAttention-2), the documentation of each version, ATen's attention_backward.cu. Not covered:
dropout, float32, cards before Ampere (a T4), heads that are not a multiple of 8 or larger than 256.

Shape letters: T tokens, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

_OLDEST = (8, 0)
_LARGEST_HEAD = 256


class Kernel(Protocol):
    """Causal attention within each document."""

    def __call__(
        self,
        query_THD: Tensor,
        key_TKD: Tensor,
        value_TKD: Tensor,
        cu_seq_lens: Tensor,
        longest: int,
        scaling: float,
        sliding_window: int | None,
    ) -> Tensor:
        """Output (T, H, D).

        Args:
            query_THD: Queries.
            key_TKD: Keys; H is a multiple of K.
            value_TKD: Values.
            cu_seq_lens: int32, where each document starts, and T at the end.
            longest: Tokens of the longest document.
            scaling: Factor on the scores.
            sliding_window: Tokens that each one sees back to, itself included; None: all.
        """


@contextmanager
def repeatable() -> Iterator[None]:
    """In here torch's flash kernel computes the same bits from the same numbers; nothing else belongs in here.

    It is told by a switch of the whole process, which has other operations raise an error.
    """
    filling: Any = torch.utils.deterministic
    before, filled = torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory
    filling.fill_uninitialized_memory = False  # one more kernel for each tensor
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        filling.fill_uninitialized_memory = filled


class _Repeatable(torch.autograd.Function):
    """A kernel whose backward pass is `repeatable`: the forward one is done again there, so that nothing else is."""

    @staticmethod
    def forward(ctx: Any, attend: Callable[..., Tensor], *heads: Tensor) -> Tensor:
        ctx.attend = attend
        ctx.save_for_backward(*heads)
        return attend(*heads)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        heads = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            output_THD = ctx.attend(*heads)
        with repeatable():
            return None, *torch.autograd.grad(output_THD, heads, grad_outputs[0])


def kernel_for(query_BHTD: Tensor, scaling: float, sliding_window: int | None) -> Kernel | None:
    """The kernel for these queries; None where there is none."""
    size = query_BHTD.shape[-1]
    if not query_BHTD.is_cuda or query_BHTD.element_size() != 2 or size % 8 or size > _LARGEST_HEAD:
        return None
    if torch.cuda.get_device_capability(query_BHTD.device) < _OLDEST:
        return None
    plain = sliding_window is None and abs(scaling * size**0.5 - 1) < 1e-6
    return _kernel(plain=plain)


@cache
def _kernel(*, plain: bool) -> Kernel | None:
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        if found := of_torch(varlen_attn, plain=plain):
            return found
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        return of_flash_attn(flash_attn_varlen_func)
    return None


def of_torch(varlen_attn: Callable[..., Any], *, plain: bool) -> Kernel | None:
    """The function of torch as a `Kernel`; None when this version lacks what is asked for.

    Args:
        varlen_attn: The function of any version.
        plain: Whether there is no window and the scale is 1 / sqrt(D).
    """
    known = inspect.signature(varlen_attn).parameters
    windows, grouped = {"window_size", "scale"} <= known.keys(), "enable_gqa" in known
    if not windows and not (plain and "is_causal" in known):
        return None

    def attend(
        query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, cu_seq_lens: Tensor, longest: int, scaling: float,
        sliding_window: int | None,
    ) -> Tensor:  # fmt: skip
        groups = query_THD.shape[1] // key_TKD.shape[1]
        if groups > 1 and not grouped:
            key_TKD, value_TKD = (x.repeat_interleave(groups, dim=1) for x in (key_TKD, value_TKD))
        options: dict[str, Any] = {"is_causal": True}
        if windows:
            options = {"scale": scaling, "window_size": _window(sliding_window)}
        if groups > 1 and grouped:
            options["enable_gqa"] = True
        heads = (x.contiguous() for x in (query_THD, key_TKD, value_TKD))

        def kernel(*heads: Tensor) -> Tensor:
            return varlen_attn(*heads, cu_seq_lens, cu_seq_lens, longest, longest, **options)  # type: ignore[no-any-return]

        output_THD: Tensor = _Repeatable.apply(kernel, *heads)  # type: ignore[no-untyped-call]
        return output_THD

    return attend


def of_flash_attn(flash_attn_varlen_func: Callable[..., Any]) -> Kernel:
    """The function of flash-attn as a `Kernel`. It takes grouped heads; its first versions are not `repeatable`."""
    known = inspect.signature(flash_attn_varlen_func).parameters
    options = {"deterministic": True} if "deterministic" in known else {}

    def attend(
        query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, cu_seq_lens: Tensor, longest: int, scaling: float,
        sliding_window: int | None,
    ) -> Tensor:  # fmt: skip
        output_THD: Tensor = flash_attn_varlen_func(
            query_THD,
            key_TKD,
            value_TKD,
            cu_seq_lens,
            cu_seq_lens,
            longest,
            longest,
            softmax_scale=scaling,
            causal=True,
            window_size=_window(sliding_window),
            **options,
        )
        return output_THD

    return attend


def _window(sliding_window: int | None) -> tuple[int, int]:
    """(left, right): how many tokens before and after itself each one sees; -1: all."""
    return (-1 if sliding_window is None else sliding_window - 1, 0)
