r"""One decoder layer, forward and backward.

    x --norm--> q|k|v --rotate--> attention --> o --(+x)--> m --norm--> gate|up --swiglu--> down --(+m)--> y

Kept until the backward pass (numbers a token): x (D), q|k|v, attention's output, m (D), gate|up and the adapters' thin
products. Norms, rotation, gate and attention itself are computed again there. A checkpointed layer keeps x alone.

In the last layer only the positions with a trained next token go on past attention: nobody reads the others.

Not covered: dropout, biases that are trained, norms that are trained; `luthier.model.lean.fit` turns such models away.

Shape letters: T tokens, N positions that go on, D hidden size, H query heads, K key/value heads, S size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.model.attention import document_attention
from luthier.model.lean.linears import Buffers, stacked
from luthier.model.lean.pieces import PLAIN, Pieces


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a micro-batch stand.

    Attributes:
        cos_TS, sin_TS: Of each position's rotation.
        inputs: What packed attention wants to know of the documents.
        rows_N: Positions that go on past the last layer's attention.
    """

    cos_TS: Tensor
    sin_TS: Tensor
    inputs: dict[str, Any]
    rows_N: Tensor


@dataclass
class Kept:
    """What a layer's backward pass needs, besides the layer's input.

    q|k is turned already where it is turned in place.
    """

    qkv_TO: Tensor
    attended_TO: Tensor
    middle_TD: Tensor
    gate_up_TI: Tensor
    thin: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class LeanLayer:
    """A decoder layer of transformers, computed without autograd. Parameters stay where they are, in the model."""

    def __init__(self, layer: Any, dtype: torch.dtype, *, keep: bool, buffers: Buffers, pieces: Pieces = PLAIN) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._pieces = pieces
        options: dict[str, Any] = {"keep": keep, "buffers": buffers, "pieces": pieces}
        self.qkv = stacked([attention.q_proj, attention.k_proj, attention.v_proj], dtype, **options)
        self.o = stacked([attention.o_proj], dtype, **options)
        self.gate_up = stacked([mlp.gate_proj, mlp.up_proj], dtype, **options)
        self.down = stacked([mlp.down_proj], dtype, **options)
        self.stacks = (self.qkv, self.o, self.gate_up, self.down)
        self._norms = [_weight(n, dtype) for n in (layer.input_layernorm, layer.post_attention_layernorm)]
        self._head_norms = [_weight(n, dtype) for n in _head_norms(attention)]
        self._attention = attention
        self._scaling, self._window = attention.scaling, window_of(attention)
        self._size = attention.head_dim
        self._heads = self.qkv.members[0].base.out_features // self._size
        self._key_heads = self.qkv.members[1].base.out_features // self._size
        self._sides = [self._heads, self._key_heads]  # of what is rotated

    def parameters(self) -> list[nn.Parameter]:
        """The trained matrices, in the order of the gradients that `backward` returns."""
        return [p for stack in self.stacks for p in stack.parameters()]

    def forward(self, x_TD: Tensor, layout: Layout, *, last: bool) -> tuple[Tensor, Kept]:
        """The layer's output, (N, D) for the last layer and (T, D) for the others, and what backward needs."""
        rms_norm, swiglu = self._pieces.rms_norm, self._pieces.swiglu
        qkv_TO, thin_qkv = self.qkv.forward(rms_norm(x_TD, *self._norms[0]))
        attended_TO = self._attend(*self._positioned(qkv_TO, layout), layout)
        if last:
            attended_TO, x_TD = attended_TO[layout.rows_N], x_TD[layout.rows_N]
        middle_TD, thin_o = self.o.forward(attended_TO, onto_TO=x_TD)
        gate_up_TI, thin_gate_up = self.gate_up.forward(rms_norm(middle_TD, *self._norms[1]))
        y_TD, thin_down = self.down.forward(swiglu(gate_up_TI), onto_TO=middle_TD)
        return y_TD, Kept(qkv_TO, attended_TO, middle_TD, gate_up_TI, (thin_qkv, thin_o, thin_gate_up, thin_down))

    def backward(
        self, grad_TD: Tensor, x_TD: Tensor, kept: Kept, layout: Layout, *, first: bool, last: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of x (None for the first layer: nothing below it is trained), and those of `parameters()`."""
        thin_qkv, thin_o, thin_gate_up, thin_down = kept.thin
        rms_norm, rms_norm_backward = self._pieces.rms_norm, self._pieces.rms_norm_backward
        grad_TI, down = self.down.backward(grad_TD, self._pieces.swiglu(kept.gate_up_TI), thin_down)
        assert grad_TI is not None
        grad_TI = self._pieces.swiglu_backward(grad_TI, kept.gate_up_TI)
        normed_TD = rms_norm(kept.middle_TD, *self._norms[1])
        grad_normed_TD, gate_up = self.gate_up.backward(grad_TI, normed_TD, thin_gate_up)
        assert grad_normed_TD is not None
        grad_middle_TD = rms_norm_backward(grad_normed_TD, kept.middle_TD, *self._norms[1], grad_TD)
        grad_attended_TD, o = self.o.backward(grad_middle_TD, kept.attended_TO, thin_o)
        assert grad_attended_TD is not None
        if last:
            grad_attended_TD = _spread(grad_attended_TD, layout.rows_N, len(x_TD))
            grad_middle_TD = _spread(grad_middle_TD, layout.rows_N, len(x_TD))
        grad_qkv_TO = self._attention_backward(grad_attended_TD, kept.qkv_TO, layout)
        normed_TD = rms_norm(x_TD, *self._norms[0])
        grad_normed_TD, qkv = self.qkv.backward(grad_qkv_TO, normed_TD, thin_qkv, to_input=not first)
        gradients = [*qkv, *o, *gate_up, *down]
        if grad_normed_TD is None:
            return None, gradients
        return rms_norm_backward(grad_normed_TD, x_TD, *self._norms[0], grad_middle_TD), gradients

    def _parts(self, qkv_TO: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (T, H + K, S), and values (T, K, S), as views."""
        turned = self._heads + self._key_heads
        qkv_THS = qkv_TO.view(len(qkv_TO), turned + self._key_heads, self._size)
        return qkv_THS[:, :turned], qkv_THS[:, turned:]

    def _positioned(self, qkv_TO: Tensor, layout: Layout, *, again: bool = False) -> tuple[Tensor, Tensor]:
        """Queries and keys after their norms (where the model has them) and rotation, and the values."""
        turned_THS, value_TKS = self._parts(qkv_TO)
        if self._head_norms:
            both = zip(torch.split(turned_THS, self._sides, dim=1), self._head_norms, strict=True)
            turned_THS = torch.cat([self._pieces.rms_norm(x, *norm) for x, norm in both], dim=1)
        elif again and self._pieces.rotates_in_place:
            return turned_THS, value_TKS
        return self._pieces.rotate(turned_THS, layout.cos_TS, layout.sin_TS), value_TKS

    def _attend(self, turned_THS: Tensor, value_TKS: Tensor, layout: Layout) -> Tensor:
        """Output (T, H S)."""
        query, key = torch.split(turned_THS, self._sides, dim=1)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value_TKS))
        settings: dict[str, Any] = {"scaling": self._scaling, "sliding_window": self._window}
        output, _ = document_attention(self._attention, query, key, value, None, **settings, **layout.inputs)
        return output[0].flatten(1)

    def _attention_backward(self, grad_TO: Tensor, qkv_TO: Tensor, layout: Layout) -> Tensor:
        """Gradient of q|k|v. Attention itself is differentiated by autograd, on a graph of its own."""
        grad_qkv_TO = torch.empty_like(qkv_TO)
        grad_turned_THS, grad_value_TKS = self._parts(grad_qkv_TO)
        turned_THS, value_TKS = (x.detach().requires_grad_() for x in self._positioned(qkv_TO, layout, again=True))
        with torch.enable_grad():
            output_TO = self._attend(turned_THS, value_TKS, layout)
        turned, value = torch.autograd.grad(output_TO, (turned_THS, value_TKS), grad_TO)
        if self._pieces.rotates_in_place:
            turned = grad_turned_THS.copy_(turned)
        turned = self._pieces.rotate(turned, layout.cos_TS, layout.sin_TS, inverse=True)
        if self._head_norms:
            sides = [torch.split(x, self._sides, dim=1) for x in (turned, self._parts(qkv_TO)[0])]
            both = zip(*sides, self._head_norms, strict=True)
            turned = torch.cat([self._pieces.rms_norm_backward(grad, x, *norm) for grad, x, norm in both], dim=1)
        if turned is not grad_turned_THS:
            grad_turned_THS.copy_(turned)
        grad_value_TKS.copy_(value)
        return grad_qkv_TO


def window_of(attention: Any) -> int | None:
    """How many tokens an attention layer sees back to, itself included; None: all."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window  # type: ignore[no-any-return]
    reads_config = type(attention).__name__ == "MistralAttention"
    return getattr(attention.config, "sliding_window", None) if reads_config else None


def _spread(rows_ND: Tensor, rows_N: Tensor, tokens: int) -> Tensor:
    """The rows at their positions among T, zeros elsewhere."""
    return torch.zeros(tokens, rows_ND.shape[1], dtype=rows_ND.dtype, device=rows_ND.device).index_copy_(
        0, rows_N, rows_ND
    )


def _head_norms(attention: Any) -> list[Any]:
    return [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []


def _weight(norm: Any, dtype: torch.dtype) -> tuple[Tensor, float]:
    return norm.weight.detach().to(dtype), norm.variance_epsilon
