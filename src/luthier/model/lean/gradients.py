r"""The gradients of all adapters: where the products write them, and the one buffer that parameters get views of.

    rooms  = dA, dB of each stack                in the compute format, as matrix products write it
    result = [ scale dA, scale s dB, ... ]       in the parameters' format; s: each adapter's own factor

The result is new at each call; the rooms are written over by the next pass. In the result matrices of one shape lie
together, so that few calls cut it. Where a kernel fetches them, dB of all members of a stack is one product, of which
it reads the blocks on the diagonal (dB_m = dy_m^T z_m): members one by one would each be a small launch.

Shape letters: I inputs, O outputs and R ranks of all members of a stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.model.lean.pieces import PLAIN, Pieces

if TYPE_CHECKING:
    from luthier.model.lean.linears import Member, StackedLinear

MOST_RANKS = 192
"""Of a stack whose dB is one product: up to about there it takes as long as reading dy, whatever is not used of it."""


@dataclass(frozen=True)
class Block:
    """The product dy^T z of some outputs and ranks of a stack, without any factor."""

    outputs: slice
    ranks: slice
    grad_OR: Tensor

    def of(self, member: Member) -> Tensor:
        """A member's own rows and columns."""
        row, rank = self.outputs.start, self.ranks.start
        outputs, ranks = member.outputs, member.ranks
        return self.grad_OR[outputs.start - row : outputs.stop - row, ranks.start - rank : ranks.stop - rank]


@dataclass(frozen=True)
class Room:
    """Where one stack writes its gradients.

    Attributes:
        down_RI: Of the stacked A.
        ups: Of B: each adapted member's, or all of them as one block.
    """

    down_RI: Tensor
    ups: tuple[Block, ...]


class Gradients:
    """Those of all stacks of a model.

    Attributes:
        rooms: One for each stack, in their order.
    """

    def __init__(self, stacks: Sequence[StackedLinear], pieces: Pieces = PLAIN) -> None:
        parameters = [p for stack in stacks for p in stack.parameters()]
        self._formats = [p.dtype for p in parameters]
        self._kernel = pieces.copies if len(set(self._formats)) == 1 else None
        self._copies: Any = None
        self.rooms = [_room(stack, joint=self._kernel is not None) for stack in stacks]
        self._parts = [
            part
            for stack, room in zip(stacks, self.rooms, strict=True)
            for member, block in zip(stack.adapted, cycle(room.ups), strict=False)
            for part in (room.down_RI[member.ranks], block.of(member))
        ]
        self._factors = [factor for stack in stacks for *_, factor in stack.copies]
        self._device = parameters[0].device
        self._numbers: dict[torch.Size, list[int]] = {}  # of the parameters of each shape
        for number, p in enumerate(parameters):
            self._numbers.setdefault(p.shape, []).append(number)

    def scaled(self, scale: Tensor) -> list[Tensor]:
        """Gradients of all parameters, A before B, stack by stack: what lies in the rooms times `scale` (a scalar)."""
        # in the parameters' own format: in 16 bits the factor itself would be rounded
        sizes = [len(numbers) * shape.numel() for shape, numbers in self._numbers.items()]
        flat = torch.empty(sum(sizes), dtype=self._formats[0], device=self._device)
        views = [flat] * len(self._formats)
        for piece, (shape, numbers) in zip(torch.split(flat, sizes), self._numbers.items(), strict=True):
            for number, view in zip(numbers, piece.view(-1, *shape).unbind(), strict=True):
                views[number] = view
        if self._kernel is None:
            torch._foreach_copy_(views, self._parts)
            flat.mul_(scale)
            torch._foreach_mul_(views[1::2], self._factors[1::2])  # that of A is 1
            return [x.to(dtype) for x, dtype in zip(views, self._formats, strict=True)]
        if self._copies is None:
            self._copies = self._kernel(self._parts, views, self._factors, flat)
        self._copies.run(flat, scale)
        return views


def _room(stack: StackedLinear, *, joint: bool) -> Room:
    """Of its own, B in one block where that is wanted and worth it."""
    if not stack.adapted:
        return Room(torch.empty(0), ())
    blocks = [(member.outputs, member.ranks) for member in stack.adapted]
    if joint and stack.rank <= MOST_RANKS:
        blocks = [(slice(blocks[0][0].start, blocks[-1][0].stop), slice(0, stack.rank))]
    down_RI = torch.zeros_like(stack.down_RI)
    sizes = [[part.stop - part.start for part in block] for block in blocks]
    return Room(
        down_RI, tuple(Block(*block, down_RI.new_zeros(size)) for block, size in zip(blocks, sizes, strict=True))
    )
