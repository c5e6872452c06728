"""Readings of the GPUs and the machine, for the monitor and for the record of a run. Imports no torch.

    read_gpus()  -> Readings: a Gpu for each device, and in words why there is none
    read_system(path) -> System: processor, memory, and the disk that holds `path`

NVIDIA's come from NVML (`nvml`), AMD's from amdsmi (`amd`). Neither call raises.

Not covered: Apple's GPUs, whose load macOS tells to root alone; Intel's.
"""

from __future__ import annotations

import platform

from luthier.machine.gpu.amd import Amd
from luthier.machine.gpu.nvml import Nvml
from luthier.machine.gpu.readings import Gpu, Process, Readings
from luthier.machine.gpu.system import System, read_system

__all__ = ["Gpu", "Process", "Readings", "System", "read_gpus", "read_system"]

_APPLE = "No GPU to read: macOS tells the load of an Apple GPU to root alone, and its memory is the machine's RAM."

_nvml = Nvml()
_amd = Amd()


def read_gpus(*, detailed: bool = False) -> Readings:
    """All GPUs of this machine now.

    Args:
        detailed: Also the processes and the throughput of PCIe. NVML measures the latter over 20 ms for each direction
            and GPU, so leave it out inside a training loop.
    """
    if platform.system() == "Darwin":
        return Readings((), _APPLE)
    nvidia, amd = _nvml.read(detailed=detailed), _amd.read(detailed=detailed)
    # That there is none of NVIDIA's is no problem on a machine with AMD's.
    problems = [amd.problem] if nvidia.gpus or amd.gpus else [nvidia.problem, amd.problem]
    return Readings(nvidia.gpus + amd.gpus, " ".join(filter(None, problems)), nvidia.driver)
