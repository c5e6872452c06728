"""Whether a failure is that memory ran out, on whatever device and in whatever library; and giving memory back.

torch's allocator for CUDA has a class of exception for it. What allocates beside it, and on a CPU, raises a bare
RuntimeError:

    DefaultCPUAllocator: can't allocate memory        CUDA error: out of memory (torch.AcceleratorError)
    oneDNN: could not create a memory object          CUBLAS_STATUS_ALLOC_FAILED
    std::bad_alloc                                    Triton Error [CUDA]: out of memory

Not covered: the system's own killer, which asks nobody.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
from contextlib import suppress
from functools import cache

import psutil
import torch

_TEXTS = (
    "can't allocate memory",
    "bad_alloc",
    "Unable to allocate",
    "could not create a memory object",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)

_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_PROBE = 32 << 20
"""Bytes that fit into no small piece."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or on another rank."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in _TEXTS)
    return bool(getattr(error, "out_of_memory", False))  # `luthier.machine.ranks.OtherRankError`, which imports this


@cache
def take_what_is_used() -> None:
    """Let torch's allocator grow its pieces of a CUDA device's memory, so that holes between sizes cost little.

    By itself it asks for a piece of each size that no free one fits: a run whose passes have many sizes held more than
    twice what it used at its peak. What a user has set, in the environment or in Python, stays: torch takes settings as
    a whole, and would forget it. So does what a device or its system cannot do: outside of Linux and on AMD torch warns
    of this one, and WSL maps the first pieces and breaks off later ("CUDA driver error: device not ready").
    """
    if sys.platform != "linux" or "microsoft" in platform.release().lower() or torch.version.hip is not None:
        return
    told = getattr(torch._C, "_accelerator_getAllocatorSettings", str)()
    settle = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if settle is None or told or any(os.environ.get(name) for name in _SETTINGS):
        return
    with suppress(RuntimeError):
        torch.cuda.empty_cache()  # the probe is to be a new piece
        settle("expandable_segments:True")
        try:
            torch.empty(_PROBE, dtype=torch.uint8, device="cuda")
        except RuntimeError:  # some virtual devices
            settle("expandable_segments:False")


def unclaimed_bytes(device: torch.device) -> int:
    """What this process may still ask for: of the device's memory on CUDA, of the machine's elsewhere.

    On CUDA a limit that was set for the process counts, and `unused_bytes` do not.
    """
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, total = torch.cuda.mem_get_info(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return min(free, allowed - torch.cuda.memory_reserved(device))


def unused_bytes(device: torch.device) -> int:
    """What torch's allocator holds on a CUDA device and nobody uses; 0 elsewhere."""
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def free_memory() -> None:
    """Give back what nobody holds any more: a model that is done with, or what a pass that failed has left behind."""
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # torch does without, and what comes next may fit all the same
            torch.cuda.empty_cache()
