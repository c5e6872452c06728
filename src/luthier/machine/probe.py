"""What this box can do: device, memory, number formats, optional parts."""

from __future__ import annotations

import importlib.util
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil
import torch

from luthier.config.plan import MachineFacts
from luthier.machine import GIB, cores
from luthier.machine.cards import computes_bfloat16, multiplies_fp8
from luthier.machine.ranks import world_size


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
        cpu_cores=cores(),
        has_bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
        supports_fp8=_supports_fp8(device),
    )


def best_device() -> Literal["cuda", "cpu", "mps"]:
    """``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


_peak_before = 0.0
"""Highest resident set that was seen, or that the kernel was told to forget, GiB."""


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory so far in GiB: of the device on CUDA, the resident set of this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    global _peak_before
    _peak_before = max(_peak_before, _resident_peak_gib())  # the kernel counts in steps, and may take one back
    return _peak_before


def resident_gib() -> float:
    """Resident set of this process now."""
    return float(psutil.Process().memory_info().rss) / GIB


class PeakMeter:
    """Peak memory of a `with` block.

    On a CPU the kernel's own high-water mark, set back at the beginning (Linux: 5 into /proc/self/clear_refs); where
    that cannot be done, a thread that looks every few milliseconds. On CUDA the allocator's mark since the process
    began: it is not set back, because a `Log` reports it.

    Attributes:
        gib: The peak, after the block.
        method: Whose count it is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0.0
        self._sampler: _Sampler | None = None
        self.gib = 0.0
        self.method = "the allocator's mark (max_memory_allocated)" if device.type == "cuda" else ""

    @property
    def is_of_the_block(self) -> bool:
        """Whether the peak was in it: on CUDA the mark may be older, of an earlier run of this process too."""
        return self.gib > self._before

    def __enter__(self) -> PeakMeter:
        if self._device.type == "cuda":
            self._before = peak_memory_gib(self._device)
        elif _forget_peak():
            self.method = "the kernel's high-water mark (VmHWM, set back before)"
        else:
            self.method = "a thread that read the resident set every 5 ms"
            self._sampler = _Sampler()
            self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is not None:
            self.gib = self._sampler.finish()
        elif self._device.type == "cuda":
            self.gib = peak_memory_gib(self._device)
        else:
            self.gib = _resident_peak_gib()


class _Sampler(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="luthier-peak", daemon=True)
        self._done, self._peak = threading.Event(), resident_gib()

    def run(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, resident_gib())

    def finish(self) -> float:
        self._done.set()
        self.join()
        return max(self._peak, resident_gib())


def _forget_peak() -> bool:
    """Set the kernel's high-water mark back to what is resident now; False where that cannot be done."""
    global _peak_before
    before = _resident_peak_gib()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    _peak_before = max(_peak_before, before)
    return True


def _resident_peak_gib() -> float:
    """The kernel's high-water mark of this process; `ru_maxrss` may be that of the parent that started it."""
    with suppress(OSError, StopIteration, ValueError), Path("/proc/self/status").open(encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return resident_gib()
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
        return computes_bfloat16(torch.cuda.get_device_capability())
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def _supports_fp8(device: str) -> bool:
    """Whether 8-bit floats are multiplied here; a CPU computes the same numbers plainly."""
    if device == "cuda":
        return torch.version.hip is None and multiplies_fp8(torch.cuda.get_device_capability())
    return device == "cpu"
