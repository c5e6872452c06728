r"""Attention of the lean path, forward and backward.

`Flash` calls the kernel's two halves itself: the backward pass takes the output and the sums of the forward one,
queries, keys and values are read where they stand in q|k|v, and key/value heads are shared without being copied.
`Bucketed` is what CPUs take; its backward pass is written out, too.
`Recomputed` works everywhere: attention is computed once more in the backward pass, and autograd differentiates it.

Shape letters: T tokens, H query heads, K key/value heads, S size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from luthier.machine.memory import is_out_of_memory
from luthier.model.attention import document_attention, goes_in_buckets
from luthier.model.bucketed import Heads, attend, attend_backward
from luthier.model.flash import kernel_for, repeatable

_TOLERANCE = 2e-2
"""Of a 16-bit format, relative."""


class Attention(Protocol):
    """Causal attention within each document; `inputs` as `luthier.model.attention.document_attention` wants them."""

    @property
    def reads_device(self) -> bool:
        """Whether where documents start is read on the device alone (`cu_seq_lens`), so that it can be replayed."""

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Output (T, H, S), and what `backward` wants to be given."""

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any]) -> Heads:
        """Gradients of queries, keys and values."""


@dataclass(frozen=True)
class Recomputed:
    """By `document_attention` and autograd.

    Attributes:
        module: The attention layer.
        scaling: Factor on the scores.
        window: Tokens that each one sees back to, itself included; None: all.
        reads_device: See `Attention`.
    """

    module: nn.Module
    scaling: float
    window: int | None
    reads_device: bool = False

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """As `Attention`."""
        query, key, value = (x.transpose(0, 1)[None] for x in heads)
        settings: dict[str, Any] = {"scaling": self.scaling, "sliding_window": self.window}
        return document_attention(self.module, query, key, value, None, **settings, **inputs)[0][0], None

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any]) -> Heads:
        """As `Attention`."""
        query, key, value = (x.detach().requires_grad_() for x in heads)
        with torch.enable_grad():
            output_THS, _ = self.forward((query, key, value), inputs)
        query, key, value = torch.autograd.grad(output_THS, (query, key, value), grad_THS)
        return query, key, value


@dataclass(frozen=True)
class Bucketed(Recomputed):
    """By `luthier.model.bucketed`, where the window, if any, reaches to the beginning of each document."""

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """As `Attention`."""
        if not self._applies(inputs):
            return super().forward(heads, inputs)
        return attend(heads, *self._where(inputs)), None

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any]) -> Heads:
        """As `Attention`."""
        if not self._applies(inputs):
            return super().backward(grad_THS, heads, kept, inputs)
        return attend_backward(grad_THS, heads, *self._where(inputs))

    def _applies(self, inputs: dict[str, Any]) -> bool:
        return goes_in_buckets("cpu", self.window, inputs["longest"])

    def _where(self, inputs: dict[str, Any]) -> tuple[float, tuple[int, ...], int]:
        return self.scaling, inputs["document_offsets"], inputs.get("shared_tokens", 0)


@dataclass(frozen=True)
class Flash:
    """By the two operators that `torch.nn.attention.varlen` is made of; attributes as those of `Recomputed`."""

    scaling: float
    window: int | None
    reads_device: bool = True

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """As `Attention`."""
        output_THS, sums, rng, unused, _ = torch.ops.aten._flash_attention_forward(
            *heads, *self._spans(inputs), 0.0, self.window is None, False, **self._options()
        )
        return output_THS, (output_THS, sums, rng, unused)

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any]) -> Heads:
        """As `Attention`."""
        output_THS, sums, rng, unused = kept
        with repeatable():
            query, key, value = torch.ops.aten._flash_attention_backward(
                grad_THS, *heads, output_THS, sums, *self._spans(inputs), 0.0, self.window is None,
                rng, unused, **self._options(),
            )  # fmt: skip
        return query, key, value

    def _spans(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, int, int]:
        """Where the documents start, and how long the longest is: for queries and keys each."""
        return inputs["cu_seq_lens"], inputs["cu_seq_lens"], inputs["longest"], inputs["longest"]

    def _options(self) -> dict[str, Any]:
        left = -1 if self.window is None else self.window - 1
        return {"scale": self.scaling, "window_size_left": left, "window_size_right": 0}


def attention_for(module: nn.Module, scaling: float, window: int | None, like_THS: Tensor, key_heads: int) -> Attention:
    """What computes the attention of a layer.

    Args:
        module: The layer.
        scaling: Factor on the scores.
        window: Tokens that each one sees back to, itself included; None: all.
        like_THS: A tensor with the format, the device, the heads and the size of the queries.
        key_heads: How many key/value heads there are.
    """
    if like_THS.device.type == "cpu":
        return Bucketed(module, scaling, window)
    if kernel_for(like_THS.transpose(0, 1)[None], scaling, window) is None:
        return Recomputed(module, scaling, window)
    _, heads, size = like_THS.shape
    if _flash_works(like_THS.device, like_THS.dtype, (heads, key_heads, size), scaling, window):
        return Flash(scaling, window)
    return Recomputed(module, scaling, window, reads_device=True)


@cache
def _flash_works(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], scaling: float, window: int | None
) -> bool:
    """Whether `Flash` gives the numbers of `Recomputed` on this device: its operators are torch's own business."""
    heads, key_heads, size = sizes
    generator = torch.Generator().manual_seed(0)
    both_TXS = torch.randn(40, heads + 2 * key_heads, size, generator=generator).to(device, dtype)
    grad_THS = torch.randn(40, heads, size, generator=generator).to(device, dtype)
    query, key, value = torch.split(both_TXS, [heads, key_heads, key_heads], dim=1)
    offsets = (0, 9, 40)
    starts = torch.tensor([*offsets, 40, 40], dtype=torch.int32, device=device)  # two more documents, without tokens
    inputs = {"document_offsets": offsets, "cu_seq_lens": starts, "longest": 64}
    ways: tuple[Attention, ...] = (Flash(scaling, window), Recomputed(nn.Identity(), scaling, window))
    found = []
    try:
        for way in ways:
            output_THS, kept = way.forward((query, key, value), inputs)
            found.append([output_THS, *way.backward(grad_THS, (query, key, value), kept, inputs)])
        off = [(x.float() - y.float()).norm() / y.float().norm() for x, y in zip(*found, strict=True)]
        return bool(torch.stack(off).max() <= _TOLERANCE)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # another signature, or a kernel that was not built
