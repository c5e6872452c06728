"""Kernels against their plain references: on the CPU in Triton's interpreter, with `-m gpu` on the device."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# largest difference, in units of the reference's largest number; the interpreter cuts bfloat16 off, a GPU rounds it
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-8 if ON_GPU else 2**-7}
dtypes = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))

there = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(
        not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a CUDA device, or the interpreter"
    ),
]


def pytestmark() -> list[Any]:
    """Marks of a module of such tests: a run with `-m gpu` wants them all, a run without a GPU too."""
    return [*there, pytest.mark.gpu] if ON_GPU else there


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).to(DEVICE)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    """Finite, of one shape, and nowhere further apart than a share of the largest number."""
    assert found.shape == wanted.shape
    assert torch.isfinite(found).all()
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    assert float((found.double() - wanted.double()).abs().max() if found.numel() else 0.0) <= tolerance * largest
