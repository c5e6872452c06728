r"""Linear layers that read the same input, as one product, with their adapters.

    W = [Wq; Wk; Wv]  (O x I, frozen)      A = [Aq; Ak; Av]  (R x I)      B = s diag(Bq, Bk, Bv)  (O x R)

    forward     z = x A^T             y = z B^T + x W^T
    backward    dz = dy B             dx = dz A + dy W         dA = dz^T x         dB_m = s dy_m^T z_m

The adapter comes first, and W is added inside the matrix product's accumulator (addmm): no pass of its own over y or
dx, and one rounding of the sum. The other way round a young adapter would be lost in 16 bits: y is on the grid of its
format already, and what is less than half a step of that grid does not move it (the same with the residual stream, to
which y is therefore added when it is whole). There is no product for dW: W is frozen. Of the forward pass only z is
kept; x is what the caller has anyway.

The frozen weights are read from the model's own layers. Weights of 4 bits are unpacked to the compute format, with the
values of bitsandbytes: once for the whole run where memory allows (`keep`), else before each use into a shared buffer.
Weights of 8-bit floats are multiplied as they are; `keep` is then whether their transpose, which CUDA wants for dx, is
held besides (see `luthier.model.lean.fp8`).

Shape letters: T tokens, I inputs, O outputs of all members, R ranks of all members.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn

from luthier.model.lean.fp8 import FP8Linear, dequantize, product
from luthier.model.lean.gradients import Room
from luthier.model.lean.pieces import PLAIN, Pieces

Buffers = dict[tuple[int, int], Tensor]
"""Room for one unpacked weight of each shape, shared by all layers."""


@dataclass(frozen=True)
class Build:
    """How the products of a model are made.

    Attributes:
        dtype: What they compute in.
        keep: Whether weights of 4 bits are held unpacked (those of 8-bit floats also transposed).
        buffers: Of all layers.
        pieces: Kernels, or plain torch.
        adapter: Which of the adapters on the model; None: none of them.
        held: Weights that are stacked already, by the `id` of a stack's first frozen layer: another adapter's stacks on
            the same model share them.
    """

    dtype: torch.dtype
    keep: bool
    buffers: Buffers
    pieces: Pieces = PLAIN
    adapter: str | None = "default"
    held: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class Member:
    """One of the stacked layers.

    Attributes:
        base: The frozen layer: `nn.Linear`, bitsandbytes' `Linear4bit`, or `FP8Linear`.
        outputs: Its rows in the stacked output.
        lora_A, lora_B: The adapter's trained matrices (r x I and out x r); None without one.
        scaling: Factor on the adapter's output.
        ranks: Its columns in the stacked z.
    """

    base: Any
    outputs: slice
    lora_A: nn.Parameter | None
    lora_B: nn.Parameter | None
    scaling: float
    ranks: slice


class StackedLinear:
    """Layers with the same input as one product. Holds no parameters of its own but a copy of the adapters' values.

    Attributes:
        copies: Each of `parameters()`, where its values are copied to, and the factor on them.
    """

    def __init__(self, modules: list[Any], build: Build) -> None:
        self.members = _members(modules, build.adapter)
        self.dtype, self._buffers, self._pieces = build.dtype, build.buffers, build.pieces
        bases = [member.base for member in self.members]
        self.shape = (self.members[-1].outputs.stop, bases[0].in_features)
        self._weight_OI: Tensor | None = None
        self._hold(build)
        biases = [base.bias for base in bases]
        self.bias_O = None if biases[0] is None else torch.cat([b.detach().to(self.dtype) for b in biases])
        self.adapted = [member for member in self.members if member.lora_A is not None]
        self.rank = self.members[-1].ranks.stop
        if self.adapted:
            device = self.parameters()[0].device
            self.down_RI = torch.empty(self.rank, self.shape[1], dtype=self.dtype, device=device)
            self.up_OR = torch.zeros(self.shape[0], self.rank, dtype=self.dtype, device=device)
        self.copies = [copy for member in self.adapted for copy in self._copies_of(member)]
        self.refresh()

    def parameters(self) -> list[nn.Parameter]:
        """The trained matrices: those of each adapted member, A before B."""
        return [p for m in self.adapted for p in (m.lora_A, m.lora_B) if p is not None]

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the adapters' values: to be called after they changed."""
        for p, place, factor in self.copies:
            torch.mul(p, factor, out=place)

    def forget_unpacked(self) -> None:
        """Unpack 4-bit weights at each use from now on."""
        if isinstance(self.members[0].base, bitsandbytes.nn.Linear4bit):
            self._weight_OI = None

    def weight(self) -> Tensor:
        """The frozen weights (O x I) in the compute format."""
        if self._weight_OI is not None:
            return self._weight_OI
        buffer = self._buffers.get(self.shape)
        if buffer is None:
            buffer = self._buffers[self.shape] = self._room()
        return self._filled(buffer)

    def forward(self, x_TI: Tensor) -> tuple[Tensor, Tensor | None]:
        """y, and the z that `backward` asks for."""
        z_TR = x_TI @ self.down_RI.T if self.rank else None
        y_TO = self._with_weight(x_TI, z_TR)
        return y_TO if self.bias_O is None else y_TO.add_(self.bias_O), z_TR

    def backward(
        self, grad_TO: Tensor, x_TI: Tensor, z_TR: Tensor | None, room: Room, *, to_input: bool = True
    ) -> Tensor | None:
        """Gradient of x (None unless `to_input`); what belongs to `parameters()` is written into `room`."""
        grad_TI, grad_z_TR = self.backward_to_input(grad_TO, to_input=to_input)
        self.backward_to_adapters(grad_TO, grad_z_TR, x_TI, z_TR, room)
        return grad_TI

    def backward_to_input(self, grad_TO: Tensor, *, to_input: bool = True) -> tuple[Tensor | None, Tensor | None]:
        """The first half of `backward`, for which x need not be there: gradients of x and z."""
        grad_z_TR = grad_TO @ self.up_OR if self.rank else None
        return self._back_through_weight(grad_TO, grad_z_TR) if to_input else None, grad_z_TR

    def backward_to_adapters(
        self, grad_TO: Tensor, grad_z_TR: Tensor | None, x_TI: Tensor, z_TR: Tensor | None, room: Room
    ) -> None:
        """The second half: what belongs to `parameters()`, written into `room`."""
        if grad_z_TR is None or z_TR is None:
            return
        torch.mm(grad_z_TR.T, x_TI, out=room.down_RI)
        for block in room.ups:
            torch.mm(grad_TO[:, block.outputs].T, z_TR[:, block.ranks], out=block.grad_OR)

    def _copies_of(self, member: Member) -> list[tuple[nn.Parameter, Tensor, float]]:
        assert member.lora_A is not None and member.lora_B is not None
        up = self.up_OR[member.outputs, member.ranks]
        return [(member.lora_A, self.down_RI[member.ranks], 1.0), (member.lora_B, up, member.scaling)]

    def _hold(self, build: Build) -> None:
        base = self.members[0].base
        if build.keep or not isinstance(base, bitsandbytes.nn.Linear4bit):
            held = build.held.get(id(base))
            self._weight_OI = build.held[id(base)] = self._stack() if held is None else held

    def _with_weight(self, x_TI: Tensor, z_TR: Tensor | None) -> Tensor:
        """The adapter's share, with x W^T added to it."""
        weight_IO = self.weight().T
        return x_TI @ weight_IO if z_TR is None else (z_TR @ self.up_OR.T).addmm_(x_TI, weight_IO)

    def _back_through_weight(self, grad_TO: Tensor, grad_z_TR: Tensor | None) -> Tensor:
        weight_OI = self.weight()
        return grad_TO @ weight_OI if grad_z_TR is None else (grad_z_TR @ self.down_RI).addmm_(grad_TO, weight_OI)

    def _stack(self) -> Tensor:
        """All weights in one tensor. Layers that are not packed become views of it, so that nothing is held twice."""
        bases = [member.base for member in self.members]
        if len(bases) == 1 and type(bases[0]) is nn.Linear:
            return bases[0].weight.detach()
        weight_OI = self._filled(self._room())
        for member in self.members:
            if type(member.base) is nn.Linear:
                member.base.weight.data = weight_OI[member.outputs]
        return weight_OI

    def _room(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=self.members[0].base.weight.device)

    @torch.no_grad()
    def _filled(self, room_OI: Tensor) -> Tensor:
        for member in self.members:
            self._pieces.unpack(member.base, room_OI[member.outputs])
        return room_OI


class FP8StackedLinear(StackedLinear):
    """The same with frozen weights of 8-bit floats; what they are multiplied with is rounded to such floats too.

    Their products add nothing to what is there, so the adapter comes after them and is rounded twice.
    """

    _weight8_OI: Tensor
    _scale_O: Tensor
    _ones_I: Tensor
    _kept_IO: Tensor | None

    def forget_unpacked(self) -> None:
        """Transpose at each use from now on."""
        self._kept_IO = None

    def weight(self) -> Tensor:
        """What the frozen weights stand for (O x I), in the compute format."""
        return dequantize(self._weight8_OI, self._scale_O[:, None], self.dtype)

    def _hold(self, build: Build) -> None:
        bases = [member.base for member in self.members]
        self._weight8_OI, self._scale_O = bases[0].weight.detach(), bases[0].scale_O
        if len(bases) > 1:
            self._weight8_OI, self._scale_O = (
                x.new_empty(self.shape[: x.ndim]) for x in (self._weight8_OI, self._scale_O)
            )
            for member in self.members:
                self._scale_O[member.outputs] = member.base.scale_O
                self._weight8_OI[member.outputs] = member.base.weight.detach()
                member.base.weight.data = self._weight8_OI[member.outputs]  # a view, so that nothing is held twice
        self._ones_I = torch.ones(self.shape[1], device=self._scale_O.device)
        self._kept_IO = self._weight8_OI.T.contiguous() if build.keep and self._weight8_OI.is_cuda else None

    def _with_weight(self, x_TI: Tensor, z_TR: Tensor | None) -> Tensor:
        if not FP8Linear.rounds:
            return super()._with_weight(x_TI, z_TR)
        rounded = self._pieces.quantize_rows(x_TI)
        y_TO = product(*rounded, self._weight8_OI, self._scale_O, self.dtype, fast=True)
        return y_TO if z_TR is None else y_TO.addmm_(z_TR, self.up_OR.T)

    def _back_through_weight(self, grad_TO: Tensor, grad_z_TR: Tensor | None) -> Tensor:
        rounded = self._pieces.quantize_rows(grad_TO, self._scale_O)
        grad_TI = product(*rounded, self._transposed(), self._ones_I, self.dtype, fast=False)
        return grad_TI if grad_z_TR is None else grad_TI.addmm_(grad_z_TR, self.down_RI)

    def _transposed(self) -> Tensor:
        """I x O; on CUDA laid out so."""
        if self._kept_IO is not None:
            return self._kept_IO
        if not self._weight8_OI.is_cuda:
            return self._weight8_OI.T
        size = self.shape[::-1]
        if size not in self._buffers:
            self._buffers[size] = self._weight8_OI.new_empty(size)
        return self._buffers[size].copy_(self._weight8_OI.T)


def stacked(modules: list[Any], build: Build) -> StackedLinear:
    """The layers as one product, whatever their frozen weights are kept in."""
    in_8_bits = isinstance(getattr(modules[0], "base_layer", modules[0]), FP8Linear)
    return (FP8StackedLinear if in_8_bits else StackedLinear)(modules, build)


def _members(modules: list[Any], adapter: str | None) -> list[Member]:
    members: list[Member] = []
    row = rank = 0
    for module in modules:
        base = getattr(module, "base_layer", module)
        lora_A = lora_B = None
        scaling, size = 1.0, 0
        if adapter in getattr(module, "lora_A", ()):
            lora_A, lora_B = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            scaling, size = float(module.scaling[adapter]), lora_A.shape[0]
        outputs, ranks = slice(row, row + base.out_features), slice(rank, rank + size)
        members.append(Member(base, outputs, lora_A, lora_B, scaling, ranks))
        row, rank = outputs.stop, ranks.stop
    return members
