"""4-bit weights on a CPU, unpacked rightly where bitsandbytes does not.

bitsandbytes keeps one scale for every 64 weights, counted through the whole matrix. Its kernel for AVX-512 (seen in
0.50.2) begins to count anew in each row. Where a row is no whole number of blocks, as of 96 or 160 inputs, most weights
get the scale of others: nothing fails, and the matrix is off by a quarter of its size where 4 bits cost a tenth.

The same bytes read as a matrix with one block in each row come out right, so that is how they are read. What asks for
them, bitsandbytes' layers, peft's and the lean path's, need not know.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from math import prod
from threading import Lock

import bitsandbytes
import torch
from torch import Tensor

_NAME = "dequantize_4bit"
_one_at_a_time = Lock()
_ON_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
# what it replaces lasts as long as it does
_library = torch.library.Library("bitsandbytes", "IMPL")  # type: ignore[no-untyped-call]


def unpack_rightly() -> bool:
    """Try the operator on rows of one and a half blocks, and put another in its place if it fails; once a process.

    Returns:
        Whether it did fail.
    """
    with _one_at_a_time:
        return _unpack_rightly()


@cache
def _unpack_rightly() -> bool:
    weight = torch.linspace(-1, 1, 2 * 96).square().view(2, 96)
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    by_rows, by_blocks = (
        torch.ops.bitsandbytes.dequantize_4bit(packed, state.absmax, 64, "nf4", shape, torch.float32)
        for shape in ((2, 96), (3, 64))
    )
    if torch.equal(by_rows.flatten(), by_blocks.flatten()):
        return False
    theirs = torch.library.get_kernel(f"bitsandbytes::{_NAME}", "CPU")

    def ours(
        packed: Tensor, absmax: Tensor, blocksize: int, quant_type: str, shape: Sequence[int], dtype: torch.dtype
    ) -> Tensor:
        def unpack(packed: Tensor, absmax: Tensor, rows: Sequence[int]) -> Tensor:
            unpacked: Tensor = theirs.call_boxed(_ON_CPU, packed, absmax, blocksize, quant_type, list(rows), dtype)
            return unpacked

        if shape[-1] % blocksize == 0:
            return unpack(packed, absmax, shape)
        (blocks, rest), flat = divmod(prod(shape), blocksize), packed.reshape(-1).view(torch.uint8)
        cut = blocks * blocksize // 2  # two weights a byte
        parts = [unpack(flat[:cut], absmax[:blocks], (blocks, blocksize))] if blocks else []
        parts += [unpack(flat[cut:], absmax[blocks:], (1, rest))] if rest else []
        return torch.cat([part.flatten() for part in parts]).view(list(shape))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that a kernel is being replaced
        _library.impl(_NAME, ours, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
    return True
