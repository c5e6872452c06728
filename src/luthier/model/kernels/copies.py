r"""Many matrices copied to other places, into another format and times a factor each, in one launch.

    target[r, c] = source[r, c] scale factor            factor: a matrix's own; scale: of all, on the device, or none

A program copies one tile. Where that lies is a line of a table on the device, so nothing is searched for; where sources
move, the table is written anew in place, and a recorded launch reads what it says then. All tiles have one shape: as
wide as the widest matrix whose rows lie apart (B in its stack: a rank of numbers, then those of other members), and as
high as fits. A matrix that is one piece on both sides (A) is cut into lines of that width.

Not covered: sources of several formats; rows whose numbers lie apart.

Shape letters: R rows, C columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options, wide

_TILE = 4096
_NARROWEST, _WIDEST = 16, 256
_TOGETHER = 8
"""Numbers that a thread moves at once: 16 bytes of 16-bit floats."""


class Copies:
    """The same matrices, copied as often as they are wanted.

    Args:
        sources_RC: Matrices of one format on one device.
        targets_RC: Where each of them goes: in one format, maybe another one, and rows of any stride.
        factors: On each.
        base: What the targets' places are counted from; they lie around it or are views of it.

    Raises:
        ValueError: The numbers of a row do not lie together.
    """

    def __init__(
        self, sources_RC: Sequence[Tensor], targets_RC: Sequence[Tensor], factors: Sequence[float], base: Tensor
    ) -> None:
        if any(x.stride(1) != 1 < x.shape[1] for x in (*sources_RC, *targets_RC)):
            raise ValueError("numbers of a row must lie together")
        self._matrices = [
            _Matrix(len(source), source.shape[1], source.stride(0), _apart(target, base), target.stride(0), factor)
            for source, target, factor in zip(sources_RC, targets_RC, factors, strict=True)
        ]
        widest = max((x.columns for x in self._matrices if not x.is_one_piece), default=_WIDEST)
        self._columns = min(_WIDEST, max(_NARROWEST, triton.next_power_of_2(widest)))
        self._table = torch.empty(0, 7, dtype=torch.int64, device=base.device)
        self.find(sources_RC)

    def find(self, sources_RC: Sequence[Tensor]) -> None:
        """Read the matrices at other places from now on, of the same shapes and strides.

        The table comes from the host, so this is not for a pass that is being recorded.
        """
        self._format = sources_RC[0].dtype
        size, rows = self._format.itemsize, _TILE // self._columns
        lines = [
            line
            for source, matrix in zip(sources_RC, self._matrices, strict=True)
            for line in matrix.tiles(source.data_ptr(), size, rows, self._columns)
        ]
        table = torch.tensor(lines, dtype=torch.int64).view(-1, 7)
        if len(table) == len(self._table):
            self._table.copy_(table)
        else:
            self._table = table.to(self._table.device)
        places = (number for address, *numbers, _, _ in lines for number in (address // size, *numbers))
        self._together = gcd(_TOGETHER, *places)

    def run(self, base: Tensor, scale: Tensor | None = None) -> None:
        """Copy them, times `scale` (a scalar tensor), to their places around `base`: that of before, or one like it."""
        if len(self._table):
            _copy[(len(self._table),)](
                self._table, base, base if scale is None else scale,
                SOURCE=getattr(tl, str(self._format).removeprefix("torch.")), SCALED=scale is not None,
                WIDE=wide(torch.promote_types(self._format, base.dtype)), TOGETHER=self._together,
                ROWS=_TILE // self._columns, BLOCK=self._columns, **options(_TILE),
            )  # fmt: skip


@dataclass(frozen=True)
class _Matrix:
    """Its shape and factor, the strides of its rows at source and target, and how far the target is from the base."""

    rows: int
    columns: int
    stride: int
    target: int
    target_stride: int
    factor: float

    @property
    def is_one_piece(self) -> bool:
        return self.stride == self.target_stride == self.columns

    def tiles(self, address: int, size: int, rows: int, columns: int) -> Iterator[tuple[int, ...]]:
        """Lines of the table: source's address, target's place, both strides, columns, rows, and the factor's bits.

        Args:
            address: Of the source.
            size: Bytes of a number there.
            rows: Of a tile.
            columns: Of a tile.
        """
        (bits,) = struct.unpack("q", struct.pack("d", self.factor))
        strides = (self.stride, self.target_stride)
        parts = [(at, self.rows, min(columns, self.columns - at)) for at in range(0, self.columns, columns)]
        if self.is_one_piece:
            lines, rest = divmod(self.rows * self.columns, columns)
            strides = (columns, columns)
            parts = [(0, lines, columns), (lines * columns, int(rest > 0), rest)]
        for start, high, broad in parts:
            for row in range(0, high, rows):
                from_, to = (start + row * stride for stride in strides)
                yield address + from_ * size, self.target + to, *strides, broad, min(rows, high - row), bits


def _apart(x: Tensor, base: Tensor) -> int:
    return (x.data_ptr() - base.data_ptr()) // base.itemsize


@triton.jit
def _copy(
    table, base, scale,
    SOURCE: tl.constexpr, SCALED: tl.constexpr, WIDE: tl.constexpr, TOGETHER: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    line = table + tl.program_id(0) * 7
    source = tl.load(line).to(tl.pointer_type(SOURCE))
    target = base + tl.multiple_of(tl.load(line + 1), TOGETHER)
    stride, target_stride = tl.load(line + 2), tl.multiple_of(tl.load(line + 3), TOGETHER)
    columns, rows = tl.multiple_of(tl.load(line + 4), TOGETHER), tl.load(line + 5)
    factor = tl.load(line + 6).to(tl.float64, bitcast=True).to(WIDE)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    there = (row < rows) & (column < columns)
    # nothing is known of an address that was a number, unless it is said
    place = tl.multiple_of(source + row * stride + column, [1, TOGETHER * SOURCE.primitive_bitwidth // 8])
    numbers = tl.load(place, mask=there, other=0.0).to(WIDE)
    if SCALED:
        numbers *= tl.load(scale).to(WIDE)
    tl.store(target + row * target_stride + column, numbers * factor, mask=there)
