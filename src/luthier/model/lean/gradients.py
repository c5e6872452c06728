r"""The gradients of all adapters in one buffer, so that a few kernels scale them, however many matrices there are.

    buffer = [ dA of all stacks | dB of all stacks ]        in the compute format, as matrix products write it
    result = [ scale dA | scale s dB ]                      in the parameters' format; s: each adapter's own factor

The result is new at each call, and parameters get views of it; the buffer is written over by the next pass. Where a
kernel copies them one by one, matrices of one shape lie together in the result, so that few calls cut it.

Shape letters: I inputs, R ranks of all members of a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.model.lean.pieces import PLAIN, Pieces

if TYPE_CHECKING:
    from luthier.model.lean.linears import StackedLinear


@dataclass(frozen=True)
class Room:
    """Where one stack writes its gradients.

    Attributes:
        down_RI: Of the stacked A.
        ups: Of each adapted member's B, without its factor.
    """

    down_RI: Tensor
    ups: tuple[Tensor, ...]


class Gradients:
    """Those of all stacks of a model.

    Attributes:
        rooms: One for each stack, in their order.
    """

    def __init__(self, stacks: Sequence[StackedLinear], pieces: Pieces = PLAIN) -> None:
        adapted = [stack for stack in stacks if stack.adapted]
        downs = [stack.down_RI.shape for stack in adapted]
        ups = [p.shape for stack in adapted for p in stack.parameters()[1::2]]
        self._shapes = [*downs, *ups]
        self._sizes = [shape.numel() for shape in self._shapes]
        self._boundary = sum(self._sizes[: len(downs)])
        like = adapted[0].down_RI
        self._buffer = torch.zeros(sum(self._sizes), dtype=like.dtype, device=like.device)
        views = self._views(self._buffer)
        self.rooms: list[Room] = []
        self._members: list[tuple[int, slice, int, torch.dtype]] = []  # A's stack and rows, B's view, format
        down, up = 0, len(downs)
        for stack in stacks:
            count = len(stack.adapted)
            self.rooms.append(Room(views[down] if count else like[:0], tuple(views[up : up + count])))
            for member, p in zip(stack.adapted, stack.parameters()[::2], strict=True):
                self._members.append((down, member.ranks, up, p.dtype))
                up += 1
            down += bool(count)
        self._dtype = self._members[0][3]
        self._factors = _joined([m.scaling for stack in adapted for m in stack.adapted], self._sizes[len(downs) :])
        self._result: _Result | None = None
        parameters = [p for stack in adapted for p in stack.parameters()]
        if pieces.copies is not None and all(p.dtype is self._dtype for p in parameters):
            factors = [factor for stack in adapted for *_, factor in stack.copies]
            self._result = _Result(self._parts(views), parameters, factors, pieces.copies)

    def scaled(self, scale: Tensor) -> list[Tensor]:
        """Gradients of all parameters, A before B, stack by stack: what lies in the buffer times `scale` (a scalar)."""
        if self._result is not None:
            return self._result.new(scale)
        # in the parameters' own format: in 16 bits the factor itself would be rounded
        flat = self._buffer.to(self._dtype, copy=True).mul_(scale)
        for place, factor in self._factors:
            flat[self._boundary :][place].mul_(factor)
        formats = (dtype for *_, dtype in self._members for _ in "AB")
        return [x.to(dtype) for x, dtype in zip(self._parts(self._views(flat)), formats, strict=True)]

    def _views(self, flat: Tensor) -> list[Tensor]:
        return [v.view(shape) for v, shape in zip(torch.split(flat, self._sizes), self._shapes, strict=True)]

    def _parts(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Each parameter's, of views of all."""
        return [x for down, rows, up, _ in self._members for x in (views[down][rows], views[up])]


class _Result:
    """Makes the result anew, with a kernel that copies many matrices in one launch.

    Args:
        parts: Where each parameter's gradient lies in the buffer.
        like: The parameters.
        factors: On each.
        kernel: `Pieces.copies`.
    """

    def __init__(
        self, parts: list[Tensor], like: Sequence[Tensor], factors: Sequence[float], kernel: Callable[..., Any]
    ) -> None:
        self._parts, self._factors, self._kernel = parts, factors, kernel
        self._like = like[0]
        self._shapes = list(dict.fromkeys(p.shape for p in like))
        order = sorted(range(len(like)), key=lambda number: self._shapes.index(like[number].shape))
        self._places = [order.index(number) for number in range(len(like))]
        self._sizes = [sum(p.numel() for p in like if p.shape == shape) for shape in self._shapes]
        self._copies: Any = None

    def new(self, scale: Tensor) -> list[Tensor]:
        """The parameters' gradients times `scale`."""
        flat = torch.empty(sum(self._sizes), dtype=self._like.dtype, device=self._like.device)
        pieces = zip(torch.split(flat, self._sizes), self._shapes, strict=True)
        views = [view for piece, shape in pieces for view in piece.view(-1, *shape).unbind()]
        views = [views[place] for place in self._places]
        if self._copies is None:
            self._copies = self._kernel(self._parts, views, self._factors, flat)
        self._copies.run(flat, scale)
        return views


def _joined(factors: Sequence[float], sizes: Sequence[int]) -> list[tuple[slice, float]]:
    """Neighbours with one factor as one piece; none where it is 1."""
    pieces: list[tuple[slice, float]] = []
    start = 0
    for factor, size in zip(factors, sizes, strict=True):
        if pieces and pieces[-1][1] == factor:
            pieces[-1] = (slice(pieces[-1][0].start, start + size), factor)
        else:
            pieces.append((slice(start, start + size), factor))
        start += size
    return [(place, factor) for place, factor in pieces if factor != 1.0]
