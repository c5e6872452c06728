"""The GPU monitor's screen for any readings and any size, and the records that it writes."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from luthier.errors import MissingError
from luthier.machine.gpu import Gpu, Process, Readings, System
from luthier.machine.gpu.nvml import Nvml, throttle_in_words
from luthier.monitor.gpu.record import COLUMNS, Reading, Table, as_json
from luthier.monitor.gpu.view import LOWEST, NARROWEST, lines, render, small_bars
from luthier.monitor.gpu.watch import watch
from luthier.monitor.gpu.words import heat, temperature
from tests.events.stream import ESCAPES
from tests.machine.fake_nvml import FakeNvml, Refuses, answers, instance, partitioned

SYSTEM = System((5.0, 100.0, 40.0, 0.0), 5.25, 31.0, 0.5, 8.0, "/data/runs/checkpoints", 77.1, 252.0)
TRAINING = Process(4711, "ada", "python src/training/train.py", 6.2)


def gpu(index=0, **changes):
    (read,) = Nvml(FakeNvml([answers()])).read(detailed=True).gpus
    return replace(read, index=index, processes=(TRAINING,), **changes)


def screen(gpus=(), width=80, height=24, system=SYSTEM, problem="", color=None, no_color=False):
    console = Console(
        file=io.StringIO(), width=width, height=height, color_system=color, force_terminal=True, no_color=no_color
    )
    console.print(render(Readings(tuple(gpus), problem, "570.86.15"), system, width, height, "14:03:22"))
    return console.file.getvalue()


def text_of(gpus, width=100, problem="", **more):
    return "\n".join(line.plain for line in lines(Readings(tuple(gpus), problem), SYSTEM, width, **more))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("width", [NARROWEST, 80, 120, 200])
@pytest.mark.parametrize("height", [LOWEST, 24, 60])
def test_it_fits_the_terminal(count, width, height):
    shown = screen([gpu(index) for index in range(count)], width, height).rstrip("\n").split("\n")
    assert {cell_len(line) for line in shown} == {width}
    assert len(shown) <= height


@pytest.mark.parametrize("name", ["NVIDIA L40S", "NVIDIA RTX PRO 6000 Blackwell Server Edition"])
def test_the_utilization_is_on_the_narrowest_terminal_too(name):
    shown = screen([gpu(index, name=name, utilization_percent=90.0 + index) for index in range(8)], NARROWEST, 24)
    rows = [line for line in shown.split("\n") if " GB" not in line and "%" in line][:8]
    assert "util" in shown
    assert all(f"9{index} %" in row and f"│ {index} " in row for index, row in enumerate(rows)) and len(rows) == 8


numbers = st.one_of(st.floats(), st.floats(0, 100))
texts = st.one_of(st.text(max_size=40), st.just(ESCAPES))
processes = st.builds(Process, st.integers(0, 2**32), texts, texts, numbers)
slices = st.builds(Gpu, st.integers(0, 9), name=texts, memory_used_gib=numbers, memory_total_gib=numbers, problem=texts)
gpus = st.builds(
    Gpu,
    st.integers(0, 999),
    name=texts,
    memory_used_gib=numbers,
    memory_total_gib=numbers,
    utilization_percent=numbers,
    temperature_c=numbers,
    temperature_limit_c=numbers,
    power_w=numbers,
    power_limit_w=numbers,
    sm_clock_mhz=numbers,
    memory_clock_mhz=numbers,
    pcie_generation=st.none() | st.integers(0, 9),
    pcie_width=st.none() | st.integers(0, 32),
    pcie_width_max=st.none() | st.integers(0, 32),
    pcie_receive_mb_per_second=numbers,
    throttle=st.none() | st.integers(0, 2**12).map(throttle_in_words),
    processes=st.none() | st.lists(processes, max_size=3).map(tuple),
    mig=st.none() | st.lists(slices, max_size=2).map(tuple),
    problem=st.just("") | texts,
)
loads = st.lists(st.floats(0, 100), max_size=40).map(tuple)
systems = st.builds(System, loads, numbers, numbers, numbers, numbers, texts, numbers, numbers)


@settings(deadline=None, max_examples=30)
@given(st.lists(gpus, max_size=6), systems, st.text(max_size=200), st.integers(NARROWEST, 200), st.integers(1, 60))
def test_any_readings_fit_any_terminal(found, system, problem, width, height):
    shown = screen(found, width, height, system, problem).rstrip("\n").split("\n")
    assert all(cell_len(line) <= width for line in shown)
    assert len(shown) <= max(height, LOWEST)
    everything = lines(Readings(tuple(found), problem), system, width)
    for line in (*map(Text, shown), *everything):
        assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs"} for char in line.plain)
    reading = Reading(1.0, Readings(tuple(found), problem), system)
    assert json.loads(as_json(reading), parse_constant=lambda name: pytest.fail(name))["time"] == 1.0


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b31m", "\u202e\u2066", "\r\n\x00\x7f"])
@pytest.mark.parametrize("count", [1, 8])
def test_what_another_program_is_called_cannot_reach_the_terminal(hostile, count):
    bad = [gpu(i, name=hostile, problem=hostile) for i in range(count)]
    bad = [replace(one, processes=(Process(1, hostile, f"[red]{hostile}x[/]", 1.0),)) for one in bad]
    for shown in (screen(bad, height=60), text_of(bad)):
        assert all(char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs"} for char in shown)
        assert "[red]" in shown  # nor is it read as rich's own markup


def test_a_training_gpu_is_told_in_full():
    shown = text_of([gpu()])
    for words in (
        "GPU 0  NVIDIA L40S",
        "6.75 / 44.50 GiB  15 %",
        "98 %   healthy training: 90–100 %",
        "● 45 °C cool   power 288 / 350 W   MHz: SM 2,520, memory 9,001",
        "gen 4 x16   in 1,250, out 80 MB/s   clocks held by power limit",
        "4711  ada             0     6.20  python src/training/train.py",
        "36 %  4 cores  ▁█▄▁",
        "5.25 / 31.00 GiB  17 %",
        "0.50 / 8.00 GiB  6 %",
        "77.1 of 252.0 GiB free  /data/runs/checkpoints",
        "● cool   ● warm: from 80 °C   ● hot: slows itself down (from 88 °C)",
    ):
        assert words in shown, words


def test_the_guides_threshold_and_the_devices_own():
    """The guide calls a GPU below 80 degrees healthy; where it slows itself down it says itself."""
    states = [heat(gpu(temperature_c=degrees)) for degrees in (79.0, 80.0, 87.0, 88.0)]
    assert states == [("green", "cool"), ("yellow", "warm"), ("yellow", "warm"), ("red", "hot")]
    assert heat(gpu(temperature_c=70.0, throttle=("heat (hardware)",))) == ("red", "hot")
    assert heat(gpu(temperature_c=95.0, temperature_limit_c=math.nan)) == ("yellow", "warm")
    assert heat(gpu(temperature_c=math.nan)) == ("dim", "")
    assert temperature(gpu(temperature_c=math.nan)).plain == "● -"


def test_the_temperature_is_coloured_and_in_words_for_those_who_see_no_colour():
    shown = screen([gpu(temperature_c=84.0)], color="standard")
    assert "\x1b[33m● \x1b[0m\x1b[1m84 °C\x1b[0m warm" in shown
    plain = screen([gpu(temperature_c=84.0)], color="standard", no_color=True)
    assert "\x1b[33m" not in plain and "● \x1b[1m84 °C\x1b[0m warm" in plain


def test_memory_that_is_nearly_full_changes_colour():
    for used, color in ((30.0, "36"), (40.0, "33"), (43.5, "31")):
        for count in (1, 8):
            found = [gpu(i, memory_used_gib=used) for i in range(count)]
            assert f"\x1b[{color}m━━━" in screen(found, color="standard"), (used, count)


def test_what_is_not_known_is_a_dash():
    bare = Gpu(0, name="NVIDIA T400")
    shown = text_of([bare], bars=False)
    assert "  VRAM     -   weights" in shown and "  GPU util -   share of time" in shown
    assert "● -   power -   MHz: SM -, memory -" in shown
    assert "gen - x-   in -, out - MB/s   clocks held by -" in shown
    assert "nan" not in shown and "warm" not in shown
    assert "nan" not in text_of([bare] * 8)


def test_a_narrow_slot_and_free_clocks_are_told():
    assert "gen 4 x8 of x16" in text_of([gpu(pcie_width=8)])
    assert "clocks free" in text_of([gpu(throttle=())])


def test_why_there_is_no_gpu_is_the_first_line_and_the_rest_is_shown():
    problem = "No NVIDIA GPU: no driver here (the NVML library is not found)."
    shown = text_of([], problem=problem).split("\n")
    assert shown[0] == f"! {problem}"
    assert [line.split()[0] for line in shown[2:]] == ["CPU", "RAM", "swap", "disk"]


def test_a_lost_gpu_is_a_line_and_the_others_go_on():
    lost = Gpu(1, name="NVIDIA A10", problem="lost: the driver cannot reach it")
    shown = text_of([gpu(), lost]).split("\n")
    at = shown.index("GPU 1  NVIDIA A10")
    assert shown[at + 1] == "  lost: the driver cannot reach it" and shown[0] == "GPU 0  NVIDIA L40S"
    rows = text_of([*(gpu(i) for i in range(6)), replace(lost, index=6)]).split("\n")
    assert rows[7].startswith("6 A10 ") and rows[7].endswith("  lost: the driver cannot reach it")


def test_trouble_with_one_field_leaves_the_others():
    shown = text_of([gpu(power_w=math.nan, problem="the driver reports an unknown error")])
    assert "the driver reports an unknown error" in shown
    assert "power - / 350 W" in shown and "6.75 / 44.50 GiB" in shown


def test_eight_gpus_are_rows_that_keep_what_matters_most():
    found = [gpu(index, memory_used_gib=5.0 * index) for index in range(8)]
    narrow, wide = screen(found, 80, 24), screen(found, 200, 60)
    for shown in (narrow, wide):
        assert [f"│ {index} L40S" in shown for index in range(8)] == [True] * 8
        assert "35.0 / 44.5" in shown and "98 %" in shown and "● 45 °C cool" in shown
    assert "power limit" in wide and "gen 4 x16" in wide and "1,250, 80" in wide
    assert "gen 4 x16" not in narrow and "CPU" in narrow and "python src/training/train.py" in narrow


def test_rows_stand_in_columns():
    found = [gpu(index, memory_used_gib=11.1 * index) for index in range(5)]
    rows = text_of(found, 120).split("\n")[1:6]
    for mark in ("●", "%", "/"):
        assert len({row.index(mark) for row in rows}) <= (1 if mark == "●" else 2), mark
    assert len({row.index("● 45 °C") for row in rows}) == 1


def test_a_low_terminal_says_how_much_it_leaves_out():
    shown = screen([gpu(index) for index in range(8)], 80, 12)
    assert "and 6 more lines: make the terminal higher" in shown and "CPU" in shown


def test_processes_that_do_not_fit_are_counted_and_the_greatest_are_shown():
    many = tuple(Process(1000 + i, "ada", f"python worker.py {i}", float(i)) for i in range(30))
    shown = screen([replace(gpu(), processes=(*many, Process(7, "", "", math.nan)))], 80, 24)
    assert "29.00  python worker.py 29" in shown and "worker.py 3 " not in shown
    count = shown.count("python worker.py")
    assert f"and {31 - count} more" in shown and count >= 4
    assert "hot: slows itself down" in shown, "they take no line from the machine"
    everything = text_of([replace(gpu(), processes=(*many, Process(7, "", "", math.nan)))])
    assert everything.count("worker.py") == 30 and "         7  -               0        -  -" in everything


def test_instances_of_a_partitioned_gpu_are_shown():
    library = FakeNvml([partitioned(instance(), instance()), partitioned()])
    found = Nvml(library).read(detailed=True).gpus
    shown = text_of(found)
    assert "  MIG 1    " in shown and "1.25 / 4.75 GiB  26 %   MIG 1g.5gb" in shown
    assert "NVML gives none while the GPU is partitioned" in shown
    assert "no instance can be seen from here" in shown
    rows = text_of([replace(found[0], index=i) for i in range(5)])
    assert rows.count("A100-SXM4-40GB MIG 1g") == 10


def test_an_instance_that_cannot_be_read_says_so():
    (found,) = Nvml(FakeNvml([partitioned(dict.fromkeys(answers(), Refuses(999)))])).read().gpus
    assert "unknown error" in text_of([found])


@pytest.mark.parametrize(
    ("loads", "width", "drawn"),
    [
        ((0.0, 50.0, 100.0), 10, "▁▅█"),
        ((0.0, 0.0, 100.0, 100.0), 2, "▁█"),
        ((0.0, 100.0), 1, "▅"),
        ((), 5, ""),
        ((1.0,), 0, ""),
        ((-5.0, 250.0), 2, "▁█"),
    ],
)
def test_small_bars(loads, width, drawn):
    assert small_bars(loads, width) == drawn


def test_the_disk_is_drawn_as_full_as_it_is():
    (line,) = [line for line in text_of([]).split("\n") if line.startswith("disk")]
    assert line.count("━") / (line.count("━") + line.count("─")) == pytest.approx(1 - 77.1 / 252, abs=0.05)


def test_without_bars_there_are_only_plain_characters_and_numbers():
    shown = text_of([gpu()], bars=False)
    assert not set("━─╸▁▄█") & set(shown) and "  VRAM     6.75 / 44.50 GiB  15 %" in shown


def test_a_beat_is_kept_whatever_a_reading_takes(monkeypatch, tmp_path):
    """A reading of 0.3 s waits for the rest of the second; one of 2.4 s skips a beat and waits for the next."""
    clock, pauses, lasts = [100.0], [], iter([0.3, 2.4, 0.0])

    def sleep(seconds):
        pauses.append(round(seconds, 3))
        clock[0] += seconds
        if len(pauses) == 4:
            raise KeyboardInterrupt

    def show(reading):
        clock[0] += next(lasts)

    fake = SimpleNamespace(time=lambda: 0.0, monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr("luthier.monitor.gpu.watch.time", fake)
    with pytest.raises(KeyboardInterrupt):
        watch(tmp_path, 1.0, show, once=False)
    assert pauses[1:] == [0.7, 0.6, 1.0]


def reading(*found, problem=""):
    return Reading(1767225600.5, Readings(found, problem, "570.86.15"), SYSTEM)


def test_json_holds_every_field_and_null_for_what_is_not_known():
    line = as_json(reading(gpu(power_w=math.nan, name="L40S \x1b[2J"), Gpu(1)))
    assert "\n" not in line and "\x1b" not in line and line.isascii()
    record = json.loads(line)
    assert record["time"] == 1767225600.5 and record["driver"] == "570.86.15" and record["problem"] == ""
    first, second = record["gpus"]
    assert first["memory_used_gib"] == 6.75 and first["power_w"] is None and first["throttle"] == ["power limit"]
    assert first["processes"] == [
        {"pid": 4711, "user": "ada", "command": "python src/training/train.py", "memory_gib": 6.2}
    ]
    assert second["utilization_percent"] is None and second["processes"] is None
    assert set(first) == set(vars(gpu()))
    assert record["system"]["cpu_percent"] == [5.0, 100.0, 40.0, 0.0] and record["system"]["cpu_mean_percent"] == 36.25


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_has_a_row_for_each_gpu_and_instance_and_is_continued(tmp_path):
    path = tmp_path / "gpu.csv"
    (parts,) = Nvml(FakeNvml([partitioned(instance())])).read().gpus
    with Table(path) as table:
        table.write(reading(gpu(), replace(parts, index=1)))
        assert len(rows(path)) == 3, "on disk before the file is closed"
    with Table(path) as table:
        table.write(reading(problem="none"))
    first, second, part, none = rows(path)
    assert (first["time"], first["gpu"], first["gpu_name"]) == ("1767225600.500", "0", "NVIDIA L40S")
    assert (first["gpu_memory_used_gib"], first["gpu_power_w"], first["gpu_throttle"]) == (
        "6.75",
        "287.5",
        "power limit",
    )
    assert (first["cpu_mean_percent"], first["ram_used_gib"], first["disk_free_gib"]) == ("36.25", "5.25", "77.1")
    assert (second["gpu"], second["gpu_utilization_percent"], part["gpu"]) == ("1", "", "1:0")
    assert (none["gpu"], none["gpu_name"], none["ram_total_gib"]) == ("", "", "31")
    assert none["gpu_problem"] == "none"
    assert path.read_text().count("gpu_name") == 1
    assert {len(row) for row in csv.reader(path.read_text().splitlines())} == {len(COLUMNS)}


def test_a_row_that_a_kill_cut_in_two_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "gpu.csv"
    with Table(path) as table:
        table.write(reading(gpu()))
    path.write_text(path.read_text()[:-20])
    with Table(path) as table:
        table.write(reading(gpu(1)))
    torn, whole = rows(path)
    assert torn["disk_free_gib"] is None and whole["gpu"] == "1" and whole["disk_free_gib"] == "77.1"


HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    "found", ["step,loss\n1,2.5\n", HEADER[:30], HEADER, HEADER.replace("gpu_uuid", "gpu_id") + "\n", "\x00\xff" * 9000]
)
def test_a_table_of_something_else_is_left_alone(tmp_path, found):
    path = tmp_path / "gpu.csv"
    path.write_text(found, encoding="latin-1")
    with pytest.raises(MissingError, match="E-ENV-005") as caught:
        Table(path)
    assert path.read_text(encoding="latin-1") == found
    assert str(path) in str(caught.value) and "the header of this table" in str(caught.value)
    assert caught.value.exit_code == 2 and str(caught.value).count("\n") == 3, "one problem, told once"


def test_a_table_that_cannot_be_written_is_told(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "gpu.csv"):
        with pytest.raises(MissingError, match="E-ENV-005"):
            Table(path)


def test_a_disk_that_fills_up_is_told():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(MissingError, match=r"E-ENV-005.*\n.*"):
        Table(full)
