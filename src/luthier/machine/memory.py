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
from contextlib import suppress

import torch

_TEXTS = (
    "can't allocate memory",
    "bad_alloc",
    "Unable to allocate",
    "could not create a memory object",
    "out of memory",
    "STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or on another rank."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in _TEXTS)
    return bool(getattr(error, "out_of_memory", False))  # `luthier.machine.ranks.OtherRankError`, which imports this


def free_memory() -> None:
    """Give back what nobody holds any more: a model that is done with, or what a pass that failed has left behind."""
    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # torch does without, and what comes next may fit all the same
            torch.cuda.empty_cache()
