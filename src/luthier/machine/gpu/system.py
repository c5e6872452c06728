"""Processor, memory and disk of this machine. torch-free.

Not covered: the limits of a container (psutil tells those of the machine below it), and disks other than the one that
holds the outputs.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from luthier.machine import GIB


@dataclass(frozen=True)
class System:
    """The machine at one moment.

    Attributes:
        cpu_percent: Load of each core since the previous reading of this process; empty where it is not known.
        ram_used_gib: What a new program could not have: the total less what is available.
        disk_path: The folder that was looked at: the one asked for, or its nearest parent that exists.
        disk_free_gib: What this user may still write.
    """

    cpu_percent: tuple[float, ...]
    ram_used_gib: float
    ram_total_gib: float
    swap_used_gib: float
    swap_total_gib: float
    disk_path: str
    disk_free_gib: float
    disk_total_gib: float

    @property
    def cpu_mean_percent(self) -> float:
        """Mean load of all cores; nan where it is not known."""
        return math.fsum(self.cpu_percent) / len(self.cpu_percent) if self.cpu_percent else math.nan


def read_system(path: str | Path) -> System:
    """The machine, and the disk that holds `path` (which need not exist). Takes well under a millisecond.

    The load of the cores is that since the previous call, so the first call of a process says little.
    """
    folder, disk_free_gib, disk_total_gib = _disk(Path(path))
    return System(_cpu_percent(), *_ram(), *_swap(), str(folder), disk_free_gib, disk_total_gib)


def _cpu_percent() -> tuple[float, ...]:
    try:
        return tuple(psutil.cpu_percent(percpu=True))
    except (OSError, psutil.Error):
        return ()


def _ram() -> tuple[float, float]:
    try:
        ram = psutil.virtual_memory()
    except (OSError, psutil.Error):
        return math.nan, math.nan
    return (ram.total - ram.available) / GIB, ram.total / GIB


def _swap() -> tuple[float, float]:
    try:
        swap = psutil.swap_memory()
    except (OSError, psutil.Error):
        return math.nan, math.nan
    return swap.used / GIB, swap.total / GIB


def _disk(path: Path) -> tuple[Path, float, float]:
    path = path.absolute()
    for folder in (path, *path.parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        return folder, usage.free / GIB, usage.total / GIB
    return path, math.nan, math.nan
