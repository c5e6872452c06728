"""Which pieces the lean path takes: Triton's kernels where they can run, plain torch everywhere else.

This is the only place that decides. Kernels run on CUDA where triton can be imported; whether they also give the
model's own numbers there, `luthier.model.lean.proof` finds out before the first step (`luthier.model.load`).
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from luthier.model.lean.pieces import PLAIN, Pieces
from luthier.model.lean.pieces import unpack as plain_unpack


def candidates(device: torch.device, wanted: bool) -> tuple[Pieces, ...]:
    """What to try on this device, best first; the last is always plain torch.

    Args:
        device: Where the model is.
        wanted: `training.kernels`.
    """
    runs = wanted and device.type == "cuda" and torch.version.hip is None
    return (triton_pieces(), PLAIN) if runs and importlib.util.find_spec("triton") else (PLAIN,)


@cache
def triton_pieces() -> Pieces:
    """The kernels. Importing them needs triton; running them a CUDA device, or Triton's interpreter."""
    from luthier.model.kernels import adamw, attention, copies, fp8, gate, loss, norm, rope

    return Pieces(
        name="triton",
        rms_norm=norm.rms_norm,
        add_rms_norm=norm.add_rms_norm,
        rms_norm_backward=norm.rms_norm_backward,
        rotate=rope.rotate,
        rotates_in_place=True,
        swiglu=gate.swiglu,
        swiglu_backward=gate.swiglu_backward,
        unpack=_unpack,
        quantize_rows=fp8.quantize_rows,
        cross_entropy=loss.cross_entropy,
        attention=(attention.attend, attention.attend_backward),
        adamw=adamw.adamw,
        copies=copies.Copies,
    )


def _unpack(base: Any, out: Tensor) -> None:
    from luthier.model.kernels import nf4

    state = getattr(base.weight, "quant_state", None)
    if nf4.fits(state, out):
        nf4.unpack(base.weight.data, state, out)
    else:
        plain_unpack(base, out)
