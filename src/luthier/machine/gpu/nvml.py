"""NVIDIA GPUs through NVML, the library behind nvidia-smi. torch-free.

    Nvml.read -> one Gpu for each device <- _Device asks field by field

A field that a device, a driver or a permission does not give is unknown and nothing more. A device that answers with
real trouble (lost, needs a reset, unknown error) says so in its `problem`; the others are read as ever. When the driver
itself goes away the connection is dropped, and the next reading tries to make a new one.

Two readings are expensive and so only done when `detailed`: the throughput of PCIe, which NVML measures over 20 ms for
each direction, and the processes.

Source: NVML API reference (docs.nvidia.com/deploy/nvml-api). Memory is that of `nvmlDeviceGetMemoryInfo` version 1,
where used + free = total, as in `torch.cuda.mem_get_info`; nvidia-smi shows a little less, without the driver's own.

Not covered: vGPU, NVLink, ECC errors, clients of MPS.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import pynvml

from luthier.machine import GIB
from luthier.machine.gpu.processes import describe
from luthier.machine.gpu.readings import HARDWARE_HEAT, HEAT, Gpu, Process, Readings, number

_WATTS_PER_MILLIWATT = _MB_PER_KB = 1e-3

_NO_CONNECTION = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no driver here (the NVML library is not found)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver is installed but not loaded: sudo modprobe nvidia, or reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to ask the driver: see who may read /dev/nvidiactl",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated and the old one still runs: reboot",
}
_DEVICE_TROUBLE = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "lost: the driver cannot reach it; its jobs are dead, and a reboot may help",
    pynvml.NVML_ERROR_RESET_REQUIRED: "needs a reset: nvidia-smi --gpu-reset, or reboot",
    pynvml.NVML_ERROR_UNKNOWN: "the driver reports an unknown error; the system's log may name its Xid",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to ask this device",
}
_BEYOND_ASKING = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}
_MERELY_UNKNOWN = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_NOT_READY,
    pynvml.NVML_ERROR_DEPRECATED,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
}

_IDLE = 0x1
_THROTTLE = {
    0x2: "clocks set by hand",
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "in step with other GPUs",
    0x20: HEAT,
    0x40: HARDWARE_HEAT,
    0x80: "power brake",
    0x100: "clocks set for displays",
    0x200: "board limit",
    0x400: "reliability",
}


class Nvml:
    """A connection to NVML: made at the first reading, kept, and made again after the driver went away.

    Args:
        library: The functions of `pynvml`.
    """

    def __init__(self, library: Any = pynvml) -> None:
        self._library = library
        self._connected = False
        self._driver = ""
        # Who a device was, so that a lost one can still be named.
        self._known: dict[int, Gpu] = {}

    def read(self, *, detailed: bool = False) -> Readings:
        """All NVIDIA GPUs; never raises."""
        try:
            if not self._connected:
                self._library.nvmlInit()
                self._connected = True
                self._driver = self._version()
            count = self._library.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._disconnect()
            return Readings((), f"No NVIDIA GPU: {_NO_CONNECTION.get(error.value, f'NVML says {error}')}.")
        if not count:
            return Readings((), "No NVIDIA GPU: the driver is loaded and lists no device.", self._driver)
        return Readings(tuple(self._gpu(index, detailed) for index in range(count)), driver=self._driver)

    def _version(self) -> str:
        try:
            return str(self._library.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError:
            return ""

    def _disconnect(self) -> None:
        if self._connected:
            with contextlib.suppress(pynvml.NVMLError):
                self._library.nvmlShutdown()
        self._connected, self._driver, self._known = False, "", {}

    def _gpu(self, index: int, detailed: bool) -> Gpu:
        try:
            handle = self._library.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:
            return replace(self._known.get(index, Gpu(index)), problem=_trouble(error))
        device = _Device(self._library, handle)
        who = self._known.get(index) or device.who(index)
        if who.name:
            self._known[index] = who
        gpu = device.read(who, detailed)
        if device.ask("nvmlDeviceGetMigMode", default=[0])[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            gpu = replace(gpu, mig=device.instances(detailed))
        return replace(gpu, problem=device.problem)


class _Device:
    """One device, or one instance of a partitioned one, asked field by field."""

    def __init__(self, library: Any, handle: Any) -> None:
        self.problem = ""
        self._library = library
        self._handle = handle
        self._beyond_asking = False

    def ask(self, *names: str, arguments: tuple[Any, ...] = (), default: Any = None) -> Any:
        """What the first of the functions answers that library and driver both have; else `default`."""
        for name in names:
            function = getattr(self._library, name, None)
            if function is None or self._beyond_asking:
                continue
            try:
                return function(self._handle, *arguments)
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                    continue
                self._note(error)
                return default
        return default

    def _note(self, error: pynvml.NVMLError) -> None:
        self._beyond_asking |= error.value in _BEYOND_ASKING
        if error.value not in _MERELY_UNKNOWN:
            self.problem = self.problem or _trouble(error)

    def who(self, index: int) -> Gpu:
        """Name and identity alone."""
        name, uuid = (self.ask(function, default="") for function in ("nvmlDeviceGetName", "nvmlDeviceGetUUID"))
        return Gpu(index, name=str(name), uuid=str(uuid))

    def read(self, who: Gpu, detailed: bool) -> Gpu:
        """All fields of a device that is already named."""
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        utilization = self.ask("nvmlDeviceGetUtilizationRates")
        temperature_c = self._temperature_c()
        gpu = replace(
            who,
            memory_used_gib=number(getattr(memory, "used", None), 1 / GIB),
            memory_total_gib=number(getattr(memory, "total", None), 1 / GIB),
            utilization_percent=number(getattr(utilization, "gpu", None)),
            temperature_c=temperature_c,
            temperature_limit_c=self._temperature_limit_c(temperature_c),
            power_w=number(self.ask("nvmlDeviceGetPowerUsage"), _WATTS_PER_MILLIWATT),
            power_limit_w=number(self.ask("nvmlDeviceGetEnforcedPowerLimit"), _WATTS_PER_MILLIWATT),
            sm_clock_mhz=number(self.ask("nvmlDeviceGetClockInfo", arguments=(pynvml.NVML_CLOCK_SM,))),
            memory_clock_mhz=number(self.ask("nvmlDeviceGetClockInfo", arguments=(pynvml.NVML_CLOCK_MEM,))),
            pcie_generation=self.ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            pcie_width=self.ask("nvmlDeviceGetCurrPcieLinkWidth"),
            pcie_width_max=self.ask("nvmlDeviceGetMaxPcieLinkWidth"),
            throttle=self._throttle(),
        )
        if not detailed:
            return gpu
        return replace(
            gpu,
            pcie_receive_mb_per_second=self._pcie_mb_per_second(pynvml.NVML_PCIE_UTIL_RX_BYTES),
            pcie_transmit_mb_per_second=self._pcie_mb_per_second(pynvml.NVML_PCIE_UTIL_TX_BYTES),
            processes=self._processes(),
        )

    def instances(self, detailed: bool) -> tuple[Gpu, ...]:
        """The MIG devices that exist and that we may see."""
        handles = [
            (slot, self.ask("nvmlDeviceGetMigDeviceHandleByIndex", arguments=(slot,)))
            for slot in range(self.ask("nvmlDeviceGetMaxMigDeviceCount", default=0))
        ]
        found = []
        for slot, handle in handles:
            if handle is not None:
                device = _Device(self._library, handle)
                gpu = device.read(device.who(slot), detailed)
                found.append(replace(gpu, problem=device.problem))
        return tuple(found)

    def _temperature_c(self) -> float:
        # The newer function is there from driver 570 on; the older one goes with CUDA 14.
        names = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
        return number(self.ask(*names, arguments=(pynvml.NVML_TEMPERATURE_GPU,)))

    def _temperature_limit_c(self, temperature_c: float) -> float:
        """From the distance to it, or, on devices before Ada, as a fixed number."""
        margin = number(self.ask("nvmlDeviceGetMarginTemperature"))
        if math.isfinite(margin):
            return temperature_c + margin
        slowdown = (pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN,)
        return number(self.ask("nvmlDeviceGetTemperatureThreshold", arguments=slowdown))

    def _pcie_mb_per_second(self, direction: int) -> float:
        return number(self.ask("nvmlDeviceGetPcieThroughput", arguments=(direction,)), _MB_PER_KB)

    def _throttle(self) -> tuple[str, ...] | None:
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        mask = self.ask(*names)
        return None if mask is None else throttle_in_words(mask)

    def _processes(self) -> tuple[Process, ...] | None:
        found: dict[int, Process] = {}
        lists = [
            self.ask(f"nvmlDeviceGet{kind}RunningProcesses_v3", f"nvmlDeviceGet{kind}RunningProcesses_v2")
            for kind in ("Compute", "Graphics")
        ]
        for entry in (entry for entries in lists if entries is not None for entry in entries):
            if entry.pid not in found:
                found[entry.pid] = describe(entry.pid, number(entry.usedGpuMemory, 1 / GIB))
        return None if lists == [None, None] else tuple(found.values())


def throttle_in_words(mask: int) -> tuple[str, ...]:
    """The reasons in a bit mask of NVML; an idle GPU is not held down."""
    words = [word for bit, word in _THROTTLE.items() if mask & bit]
    rest = mask & ~_IDLE & ~sum(_THROTTLE)
    return (*words, f"reason {rest:#x}") if rest else tuple(words)


def _trouble(error: pynvml.NVMLError) -> str:
    return _DEVICE_TROUBLE.get(error.value, f"NVML says {error}")
