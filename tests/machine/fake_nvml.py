"""A stand-in for the NVML library: the functions of `pynvml`, answered from tables.

It knows every function that the real `pynvml` has and no other, checks that each call fits the real signature, and
refuses with the real error classes.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 2**30
RECEIVED, SENT = pynvml.NVML_PCIE_UTIL_RX_BYTES, pynvml.NVML_PCIE_UTIL_TX_BYTES


@dataclass(frozen=True)
class Refuses:
    """An answer that is an error of NVML."""

    code: int = pynvml.NVML_ERROR_NOT_SUPPORTED


def process(pid: int, gib: float | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if gib is None else int(gib * GIB))


def memory(used_gib: float, total_gib: float) -> SimpleNamespace:
    used, total = int(used_gib * GIB), int(total_gib * GIB)
    return SimpleNamespace(used=used, free=total - used, total=total)


def answers(**changes: Any) -> dict[str, Any]:
    """A healthy GPU in training; by function, or by function and first argument."""
    usual: dict[str, Any] = {
        "nvmlDeviceGetName": "NVIDIA L40S",
        "nvmlDeviceGetUUID": "GPU-11111111-2222-3333-4444-555555555555",
        "nvmlDeviceGetMemoryInfo": memory(6.75, 44.5),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=98, memory=61),
        "nvmlDeviceGetTemperatureV": 45,
        "nvmlDeviceGetTemperature": 45,
        "nvmlDeviceGetMarginTemperature": 43,
        "nvmlDeviceGetTemperatureThreshold": 88,
        "nvmlDeviceGetPowerUsage": 287_500,
        "nvmlDeviceGetEnforcedPowerLimit": 350_000,
        "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 2520, pynvml.NVML_CLOCK_MEM: 9001},
        "nvmlDeviceGetCurrPcieLinkGeneration": 4,
        "nvmlDeviceGetCurrPcieLinkWidth": 16,
        "nvmlDeviceGetMaxPcieLinkWidth": 16,
        "nvmlDeviceGetPcieThroughput": {RECEIVED: 1_250_000, SENT: 80_000},
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
        "nvmlDeviceGetComputeRunningProcesses_v3": [],
        "nvmlDeviceGetGraphicsRunningProcesses_v3": [],
        "nvmlDeviceGetMigMode": [pynvml.NVML_DEVICE_MIG_DISABLE, pynvml.NVML_DEVICE_MIG_DISABLE],
    }
    return usual | changes


def instance(**changes: Any) -> dict[str, Any]:
    """One slice of a partitioned GPU: what NVML answers for those."""
    usual = {name: Refuses() for name in answers()}
    return usual | {
        "nvmlDeviceGetName": "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "nvmlDeviceGetUUID": "MIG-aaaaaaaa",
        "nvmlDeviceGetMemoryInfo": memory(1.25, 4.75),
        "nvmlDeviceGetComputeRunningProcesses_v3": [],
        "nvmlDeviceGetGraphicsRunningProcesses_v3": [],
    } | changes  # fmt: skip


def partitioned(*instances: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A GPU in MIG mode with room for seven slices, these among them."""
    slots: dict[int, Any] = dict.fromkeys(range(7), Refuses(pynvml.NVML_ERROR_NOT_FOUND))
    return answers(
        nvmlDeviceGetName="NVIDIA A100-SXM4-40GB",
        nvmlDeviceGetMigMode=[pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE],
        nvmlDeviceGetMaxMigDeviceCount=7,
        nvmlDeviceGetMigDeviceHandleByIndex=slots | dict(enumerate(instances)),
        nvmlDeviceGetUtilizationRates=Refuses(),
        **changes,
    )


@dataclass
class FakeNvml:
    """The library. Its tables may be changed between two readings."""

    devices: list[Any] = field(default_factory=list)
    """The answers of each device; a `Refuses` for one that cannot even be opened."""
    init: Refuses | None = None
    count: Refuses | None = None
    absent: set[str] = field(default_factory=set)
    """Functions that this version of `pynvml` does not have."""
    calls: Counter[str] = field(default_factory=Counter)

    def nvmlInit(self) -> None:
        self.calls["nvmlInit"] += 1
        _or_raise(self.init)

    def nvmlShutdown(self) -> None:
        self.calls["nvmlShutdown"] += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        _or_raise(self.count)
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return _or_raise(self.devices[index])

    def __getattr__(self, name: str) -> Any:
        if name in self.absent:
            raise AttributeError(name)
        signature = inspect.signature(getattr(pynvml, name))

        def function(handle: dict[str, Any], *arguments: Any) -> Any:
            self.calls[name] += 1
            signature.bind(handle, *arguments)
            answer = handle.get(name, Refuses(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND))
            return _or_raise(answer[arguments[0]] if isinstance(answer, dict) and arguments else answer)

        return function


def _or_raise(answer: Any) -> Any:
    if isinstance(answer, Refuses):
        raise pynvml.NVMLError(answer.code)
    return answer
