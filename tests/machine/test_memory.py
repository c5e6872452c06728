"""What counts as memory that ran out."""

from __future__ import annotations

import platform

import pytest
import torch

from luthier.machine.memory import is_out_of_memory, take_what_is_used
from luthier.machine.ranks import OtherRankError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a memory object"),
        OtherRankError("rank 1 ran out of memory", out_of_memory=True),
    ],
)
def test_memory_that_ran_out(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("out of resource: shared memory, Required: 106496, Hardware limit: 101376"),
        RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"),
        ValueError("out of memory"),
        OtherRankError("rank 1 has failed"),
    ],
)
def test_what_is_something_else(error):
    assert not is_out_of_memory(error)


def test_the_allocator_of_the_cpu_is_recognised():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)


def test_what_a_user_has_told_the_allocator_stays():
    """In Python too: torch forgets all settings that are not among the new ones."""
    ask, tell = torch._C._accelerator_getAllocatorSettings, torch._C._accelerator_setAllocatorSettings
    before = ask()
    tell("max_split_size_mb:64")
    try:
        take_what_is_used.__wrapped__()
        assert ask() == "max_split_size_mb:64"
    finally:
        tell(before)


def test_on_wsl_the_allocator_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(platform, "release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    before = torch._C._accelerator_getAllocatorSettings()
    take_what_is_used.__wrapped__()
    assert torch._C._accelerator_getAllocatorSettings() == before
