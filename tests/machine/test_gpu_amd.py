"""AMD's GPUs through amdsmi, which is replaced here by an object of the same shape."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pynvml
import pytest

from luthier.machine import gpu as machine_gpu
from luthier.machine.gpu import Readings, read_gpus
from luthier.machine.gpu.amd import Amd
from luthier.machine.gpu.nvml import Nvml
from tests.machine.fake_nvml import FakeNvml, Refuses, answers

NOBODY = 2**22 + 7  # above the highest process id of Linux


class FakeAmdSmi:
    """The library of ROCm: the functions that are called here, in the shape of its Python interface."""

    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current", CRITICAL="critical")
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot")
    AmdSmiClkType = SimpleNamespace(GFX="gfx", MEM="mem")

    def __init__(self, **changes):
        self.started = 0
        self.changes = changes
        self.answers = {
            "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI300X"},
            "amdsmi_get_gpu_device_uuid": "00ff74a1",
            "amdsmi_get_gpu_vram_usage": {"vram_used": 2048, "vram_total": 196592},
            "amdsmi_get_gpu_activity": {"gfx_activity": 97, "umc_activity": 40, "mm_activity": "N/A"},
            "amdsmi_get_power_info": {"current_socket_power": 512, "average_socket_power": "N/A"},
            "amdsmi_get_power_cap_info": {"power_cap": 750_000_000},
            "amdsmi_get_temp_metric": {"current": 61, "critical": 100},
            "amdsmi_get_clock_info": {"gfx": {"clk": 2100}, "mem": {"clk": 1300}},
            "amdsmi_get_gpu_process_list": [{"pid": NOBODY, "memory_usage": {"vram_mem": 2**30}}],
        } | changes  # fmt: skip

    def amdsmi_init(self):
        self.started += 1

    def amdsmi_get_processor_handles(self):
        return ["card"]

    def __getattr__(self, name):
        def function(handle, *which):
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer[which[-1]] if which else answer

        return function


@pytest.fixture
def kfd(tmp_path):
    path = tmp_path / "kfd"
    path.touch()
    return path


def test_an_amd_gpu(kfd):
    library = FakeAmdSmi()
    reader = Amd(library, kfd)
    (gpu,) = reader.read(detailed=True).gpus
    assert (gpu.name, gpu.uuid) == ("AMD Instinct MI300X", "00ff74a1")
    assert (gpu.memory_used_gib, gpu.memory_total_gib) == (2.0, pytest.approx(191.98, abs=0.01))
    assert (gpu.utilization_percent, gpu.temperature_c, gpu.temperature_limit_c) == (97, 61, 100)
    assert (gpu.power_w, gpu.power_limit_w, gpu.sm_clock_mhz, gpu.memory_clock_mhz) == (512, 750, 2100, 1300)
    assert [(held.pid, held.memory_gib) for held in gpu.processes] == [(NOBODY, 1.0)]
    assert gpu.throttle is None and gpu.problem == ""
    assert reader.read().gpus[0].processes is None and library.started == 1


def test_an_amd_gpu_with_other_units_and_missing_fields(kfd):
    refused = RuntimeError("AMDSMI_STATUS_NOT_SUPPORTED")
    library = FakeAmdSmi(
        amdsmi_get_temp_metric={"current": 61_000, "critical": 100_000},
        amdsmi_get_power_info={"current_socket_power": "N/A", "average_socket_power": 300},
        amdsmi_get_gpu_activity=refused,
        amdsmi_get_gpu_process_list=refused,
    )
    (gpu,) = Amd(library, kfd).read(detailed=True).gpus
    assert (gpu.temperature_c, gpu.temperature_limit_c, gpu.power_w) == (61, 100, 300)
    assert math.isnan(gpu.utilization_percent) and gpu.processes is None


def test_an_amd_gpu_without_its_library_is_told_and_no_amd_gpu_is_not(kfd, tmp_path):
    assert "amdsmi is not installed" in Amd(driver_device=kfd).read().problem
    assert Amd(driver_device=tmp_path / "none").read() == Readings(())


def test_an_amd_library_that_does_not_start_is_told(kfd, monkeypatch):
    library = FakeAmdSmi()
    monkeypatch.setattr(library, "amdsmi_init", lambda: (_ for _ in ()).throw(OSError("Error code:\n\t34 | no driver")))
    readings = Amd(library, kfd).read()
    assert readings.gpus == () and readings.problem.endswith("cannot be read: Error code: 34 | no driver.")


def test_both_makers_in_one_machine(monkeypatch, kfd):
    monkeypatch.setattr(machine_gpu, "_nvml", Nvml(FakeNvml([answers()])))
    monkeypatch.setattr(machine_gpu, "_amd", Amd(FakeAmdSmi(), kfd))
    assert [gpu.name for gpu in read_gpus().gpus] == ["NVIDIA L40S", "AMD Instinct MI300X"]
    monkeypatch.setattr(machine_gpu, "_nvml", Nvml(FakeNvml(init=Refuses(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))))
    readings = read_gpus()
    assert [gpu.name for gpu in readings.gpus] == ["AMD Instinct MI300X"] and readings.problem == ""
