"""What only an NVIDIA GPU can show: that NVML's numbers are those of torch. `pytest -m gpu`."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from luthier.machine.gpu import Gpu, read_gpus

ROOT = Path(__file__).parents[2]
GIB = 2**30

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def ours(*, detailed: bool = False) -> Gpu:
    """The GPU that torch calls 0, which NVML may number otherwise."""
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    return next(gpu for gpu in read_gpus(detailed=detailed).gpus if uuid in gpu.uuid)


def test_memory_is_what_torch_sees():
    held = torch.ones(GIB // 4, device="cuda")  # 1 GiB of float32
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    gpu = ours()
    # Others may come and go on the same device; what the driver keeps for itself counts as used on both sides.
    assert gpu.memory_used_gib >= held.nbytes / GIB
    assert gpu.memory_total_gib == pytest.approx(total / GIB, rel=0.03)
    assert gpu.memory_total_gib - gpu.memory_used_gib == pytest.approx(free / GIB, abs=0.3)


def test_every_field_of_a_whole_gpu_is_plausible():
    gpu = ours(detailed=True)
    assert gpu.problem == "" and torch.cuda.get_device_name() in gpu.name
    assert 0 <= gpu.temperature_c < 120 and not gpu.temperature_limit_c < 60
    for value in (gpu.power_w, gpu.power_limit_w):
        assert not value < 0 and not value > 3000
    assert not gpu.sm_clock_mhz < 0 and not gpu.sm_clock_mhz > 5000
    assert gpu.pcie_width is None or 1 <= gpu.pcie_width <= (gpu.pcie_width_max or 32)
    assert read_gpus().driver


def test_work_shows_as_utilization_and_power():
    idle = ours()
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    busy, end = [], time.monotonic() + 3
    while time.monotonic() < end:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
        busy.append(ours())
    if idle.mig is None and idle.utilization_percent == idle.utilization_percent:
        assert max(gpu.utilization_percent for gpu in busy) > 60
    if idle.power_w == idle.power_w:
        assert max(gpu.power_w for gpu in busy) > idle.power_w


def test_this_process_is_among_those_that_hold_memory():
    _held = torch.ones(GIB // 4, device="cuda")
    processes = ours(detailed=True).processes
    mine = [process for process in processes or () if process.pid == os.getpid()]
    if not mine:
        pytest.skip("the driver counts processes outside this container")
    assert mine[0].user == getpass.getuser() and psutil.Process().name()[:3] in mine[0].command
    assert not mine[0].memory_gib < 0.9


def test_a_reading_is_cheap_enough_for_every_log_line():
    read_gpus()
    start = time.perf_counter()
    for _ in range(20):
        read_gpus()
    assert (time.perf_counter() - start) / 20 / len(read_gpus().gpus) < 0.02


def test_the_launcher_names_the_gpu():
    command = [sys.executable, "src/utils/gpu_monitor.py", "--once", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    record = json.loads(done.stdout)
    assert torch.cuda.get_device_name() in [gpu["name"] for gpu in record["gpus"]]
