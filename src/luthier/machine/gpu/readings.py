"""What a monitor knows of GPUs at one moment. Units are in the names; what is not known is `nan`, `None` or empty."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIB_PER_GIB = 1024

HEAT = "heat"
HARDWARE_HEAT = "heat (hardware)"


@dataclass(frozen=True)
class Process:
    """A process that holds memory of a GPU.

    Attributes:
        user: Empty where the process is not visible from here (another container, another system).
        command: Program and script as the process names them, without options; not yet safe to print.
        memory_gib: nan where the driver does not say.
    """

    pid: int
    user: str
    command: str
    memory_gib: float


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its number in its vendor's library, in the order of the bus; CUDA may number otherwise.
        memory_used_gib: What nobody else can have: allocations and what the driver keeps for itself.
        utilization_percent: The share of the last moment in which any kernel ran; says nothing of how well it ran.
        temperature_limit_c: Where the GPU begins to slow itself down.
        pcie_receive_mb_per_second: From the machine to the GPU; read only when `detailed`.
        throttle: What holds the clocks down, in words; idling does not count. None: the device does not say.
        processes: None: not asked, or the device does not say.
        mig: The instances that a GPU is partitioned into (MIG); None: it is not partitioned.
        problem: Why fields are missing although the device should have them; else empty.
    """

    index: int
    name: str = ""
    uuid: str = ""
    memory_used_gib: float = math.nan
    memory_total_gib: float = math.nan
    utilization_percent: float = math.nan
    temperature_c: float = math.nan
    temperature_limit_c: float = math.nan
    power_w: float = math.nan
    power_limit_w: float = math.nan
    sm_clock_mhz: float = math.nan
    memory_clock_mhz: float = math.nan
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_receive_mb_per_second: float = math.nan
    pcie_transmit_mb_per_second: float = math.nan
    throttle: tuple[str, ...] | None = None
    processes: tuple[Process, ...] | None = None
    mig: tuple[Gpu, ...] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Readings:
    """All GPUs at one moment.

    Attributes:
        problem: Why there is none, or why some may be missing: one sentence, and how we know. Empty when all is well.
        driver: Version of the driver, where it is known.
    """

    gpus: tuple[Gpu, ...]
    problem: str = ""
    driver: str = ""


def number(value: object, factor: float = 1.0) -> float:
    """`value` times `factor`; nan for what is no number (None, "N/A")."""
    return float(value) * factor if isinstance(value, int | float) else math.nan
