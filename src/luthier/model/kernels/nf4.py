r"""Frozen 4-bit weights to the compute format in one pass, with the values that bitsandbytes gives.

    w[i] = table[nibble i] * a[i / 64]                                  nibbles: the high half of a byte comes first
    a[j] = table8[byte j] * b[j / 256] + mean                           when the constants are quantized too (QLoRA)

bitsandbytes unpacks the constants in a pass of its own, and its result is copied to its place in the stack; here it is
written there. Products and sums are rounded one by one (no fused multiply-add), as they are there.

Source: Dettmers et al. 2023; bitsandbytes' `dequantize_4bit`. Not covered: the FP4 format.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from luthier.model.kernels.launch import options

_BLOCK = 1024


def fits(state: Any, out: Tensor) -> bool:
    """Whether `unpack` gives bitsandbytes' values for weights with this quantization state."""
    return state is not None and state.quant_type == "nf4" and state.dtype is out.dtype and out.is_contiguous()


def unpack(packed: Tensor, state: Any, out: Tensor) -> None:
    """Write the weights into `out`, which is contiguous and in the format of `state.dtype`.

    Args:
        packed: uint8, two weights in each.
        state: bitsandbytes' `QuantState`, with or without quantized constants.
        out: Of the weights' shape.
    """
    count = out.numel()
    if not count:
        return
    nested = state.state2 if state.nested else state
    _unpack[(triton.cdiv(count, _BLOCK),)](
        packed, state.code, state.absmax, nested.code, nested.absmax, state.offset if state.nested else state.absmax,
        out, count,
        GROUP=state.blocksize, GROUP2=nested.blocksize, NESTED=bool(state.nested), BLOCK=_BLOCK,
        **options(_BLOCK, fuse=False),
    )  # fmt: skip


@triton.jit
def _unpack(
    packed, table, constants, table8, constants8, mean, out, count,
    GROUP: tl.constexpr, GROUP2: tl.constexpr, NESTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < count
    byte = tl.load(packed + place // 2, mask=there, other=0).to(tl.int32)
    nibble = tl.where(place % 2 == 0, byte >> 4, byte & 15)
    group = place // GROUP
    if NESTED:
        code = tl.load(constants + group, mask=there, other=0).to(tl.int32)
        scale = tl.load(table8 + code, mask=there, other=0.0)
        scale = scale * tl.load(constants8 + group // GROUP2, mask=there, other=0.0)
        scale = scale + tl.load(mean)
    else:
        scale = tl.load(constants + group, mask=there, other=0.0)
    tl.store(out + place, tl.load(table + nibble, mask=there, other=0.0) * scale, mask=there)
