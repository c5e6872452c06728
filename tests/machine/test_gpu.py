"""Readings of GPUs: NVML's answers as numbers with units, and what each of their refusals becomes."""

from __future__ import annotations

import ctypes
import getpass
import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pynvml
import pytest

from luthier.machine.gpu import Gpu, Readings, read_gpus, read_system
from luthier.machine.gpu.nvml import Nvml, throttle_in_words
from luthier.machine.gpu.processes import LONGEST_COMMAND, describe, shortened
from tests.machine.fake_nvml import FakeNvml, Refuses, answers, instance, memory, partitioned, process

ROOT = Path(__file__).parents[2]
LOST = Refuses(pynvml.NVML_ERROR_GPU_IS_LOST)
NOBODY = 2**22 + 7  # above the highest process id of Linux


def read(*devices, detailed=True):
    return Nvml(FakeNvml(list(devices))).read(detailed=detailed)


def the_gpu(**changes):
    (gpu,) = read(answers(**changes)).gpus
    return gpu


def test_every_field_with_its_unit():
    readings = read(answers(nvmlDeviceGetComputeRunningProcesses_v3=[process(NOBODY, 5.5)]))
    assert (readings.problem, readings.driver) == ("", "570.86.15")
    (gpu,) = readings.gpus
    (held,) = gpu.processes
    assert (held.pid, held.memory_gib, held.user, held.command) == (NOBODY, 5.5, "", "")
    assert gpu == Gpu(
        index=0,
        name="NVIDIA L40S",
        uuid="GPU-11111111-2222-3333-4444-555555555555",
        memory_used_gib=6.75,
        memory_total_gib=44.5,
        utilization_percent=98.0,
        temperature_c=45.0,
        temperature_limit_c=88.0,
        power_w=287.5,
        power_limit_w=350.0,
        sm_clock_mhz=2520.0,
        memory_clock_mhz=9001.0,
        pcie_generation=4,
        pcie_width=16,
        pcie_width_max=16,
        pcie_receive_mb_per_second=1250.0,
        pcie_transmit_mb_per_second=80.0,
        throttle=("power limit",),
        processes=(held,),
    )


def test_two_gpus_in_their_order():
    first, second = read(answers(), answers(nvmlDeviceGetName="NVIDIA A10", nvmlDeviceGetTemperatureV=84)).gpus
    assert (first.index, first.name, first.temperature_c) == (0, "NVIDIA L40S", 45)
    assert (second.index, second.name, second.temperature_c) == (1, "NVIDIA A10", 84)


def test_inside_a_training_loop_nothing_slow_is_asked():
    """NVML measures the throughput over 20 ms; processes need the system's tables."""
    library = FakeNvml([answers(nvmlDeviceGetComputeRunningProcesses_v3=[process(os.getpid(), 1.0)])])
    (gpu,) = Nvml(library).read().gpus
    assert not {name for name in library.calls if "Process" in name or "PcieThroughput" in name}
    assert gpu.processes is None and math.isnan(gpu.pcie_receive_mb_per_second)
    assert gpu.memory_used_gib == 6.75 and gpu.power_w == 287.5


FIELDS = {
    "nvmlDeviceGetName": {"name"},
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlDeviceGetMemoryInfo": {"memory_used_gib", "memory_total_gib"},
    "nvmlDeviceGetUtilizationRates": {"utilization_percent"},
    "nvmlDeviceGetTemperatureV": {"temperature_c", "temperature_limit_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz"},
    "nvmlDeviceGetCurrPcieLinkGeneration": {"pcie_generation"},
    "nvmlDeviceGetCurrPcieLinkWidth": {"pcie_width"},
    "nvmlDeviceGetMaxPcieLinkWidth": {"pcie_width_max"},
    "nvmlDeviceGetPcieThroughput": {"pcie_receive_mb_per_second", "pcie_transmit_mb_per_second"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"throttle"},
    "nvmlDeviceGetComputeRunningProcesses_v3": set(),  # those with graphics are still told
    "nvmlDeviceGetMigMode": set(),
}


def unknown_fields(gpu):
    return {name for name, value in vars(gpu).items() if value in (None, "") or value != value} - {"mig", "problem"}


@pytest.mark.parametrize("function", FIELDS)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_field_that_is_refused_is_unknown_and_no_other(function, code):
    gpu = the_gpu(**{function: Refuses(code)})
    assert unknown_fields(gpu) == FIELDS[function]
    assert gpu.problem == ""


def test_a_device_that_supports_nothing_is_still_there():
    gpu = the_gpu(**dict.fromkeys(answers(), Refuses()))
    assert gpu.problem == "" and gpu.index == 0
    assert unknown_fields(gpu) == set(vars(gpu)) - {"index", "mig", "problem"}


def test_an_old_driver_and_an_old_pynvml_are_asked_in_their_own_words():
    missing = Refuses(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    old = answers(
        nvmlDeviceGetTemperatureV=missing,
        nvmlDeviceGetTemperature=51,
        nvmlDeviceGetMarginTemperature=missing,
        nvmlDeviceGetTemperatureThreshold=90,
        nvmlDeviceGetCurrentClocksEventReasons=missing,
        nvmlDeviceGetCurrentClocksThrottleReasons=0x20,
        nvmlDeviceGetComputeRunningProcesses_v3=missing,
        nvmlDeviceGetComputeRunningProcesses_v2=[process(NOBODY, 2.0)],
    )
    absent = {"nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"}
    for library in (FakeNvml([old]), FakeNvml([old], absent=absent)):
        (gpu,) = Nvml(library).read(detailed=True).gpus
        assert (gpu.temperature_c, gpu.temperature_limit_c, gpu.throttle) == (51, 90, ("heat",))
        assert [held.pid for held in gpu.processes] == [NOBODY]
        assert gpu.problem == ""


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (0x0, ()),
        (0x1, ()),
        (0x4 | 0x20, ("power limit", "heat")),
        (0x8 | 0x40, ("hardware slowdown", "heat (hardware)")),
        (0x1 | 0x80, ("power brake",)),
        (0x4 | 0x10000, ("power limit", "reason 0x10000")),
    ],
)
def test_throttle_reasons_in_words(mask, words):
    assert throttle_in_words(mask) == words


def test_every_reason_that_nvml_names_has_a_word():
    reasons = {value for name, value in vars(pynvml).items() if name.startswith("nvmlClocksThrottleReason")}
    single = [value for value in reasons if value and value & (value - 1) == 0]
    assert len(single) > 8
    assert [hex(value) for value in single if any("0x" in word for word in throttle_in_words(value))] == []


def test_a_gpu_that_is_lost_in_mid_run_keeps_its_name_and_the_others_their_numbers():
    library = FakeNvml([answers(), answers(nvmlDeviceGetName="NVIDIA A10")])
    reader = Nvml(library)
    assert [gpu.problem for gpu in reader.read().gpus] == ["", ""]
    library.devices[1] = dict.fromkeys(answers(), LOST)
    healthy, lost = reader.read().gpus
    assert healthy.memory_used_gib == 6.75 and healthy.problem == ""
    assert lost.name == "NVIDIA A10" and lost.problem.startswith("lost: ") and math.isnan(lost.memory_used_gib)
    library.devices[1] = LOST  # some drivers do not even open it any more
    expected = Gpu(1, name="NVIDIA A10", uuid=lost.uuid, problem=lost.problem)
    assert repr(reader.read().gpus[1]) == repr(expected)  # nan is not itself
    library.devices[1] = answers(nvmlDeviceGetName="NVIDIA A10")
    assert reader.read().gpus[1].problem == ""
    assert library.calls["nvmlInit"] == 1


def test_a_lost_gpu_is_not_asked_on():
    """Each question to a lost device may take long."""
    library = FakeNvml([dict.fromkeys(answers(), LOST)])
    Nvml(library).read(detailed=True)
    assert library.calls.total() - library.calls["nvmlInit"] == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_UNKNOWN, "unknown error"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "needs a reset"),
        (pynvml.NVML_ERROR_TIMEOUT, "NVML says Timeout"),
    ],
)
def test_real_trouble_of_a_device_is_told(code, words):
    gpu = the_gpu(nvmlDeviceGetPowerUsage=Refuses(code))
    assert words in gpu.problem
    assert math.isnan(gpu.power_w) and gpu.memory_used_gib == 6.75


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "the NVML library is not found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no permission"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "NVML says Unknown Error"),
    ],
)
def test_why_there_is_no_gpu(code, words):
    readings = Nvml(FakeNvml(init=Refuses(code))).read()
    assert readings.gpus == ()
    assert readings.problem.startswith("No NVIDIA GPU: ") and words in readings.problem


def test_a_driver_without_devices():
    assert read() == Readings((), "No NVIDIA GPU: the driver is loaded and lists no device.", "570.86.15")


def test_a_driver_that_comes_and_goes():
    library = FakeNvml([answers()], init=Refuses(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    reader = Nvml(library)
    assert reader.read().gpus == ()
    library.init = None
    assert len(reader.read().gpus) == len(reader.read().gpus) == 1
    assert library.calls["nvmlInit"] == 2, "one that failed, and one that lasts"
    library.count = Refuses(pynvml.NVML_ERROR_UNINITIALIZED)
    assert "Uninitialized" in reader.read().problem
    assert library.calls["nvmlShutdown"] == 1
    library.count = None
    assert len(reader.read().gpus) == 1
    assert library.calls["nvmlInit"] == 3


def test_instances_of_a_partitioned_gpu():
    first = instance(nvmlDeviceGetComputeRunningProcesses_v3=[process(NOBODY, 1.0)])
    second = instance(nvmlDeviceGetMemoryInfo=memory(4.5, 4.75))
    (gpu,) = read(partitioned(first, second)).gpus
    assert math.isnan(gpu.utilization_percent) and gpu.problem == ""
    assert [(part.index, part.memory_used_gib, part.memory_total_gib) for part in gpu.mig] == [
        (0, 1.25, 4.75),
        (1, 4.5, 4.75),
    ]
    assert gpu.mig[0].name.endswith("MIG 1g.5gb") and gpu.mig[0].uuid == "MIG-aaaaaaaa"
    assert [held.pid for held in gpu.mig[0].processes] == [NOBODY]


def test_partitioned_without_instances_is_not_the_same_as_whole():
    (gpu,) = read(partitioned()).gpus
    assert gpu.mig == () and the_gpu().mig is None
    (gpu,) = read(partitioned() | {"nvmlDeviceGetMaxMigDeviceCount": Refuses(pynvml.NVML_ERROR_NO_PERMISSION)}).gpus
    assert gpu.mig == () and gpu.problem == ""


def test_a_process_is_told_once_with_its_user_and_command():
    mine = process(os.getpid(), 3.0)
    gpu = the_gpu(
        nvmlDeviceGetComputeRunningProcesses_v3=[mine],
        nvmlDeviceGetGraphicsRunningProcesses_v3=[process(os.getpid(), 0.5), process(NOBODY, None)],
    )
    me, other = gpu.processes
    assert (me.pid, me.memory_gib, me.user) == (os.getpid(), 3.0, getpass.getuser())
    assert me.command == shortened(psutil.Process().cmdline()) and "py" in me.command
    assert other.pid == NOBODY and math.isnan(other.memory_gib) and other.user == other.command == ""


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/python3", "-u", "src/training/train.py", "c.yaml"], "python3 src/training/train.py c.yaml"),
        (["python", "-m", "luthier", "train", "c.yaml", "--resume", "auto"], "python luthier train c.yaml"),
        (["python", "serve.py", "--token", "hf_secret"], "python serve.py"),
        (["python", "train.py", "wandb_key=hf_secret", "c.yaml"], "python train.py c.yaml"),
        (["python", "-c", "login('hf_secret')"], "python"),
        (["VLLM::Worker_TP0"], "VLLM::Worker_TP0"),
        ([], ""),
    ],
)
def test_a_command_is_short_and_holds_no_secret(words, shown):
    assert shortened(words) == shown


def test_a_command_does_not_grow_without_end():
    assert len(shortened(["cat", *map(str, range(1000))])) == LONGEST_COMMAND


def test_a_real_process_is_described():
    with subprocess.Popen([sys.executable, "-c", "input()", "--token", "hf_secret"], stdin=subprocess.PIPE) as running:
        found = describe(running.pid, 1.0)
        running.communicate(b"\n")
    assert found.command.startswith("python") and "secret" not in found.command


def test_apple_is_told_that_it_is_apple(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert read_gpus().gpus == () and "macOS" in read_gpus().problem


def library_is_installed():
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(library_is_installed(), reason="this machine has an NVIDIA driver")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no NVML")
def test_the_real_call_on_a_machine_without_a_driver():
    readings = read_gpus(detailed=True)
    assert readings.gpus == ()
    assert readings.problem.startswith("No NVIDIA GPU: no driver here (the NVML library is not found).")


def test_the_system_is_this_one(tmp_path):
    read_system(tmp_path)
    system = read_system(tmp_path)
    assert len(system.cpu_percent) == psutil.cpu_count() and all(0 <= load <= 100 for load in system.cpu_percent)
    assert system.cpu_mean_percent == pytest.approx(sum(system.cpu_percent) / len(system.cpu_percent))
    ram = psutil.virtual_memory()
    assert system.ram_total_gib == pytest.approx(ram.total / 2**30)
    assert system.ram_used_gib == pytest.approx((ram.total - ram.available) / 2**30, abs=1.0)
    assert system.swap_total_gib == pytest.approx(psutil.swap_memory().total / 2**30)
    disk = psutil.disk_usage(str(tmp_path))
    assert system.disk_total_gib == pytest.approx(disk.total / 2**30)
    assert 0 < system.disk_free_gib <= system.disk_total_gib


def test_a_folder_that_is_not_there_yet_lies_on_the_disk_of_its_parent(tmp_path):
    assert read_system(tmp_path / "runs" / "first").disk_path == str(tmp_path)


def test_the_machine_where_psutil_knows_little(monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError("no /proc")

    for name in ("cpu_percent", "virtual_memory", "swap_memory"):
        monkeypatch.setattr(psutil, name, refused)
    monkeypatch.setattr("shutil.disk_usage", refused)
    system = read_system(tmp_path)
    assert system.cpu_percent == () and math.isnan(system.cpu_mean_percent)
    assert math.isnan(system.ram_used_gib) and math.isnan(system.swap_total_gib) and math.isnan(system.disk_free_gib)


def test_reading_and_watching_gpus_import_no_torch():
    modules = "luthier.machine.gpu", "luthier.monitor.gpu.watch", "luthier.cli.gpu"
    program = (
        f"import {', '.join(modules)}, sys\n"
        "sys.exit(' '.join({'torch', 'transformers', 'numpy', 'textual'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
