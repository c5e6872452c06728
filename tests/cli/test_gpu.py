"""`luthier gpu` and its launcher as a user runs them: on a terminal, in a pipe, to a file, and stopped in between."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import psutil
import pynvml
import pytest

from luthier.machine import gpu as machine_gpu
from luthier.machine.gpu.nvml import Nvml
from tests.cli.support import LUTHIER, ROOT, environment, process, run_here
from tests.machine.fake_nvml import FakeNvml, Refuses, answers

LAUNCHER = [sys.executable, str(ROOT / "src" / "utils" / "gpu_monitor.py")]
ESCAPE = "\x1b"


@pytest.fixture
def two_gpus(monkeypatch):
    devices = [answers(), answers(nvmlDeviceGetName="NVIDIA A10", nvmlDeviceGetTemperatureV=84)]
    monkeypatch.setattr(machine_gpu, "_nvml", Nvml(FakeNvml(devices)))


def test_the_launcher_tells_of_this_machine_in_plain_text(tmp_path):
    result = process("--once", cwd=tmp_path, command=LAUNCHER, COLUMNS="60")
    assert (result.code, result.err) == (0, "")
    assert ESCAPE not in result.out
    lines = result.out.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", lines[0])
    named = [line.split()[0] for line in lines if line.strip()]
    assert {"CPU", "RAM", "disk"} <= set(named)
    assert named[1] in ("!", "GPU"), "GPUs, or why there are none"
    assert f"{psutil.virtual_memory().total / 2**30:.2f} GiB" in result.out


def test_the_launcher_from_the_projects_root_as_the_guide_says():
    result = process("--json", "--once", cwd=ROOT, command=[sys.executable, "src/utils/gpu_monitor.py"])
    assert (result.code, result.err) == (0, "")
    record = json.loads(result.out)
    assert abs(record["time"] - time.time()) < 60
    assert record["gpus"] or record["problem"]
    assert record["system"]["disk_path"].startswith(str(ROOT))
    assert len(record["system"]["cpu_percent"]) == psutil.cpu_count()


def test_it_goes_on_in_a_pipe_until_ctrl_c_and_ends_in_order(tmp_path):
    table = tmp_path / "gpu.csv"
    command = [
        *LUTHIER,
        "gpu",
        "--json",
        "--interval",
        "0.1",
        "--csv",
        str(table),
        "--output-dir",
        str(tmp_path / "out"),
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        records = [json.loads(running.stdout.readline()) for _ in range(3)]
        written = list(csv.DictReader(table.read_text().splitlines()))
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, "")
    assert len(written) >= 3, "a row is on disk before its reading is shown"
    assert [row["time"] for row in written[:3]] == [f"{record['time']:.3f}" for record in records]
    assert records[0]["time"] < records[1]["time"] < records[2]["time"]
    assert records[0]["system"]["disk_path"] == str(tmp_path)


def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = [*LUTHIER, "gpu", "--interval", "0.1"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdout.readline()
        running.stdout.close()
        err = running.stderr.read()
        running.wait(timeout=60)
    assert err == "" and list(tmp_path.iterdir()) == []


def on_a_terminal(ending, tmp_path, **changes):
    """What a terminal of 80 x 24 gets until a screen was drawn twice, and after the signal; and the exit code."""
    master, slave = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS="80", LINES="24", PYTHONIOENCODING="utf-8", **changes)
    running = subprocess.Popen(
        [*LUTHIER, "gpu", "--interval", "0.2"], cwd=tmp_path, env=env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    seen, sent = b"", False
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            break
        seen += part
        if not sent and seen.count(b"Ctrl-C ends") >= 2:
            running.send_signal(ending)
            sent = True
        if not part:
            break
    os.close(master)
    return seen.decode(), running.wait(timeout=60)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_the_screen_stays_in_place_and_is_given_back(ending, tmp_path):
    seen, code = on_a_terminal(ending, tmp_path)
    assert code == 0 and "Traceback" not in seen
    entered, left = "\x1b[?1049h", "\x1b[?1049l"
    assert seen.count(entered) == seen.count(left) == 1 and seen.index(entered) < seen.index(left)
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l"), "the cursor is back"
    assert "GPU monitor" in seen and "\x1b[36m" in seen


def test_colours_can_be_refused(tmp_path):
    seen, code = on_a_terminal(signal.SIGINT, tmp_path, NO_COLOR="1")
    assert code == 0 and "GPU monitor" in seen
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", seen)


def test_a_dumb_terminal_gets_text(tmp_path):
    result = process("gpu", "--once", cwd=tmp_path, TERM="dumb")
    assert result.code == 0 and ESCAPE not in result.out


def test_an_encoding_without_bars_gets_numbers(tmp_path):
    result = process("gpu", "--once", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert result.code == 0
    assert not re.search(r"\\u25|\\u2[0-9a-f]{3}", result.out) and "GiB" in result.out


def test_gpus_as_text_and_as_json(two_gpus, capsys):
    shown = run_here(capsys, "gpu", "--once")
    assert (shown.code, shown.err) == (0, "")
    assert "GPU 0  NVIDIA L40S" in shown.out and "GPU 1  NVIDIA A10" in shown.out and "● 84 °C warm" in shown.out
    record = json.loads(run_here(capsys, "gpu", "--once", "--json").out)
    assert [gpu["name"] for gpu in record["gpus"]] == ["NVIDIA L40S", "NVIDIA A10"]
    assert record["gpus"][0]["pcie_receive_mb_per_second"] == 1250.0, "the monitor asks for the slow fields, too"


def test_a_gpu_that_vanishes_between_two_readings_is_no_crash(monkeypatch, capsys, tmp_path):
    library = FakeNvml([answers(), answers()])
    monkeypatch.setattr(machine_gpu, "_nvml", Nvml(library))
    lost = Refuses(pynvml.NVML_ERROR_GPU_IS_LOST)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            library.devices[1] = dict.fromkeys(answers(), lost)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    result = run_here(capsys, "gpu", "--csv", tmp_path / "gpu.csv")
    assert result.code == 0
    assert result.out.count("GPU 0  NVIDIA L40S") == 2 and result.out.count("lost: ") == 1
    written = list(csv.DictReader((tmp_path / "gpu.csv").read_text().splitlines()))
    assert [row["gpu_problem"][:4] for row in written] == ["", "", "", "lost"]


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "1e9", "soon"])
def test_an_interval_that_cannot_be_is_a_wrong_request(capsys, interval):
    result = run_here(capsys, "gpu", "--once", "--interval", interval)
    assert result.code == 2
    assert "interval" in result.err.lower() and "Traceback" not in result.err


def test_a_table_that_is_something_elses_is_a_wrong_request(capsys, tmp_path):
    table = tmp_path / "loss.csv"
    table.write_text("step,loss\n1,2.5\n")
    result = run_here(capsys, "gpu", "--once", "--csv", table)
    assert (result.code, result.out) == (2, "")
    assert "E-ENV-005" in result.err and str(table) in result.err and "luthier explain E-ENV-005" in result.err
    assert table.read_text() == "step,loss\n1,2.5\n"


def test_a_pipe_is_no_table(capsys, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    result = run_here(capsys, "gpu", "--once", "--csv", tmp_path / "pipe")
    assert (result.code, result.out) == (2, "") and "E-ENV-005" in result.err and "pipe" in result.err


def test_help_says_what_it_does(capsys):
    result = run_here(capsys, "gpu", "--help")
    assert result.code == 0
    for words in ("--interval", "--once", "--json", "--csv", "--output-dir", "Ctrl-C", "luthier gpu --interval 5"):
        assert words in result.out
