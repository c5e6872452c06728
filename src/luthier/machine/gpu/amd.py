"""AMD GPUs through amdsmi, the library behind amd-smi, where ROCm has installed it. torch-free.

Source: headers and Python interface of amdsmi 24 (ROCm 6): memory in MiB, power in W, power cap in microwatts.

Not covered: throttling, PCIe, partitions. Written from AMD's sources and not yet seen on an AMD GPU.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from luthier.machine import GIB
from luthier.machine.gpu.processes import describe
from luthier.machine.gpu.readings import MIB_PER_GIB, Gpu, Process, Readings, number

_DRIVER_DEVICE = Path("/dev/kfd")
_WATTS_PER_MICROWATT = 1e-6


class Amd:
    """A connection to amdsmi: made at the first reading and kept.

    Args:
        library: The functions of `amdsmi`; None: import it at the first reading.
        driver_device: What the kernel's driver shows when there is an AMD GPU.
    """

    def __init__(self, library: Any = None, driver_device: Path = _DRIVER_DEVICE) -> None:
        self._library = library
        self._driver_device = driver_device
        self._connected = False

    def read(self, *, detailed: bool = False) -> Readings:
        """All AMD GPUs; a machine that shows no sign of one has no problem either. Never raises."""
        if not self._driver_device.exists():
            return Readings(())
        try:
            if not self._connected:
                self._library = self._library or importlib.import_module("amdsmi")
                self._library.amdsmi_init()
                self._connected = True
            handles = self._library.amdsmi_get_processor_handles()
        except ImportError:
            return Readings((), f"An AMD GPU ({self._driver_device}) cannot be read: ROCm's amdsmi is not installed.")
        except Exception as error:  # amdsmi raises KeyError and OSError of its own loader, too
            self._connected = False
            return Readings((), f"An AMD GPU ({self._driver_device}) cannot be read: {' '.join(str(error).split())}.")
        return Readings(tuple(self._gpu(index, handle, detailed) for index, handle in enumerate(handles)))

    def _gpu(self, index: int, handle: Any, detailed: bool) -> Gpu:
        library = self._library
        memory = self._ask("amdsmi_get_gpu_vram_usage", handle)
        power = self._ask("amdsmi_get_power_info", handle)
        power_w = [number(_entry(power, key)) for key in ("current_socket_power", "average_socket_power")]
        cap = self._ask("amdsmi_get_power_cap_info", handle)
        temperature, clock = library.AmdSmiTemperatureMetric, library.AmdSmiClkType
        return Gpu(
            index,
            name=str(_entry(self._ask("amdsmi_get_gpu_asic_info", handle), "market_name") or ""),
            uuid=str(self._ask("amdsmi_get_gpu_device_uuid", handle) or ""),
            memory_used_gib=number(_entry(memory, "vram_used"), 1 / MIB_PER_GIB),
            memory_total_gib=number(_entry(memory, "vram_total"), 1 / MIB_PER_GIB),
            utilization_percent=number(_entry(self._ask("amdsmi_get_gpu_activity", handle), "gfx_activity")),
            temperature_c=self._temperature_c(handle, temperature.CURRENT),
            temperature_limit_c=self._temperature_c(handle, temperature.CRITICAL),
            power_w=next((watts for watts in power_w if watts > 0), power_w[0]),
            power_limit_w=number(_entry(cap, "power_cap"), _WATTS_PER_MICROWATT),
            sm_clock_mhz=number(_entry(self._ask("amdsmi_get_clock_info", handle, clock.GFX), "clk")),
            memory_clock_mhz=number(_entry(self._ask("amdsmi_get_clock_info", handle, clock.MEM), "clk")),
            processes=self._processes(handle) if detailed else None,
        )

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._library, name)(*arguments)
        except Exception:  # an unsupported field; which class it raises differs between versions
            return None

    def _temperature_c(self, handle: Any, metric: Any) -> float:
        value = number(self._ask("amdsmi_get_temp_metric", handle, self._library.AmdSmiTemperatureType.HOTSPOT, metric))
        # Some versions answer in thousandths of a degree, as their header says; no GPU is at 1,000 degrees.
        return value / 1000 if value >= 1000 else value

    def _processes(self, handle: Any) -> tuple[Process, ...] | None:
        entries = self._ask("amdsmi_get_gpu_process_list", handle)
        if entries is None:
            return None
        return tuple(
            describe(entry["pid"], number(_entry(entry.get("memory_usage"), "vram_mem"), 1 / GIB)) for entry in entries
        )


def _entry(answer: Any, key: str) -> Any:
    return answer.get(key) if isinstance(answer, dict) else None
