r"""Attention of the lean path, forward and backward.

`Flash` calls the kernel's two halves itself: the backward pass takes the output and the sums of the forward one,
queries, keys and values are read where they stand in q|k|v, and key/value heads are shared without being copied.
`Short` takes kernels of our own (`luthier.model.kernels.attention`) while documents are short, and `Flash` for others.
`Bucketed` is what CPUs take; its backward pass is written out, too.
`Recomputed` works everywhere: attention is computed once more in the backward pass, and autograd differentiates it.

Shape letters: T tokens, H query heads, K key/value heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from luthier.machine.memory import is_out_of_memory
from luthier.model.attention import document_attention, goes_in_buckets
from luthier.model.bucketed import Heads, attend, attend_backward
from luthier.model.flash import kernel_for, repeatable
from luthier.model.lean.pieces import Halves

_TOLERANCE = 2e-2
"""Of a 16-bit format, relative."""
LONGEST = 4096
"""Tokens of the longest document that `Short` takes its own kernels for: up to there they were faster on an H200."""
_PROBE = (0, 9, 200)
"""Where the documents start on which an attention is compared with autograd's: two, several blocks long in one."""
_PROBE_WINDOW = 40
"""Shorter than one of them: where a window may be shorter than a document, kernels have a variant of their own."""


class Attends(Protocol):
    """The forward half of an attention; what it reads of `inputs` is its own business."""

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Output (T, H, S), and what a backward half wants to be given."""


class Attention(Attends, Protocol):
    """Causal attention within each document; `inputs` as `luthier.model.attention.document_attention` wants them."""

    @property
    def reads_device(self) -> bool:
        """Whether where documents start is read on the device alone (`cu_seq_lens`), so that it can be replayed."""

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any], out: Heads) -> None:
        """Write the gradients of queries, keys and values into `out`, which may be views."""


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

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any], out: Heads) -> None:
        """As `Attention`."""
        query, key, value = (x.detach().requires_grad_() for x in heads)
        with torch.enable_grad():
            output_THS, _ = self.forward((query, key, value), inputs)
        _write(torch.autograd.grad(output_THS, (query, key, value), grad_THS), out)


@dataclass(frozen=True)
class Bucketed(Recomputed):
    """By `luthier.model.bucketed`, where the window, if any, reaches to the beginning of each document."""

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """As `Attention`."""
        if not self._applies(inputs):
            return super().forward(heads, inputs)
        return attend(heads, *self._where(inputs)), None

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any], out: Heads) -> None:
        """As `Attention`."""
        if not self._applies(inputs):
            return super().backward(grad_THS, heads, kept, inputs, out)
        return attend_backward(grad_THS, heads, *self._where(inputs), out)

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

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any], out: Heads) -> None:
        """As `Attention`."""
        output_THS, sums, rng, unused = kept
        with repeatable():
            found = torch.ops.aten._flash_attention_backward(
                grad_THS, *heads, output_THS, sums, *self._spans(inputs), 0.0, self.window is None,
                rng, unused, **self._options(),
            )  # fmt: skip
        _write(found, out)

    def _spans(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, int, int]:
        """Where the documents start, and how long the longest is: for queries and keys each."""
        return inputs["cu_seq_lens"], inputs["cu_seq_lens"], inputs["longest"], inputs["longest"]

    def _options(self) -> dict[str, Any]:
        left = -1 if self.window is None else self.window - 1
        return {"scale": self.scaling, "window_size_left": left, "window_size_right": 0}


class _OfShort(NamedTuple):
    """What `Short` keeps of its own kernels; anything else is `Flash`'s."""

    output_THS: Tensor
    sums_KTG: Tensor


@dataclass(frozen=True)
class Short:
    """By kernels made for short documents; `flash` takes the passes with a longer one.

    Attributes:
        halves: The kernels (`luthier.model.kernels.attention`).
        flash: For documents of more than `LONGEST` tokens.
        reads_device: See `Attention`.
    """

    halves: Halves
    flash: Flash
    reads_device: bool = True

    def forward(self, heads: Heads, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """As `Attention`."""
        if inputs["longest"] > LONGEST:
            return self.flash.forward(heads, inputs)
        kept = _OfShort(*self.halves[0](heads, *self._where(inputs)))
        return kept.output_THS, kept

    def backward(self, grad_THS: Tensor, heads: Heads, kept: Any, inputs: dict[str, Any], out: Heads) -> None:
        """As `Attention`."""
        if not isinstance(kept, _OfShort):
            return self.flash.backward(grad_THS, heads, kept, inputs, out)
        return self.halves[1](grad_THS, heads, *kept, *self._where(inputs), out)

    def _where(self, inputs: dict[str, Any]) -> tuple[Tensor, float, int | None]:
        """Where documents start, the factor, and the window where it is shorter than a document."""
        window = self.flash.window
        seen = None if window is None or window >= inputs["longest"] else window
        return inputs["cu_seq_lens"], self.flash.scaling, seen


def _write(found: Iterable[Tensor], out: Heads) -> None:
    for place, grad in zip(out, found, strict=True):
        place.copy_(grad)


def attention_for(
    module: nn.Module,
    scaling: float,
    window: int | None,
    like_THS: Tensor,
    key_heads: int,
    halves: Halves | None = None,
) -> Attention:
    """What computes the attention of a layer.

    Args:
        module: The layer.
        scaling: Factor on the scores.
        window: Tokens that each one sees back to, itself included; None: all.
        like_THS: A tensor with the format, the device, the heads and the size of the queries.
        key_heads: How many key/value heads there are.
        halves: Kernels for short documents, where there are any.
    """
    if like_THS.device.type == "cpu":
        return Bucketed(module, scaling, window)
    if kernel_for(like_THS.transpose(0, 1)[None], scaling, window) is None:
        return Recomputed(module, scaling, window)
    _, heads, size = like_THS.shape
    where = (like_THS.device, like_THS.dtype, (heads, key_heads, size))
    probes = [Flash(scaling, seen) for seen in ((None,) if window is None else (None, _PROBE_WINDOW))]
    if not all(_works(probe, *where) for probe in probes):
        return Recomputed(module, scaling, window, reads_device=True)
    flash = Flash(scaling, window)
    if halves is not None and all(_works(Short(halves, probe), *where) for probe in probes):
        return Short(halves, flash)
    return flash


@cache
def _works(way: Flash | Short, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int]) -> bool:
    """Whether an attention gives the numbers of `Recomputed` on this device.

    `Flash` is made of operators that are torch's own business, and kernels of our own may not compile.
    """
    flash = way.flash if isinstance(way, Short) else way
    heads, key_heads, size = sizes
    split = [heads, key_heads, key_heads]
    generator = torch.Generator().manual_seed(0)
    tokens = _PROBE[-1]
    both_TXS = torch.randn(tokens, sum(split), size, generator=generator).to(device, dtype)
    grad_THS = torch.randn(tokens, heads, size, generator=generator).to(device, dtype)
    query, key, value = torch.split(both_TXS, split, dim=1)
    # two more documents, without tokens
    starts = torch.tensor([*_PROBE, tokens, tokens], dtype=torch.int32, device=device)
    inputs = {"document_offsets": _PROBE, "cu_seq_lens": starts, "longest": 256}
    ways: tuple[Attention, ...] = (way, Recomputed(nn.Identity(), flash.scaling, flash.window))
    found = []
    try:
        for each in ways:
            output_THS, kept = each.forward((query, key, value), inputs)
            query_grad, key_grad, value_grad = out = torch.split(torch.full_like(both_TXS, torch.nan), split, dim=1)
            each.backward(grad_THS, (query, key, value), kept, inputs, (query_grad, key_grad, value_grad))
            found.append([output_THS, *out])
        off = [(x.float() - y.float()).norm() / y.float().norm() for x, y in zip(*found, strict=True)]
        return bool(torch.stack(off).max() <= _TOLERANCE)
    except Exception as error:  # another signature, a kernel that was not built, a compiler that fails in its own way
        if is_out_of_memory(error):
            raise
        return False
