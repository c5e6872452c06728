"""What this box can do: device, memory, number formats, optional parts."""

from __future__ import annotations

import importlib.util
import os
from typing import Literal

import psutil
import torch

from luthier.config.plan import MachineFacts
from luthier.machine.ranks import world_size

GIB = 2**30


def probe() -> MachineFacts:
    """Look at the machine; touches no network and allocates nothing on the device."""
    device = best_device()
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
        name = cpu_name()
    return MachineFacts(
        device=device,
        device_name=name,
        world_size=world_size(),
        supports_bfloat16=_supports_bfloat16(device),
        memory_gib=total / GIB,
        free_memory_gib=free / GIB,
        cpu_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        has_bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
    )


def best_device() -> Literal["cuda", "cpu", "mps"]:
    """``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: of the device on CUDA, the resident set of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().rss) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (GIB if os.uname().sysname == "Darwin" else 2**20)


def cpu_name() -> str:
    """The processor's model name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def _supports_bfloat16(device: str) -> bool:
    """Whether bfloat16 matrix products run in hardware; emulated ones are slower than float32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
