r"""One decoder layer, forward and backward.

    x --norm--> q|k|v --rotate--> attention --> o --(+x)--> m --norm--> gate|up --swiglu--> down --(+m)--> y

Both sums belong to the norm that reads them next (`Stream`): a layer ends with m and down's output, not added yet.

Kept until the backward pass (numbers a token): x (D), q|k|v, attention's output, m (D), gate|up and the adapters' thin
products. Norms, rotation and gate are computed again there, and attention where `luthier.model.lean.attention` has no
backward pass for it. A checkpointed layer keeps x alone.

In the last layer only the positions with a trained next token go on past attention: nobody reads the others.

Not covered: dropout, biases that are trained, norms that are trained; `luthier.model.lean.fit` turns such models away.

Shape letters: T tokens, N positions that go on, D hidden size, H query heads, K key/value heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from luthier.model.bucketed import Heads
from luthier.model.lean.attention import Attends, Attention, attention_for
from luthier.model.lean.gradients import Room
from luthier.model.lean.linears import Build, stacked
from luthier.model.lean.pieces import Pieces


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

    q|k is turned already where it is turned in place. `attention` is what attention's own backward pass wants;
    `attended_TO` its output, of the positions that go on.
    """

    qkv_TO: Tensor
    attention: Any
    attended_TO: Tensor
    middle_TD: Tensor
    gate_up_TI: Tensor
    thin: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


@dataclass
class Stream:
    """The residual stream, and a branch that is not added to it yet: the next norm does both in one pass."""

    x_TD: Tensor
    branch_TD: Tensor | None = None

    def normed(self, pieces: Pieces, weight_D: Tensor, eps: float) -> Tensor:
        """The norm of the stream; the branch belongs to that from now on."""
        if self.branch_TD is None:
            return pieces.rms_norm(self.x_TD, weight_D, eps)
        branch_TD, self.branch_TD = self.branch_TD, None
        self.x_TD, normed_TD = pieces.add_rms_norm(branch_TD, self.x_TD, weight_D, eps)
        return normed_TD


class LeanLayer:
    """A decoder layer of transformers, computed without autograd. Parameters stay where they are, in the model."""

    def __init__(self, layer: Any, build: Build) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._pieces = build.pieces
        self.qkv = stacked([attention.q_proj, attention.k_proj, attention.v_proj], build)
        self.o = stacked([attention.o_proj], build)
        self.gate_up = stacked([mlp.gate_proj, mlp.up_proj], build)
        self.down = stacked([mlp.down_proj], build)
        self.stacks = (self.qkv, self.o, self.gate_up, self.down)
        self._norms = [_weight(n, build.dtype) for n in (layer.input_layernorm, layer.post_attention_layernorm)]
        self._head_norms = [_weight(n, build.dtype) for n in _head_norms(attention)]
        self.size = attention.head_dim
        heads, self.key_heads = (member.base.out_features // self.size for member in self.qkv.members[:2])
        self._sides = [heads, self.key_heads]  # of what is rotated
        like_THS = self._norms[0][0].new_empty(1, heads, self.size)
        self.scaling, self.window = attention.scaling, window_of(attention)
        where = (like_THS, self.key_heads, build.pieces.attention)
        self._find_attention = partial(attention_for, attention, self.scaling, self.window, *where)

    @cached_property
    def attention(self) -> Attention:
        """That of packed documents. Who writes has another one, so kernels are tried when this is asked for."""
        return self._find_attention()

    def forward(
        self, stream: Stream, layout: Layout, *, last: bool, attention: Attends | None = None
    ) -> tuple[Tensor, Kept]:
        """Take the stream on: (N, D) after the last layer, (T, D) after the others.

        Args:
            stream: Changed in place.
            layout: Where the tokens stand.
            last: Whether it is the last layer.
            attention: Another one than the layer's own.

        Returns:
            The layer's input x, and what backward needs besides.
        """
        qkv_TO, thin_qkv = self.qkv.forward(stream.normed(self._pieces, *self._norms[0]))
        x_TD = stream.x_TD
        attends = self.attention if attention is None else attention
        attended_THS, kept = attends.forward(self._positioned(qkv_TO, layout), layout.inputs)
        attended_TO = attended_THS.flatten(1)
        if last:
            attended_TO, stream.x_TD = attended_TO[layout.rows_N], x_TD[layout.rows_N]
        stream.branch_TD, thin_o = self.o.forward(attended_TO)
        gate_up_TI, thin_gate_up = self.gate_up.forward(stream.normed(self._pieces, *self._norms[1]))
        stream.branch_TD, thin_down = self.down.forward(self._pieces.swiglu(gate_up_TI))
        thin = (thin_qkv, thin_o, thin_gate_up, thin_down)
        return x_TD, Kept(qkv_TO, kept, attended_TO, stream.x_TD, gate_up_TI, thin)

    def backward(
        self,
        grad_TD: Tensor,
        x_TD: Tensor,
        kept: Kept,
        layout: Layout,
        rooms: Sequence[Room],
        *,
        first: bool,
        last: bool,
    ) -> Tensor | None:
        """Gradient of x (None for the first layer: nothing below it is trained); the adapters' go into `rooms`."""
        thin_qkv, thin_o, thin_gate_up, thin_down = kept.thin
        qkv_room, o_room, gate_up_room, down_room = rooms
        rms_norm, rms_norm_backward = self._pieces.rms_norm, self._pieces.rms_norm_backward
        grad_TI, grad_z_TR = self.down.backward_to_input(grad_TD)
        assert grad_TI is not None
        gated_TI, grad_TI = self._pieces.swiglu_backward(grad_TI, kept.gate_up_TI)
        self.down.backward_to_adapters(grad_TD, grad_z_TR, gated_TI, thin_down, down_room)
        normed_TD = rms_norm(kept.middle_TD, *self._norms[1])
        grad_normed_TD = self.gate_up.backward(grad_TI, normed_TD, thin_gate_up, gate_up_room)
        assert grad_normed_TD is not None
        grad_middle_TD = rms_norm_backward(grad_normed_TD, kept.middle_TD, *self._norms[1], grad_TD)
        grad_attended_TD = self.o.backward(grad_middle_TD, kept.attended_TO, thin_o, o_room)
        assert grad_attended_TD is not None
        if last:
            grad_attended_TD = _spread(grad_attended_TD, layout.rows_N, len(x_TD))
            grad_middle_TD = _spread(grad_middle_TD, layout.rows_N, len(x_TD))
        grad_qkv_TO = self._attention_backward(grad_attended_TD, kept, layout)
        normed_TD = rms_norm(x_TD, *self._norms[0])
        grad_normed_TD = self.qkv.backward(grad_qkv_TO, normed_TD, thin_qkv, qkv_room, to_input=not first)
        if grad_normed_TD is None:
            return None
        return rms_norm_backward(grad_normed_TD, x_TD, *self._norms[0], grad_middle_TD)

    def _parts(self, qkv_TO: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (T, H + K, S), and values (T, K, S), as views."""
        turned = sum(self._sides)
        qkv_THS = qkv_TO.view(len(qkv_TO), -1, self.size)
        return qkv_THS[:, :turned], qkv_THS[:, turned:]

    def _positioned(self, qkv_TO: Tensor, layout: Layout, *, again: bool = False) -> Heads:
        """Queries and keys after their norms (where the model has them) and rotation, and the values."""
        turned_THS, value_TKS = self._parts(qkv_TO)
        if self._head_norms:
            both = zip(self._both(turned_THS), self._head_norms, strict=True)
            turned_THS = torch.cat([self._pieces.rms_norm(x, *norm) for x, norm in both], dim=1)
        if self._head_norms or not (again and self._pieces.rotates_in_place):
            turned_THS = self._pieces.rotate(turned_THS, layout.cos_TS, layout.sin_TS)
        query_THS, key_TKS = self._both(turned_THS)
        # rotated ones may come in float32 beside values in 16 bits
        return query_THS.to(value_TKS.dtype), key_TKS.to(value_TKS.dtype), value_TKS

    def _both(self, turned_THS: Tensor) -> tuple[Tensor, Tensor]:
        query_THS, key_TKS = torch.split(turned_THS, self._sides, dim=1)
        return query_THS, key_TKS

    def _attention_backward(self, grad_TO: Tensor, kept: Kept, layout: Layout) -> Tensor:
        """Gradient of q|k|v."""
        grad_qkv_TO = torch.empty_like(kept.qkv_TO)
        grad_turned_THS, grad_value_TKS = self._parts(grad_qkv_TO)
        sides = self._positioned(kept.qkv_TO, layout, again=True)
        grad_THS = grad_TO.view(len(grad_TO), -1, self.size)
        places, in_place = list(self._both(grad_turned_THS)), self._pieces.rotates_in_place
        query, key = turned = places if in_place else [x.new_empty(x.shape) for x in places]
        self.attention.backward(grad_THS, sides, kept.attention, layout.inputs, (query, key, grad_value_TKS))
        if in_place:
            self._pieces.rotate(grad_turned_THS, layout.cos_TS, layout.sin_TS, inverse=True)
        else:
            turned = [self._pieces.rotate(x, layout.cos_TS, layout.sin_TS, inverse=True) for x in turned]
        if self._head_norms:
            both = zip(turned, self._both(self._parts(kept.qkv_TO)[0]), self._head_norms, strict=True)
            turned = [self._pieces.rms_norm_backward(grad, x, *norm) for grad, x, norm in both]
        if turned is not places:
            for place, grad in zip(places, turned, strict=True):
                place.copy_(grad)
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
