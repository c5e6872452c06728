"""What all launches share: the format that is computed in, and sizes that are powers of two."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_TILE = 4096
"""Numbers that a program handles at a time, where it may choose."""


def wide(dtype: torch.dtype) -> tl.dtype:
    """The format that `dtype` is computed in."""
    return tl.float64 if dtype is torch.float64 else tl.float32


def tile(columns: int) -> tuple[int, int]:
    """(rows, columns) of a block that holds whole rows: columns padded to a power of two, and as many rows as fit."""
    padded = triton.next_power_of_2(columns)
    return max(1, _TILE // padded), padded


def options(numbers: int, *, fuse: bool = True) -> dict[str, int | bool]:
    """How a block of so many numbers is compiled: its warps, and whether a * b + c may be rounded once."""
    return {"num_warps": min(16, max(1, numbers // 512)), "enable_fp_fusion": fuse}


def rows_of(x: torch.Tensor) -> tuple[int, int, int]:
    """Rows of the last dimension in a (T, D) or (T, G, D) tensor: G, and the strides of T and G.

    Raises:
        ValueError: The last dimension does not lie together, or there are other dimensions.
    """
    if x.stride(-1) != 1 and x.shape[-1] > 1:
        raise ValueError(f"numbers of a row must lie together, not {x.stride(-1)} apart")
    if x.ndim == 2:
        return 1, x.stride(0), 0
    if x.ndim == 3:
        return x.shape[1], x.stride(0), x.stride(1)
    raise ValueError(f"2 or 3 dimensions, not {x.ndim}")
