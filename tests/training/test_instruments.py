"""Where the seconds of a step go, and the readings of the box."""

from __future__ import annotations

import math
import time

import pytest

from luthier import api
from luthier.data import loader
from luthier.events.types import Log, Machine, Timing
from luthier.training import instruments
from luthier.training.instruments import PHASES, MachineReader, Stopwatch
from tests.training.test_resume import config


def seconds(timing):
    return [getattr(timing, f"{phase}_seconds") for phase in PHASES]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test turns: clock(seconds). A machine that pauses changes nothing."""
    now = [0.0]
    monkeypatch.setattr(instruments.time, "perf_counter", lambda: now[0])
    return lambda passed: now.__setitem__(0, now[0] + passed)


def test_a_lap_ends_its_phase_and_means_are_per_step(clock):
    watch, totals = Stopwatch(), []
    for _ in watch.fetched(range(3)):
        for phase in ("forward", "backward", "forward", "optimizer"):
            clock(4.0)
            watch.lap(phase)
        totals.append(watch.stop())
    timing = watch.timing(3)
    assert totals == [16.0] * 3
    assert seconds(timing) == [0.0, 8.0, 4.0, 4.0, 0.0, 0.0]
    assert sum(seconds(watch.timing(4))) == 0, "the next interval starts from nothing"


def test_waiting_for_rows_is_data_and_what_lies_between_steps_is_nothing(clock):
    def slow():
        for item in range(3):
            clock(2.0)
            yield item

    watch = Stopwatch()
    for _ in watch.fetched(slow()):
        watch.lap("forward")
        watch.stop()
        clock(50.0)  # evaluating, saving
    assert seconds(watch.timing(3)) == [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_step_that_begins_on_the_device_starts_where_the_one_before_ended(clock):
    watch = Stopwatch()
    for item in watch.fetched(range(2)):
        watch.lap("optimizer")
        if item == 0:
            watch.next_has_begun()
        watch.stop()
        clock(3.0)  # said of the step
    assert seconds(watch.timing(2)) == [0.0, 0.0, 0.0, 1.5, 0.0, 0.0]


def test_what_lies_between_two_series_of_steps_belongs_to_no_step(clock):
    watch = Stopwatch()
    for _ in range(2):
        for _ in watch.fetched(range(1)):
            watch.lap("forward")
            watch.next_has_begun()
            watch.stop()
            break
        clock(50.0)  # back to a checkpoint
    assert seconds(watch.timing(2)) == [0.0] * 6


def test_each_log_is_followed_by_its_timing_and_the_times_agree(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setattr(instruments, "READ_EVERY_SECONDS", 0.0)
    collate = loader.collate_packed

    def slow(rows, **options):
        time.sleep(0.02)
        return collate(rows)

    monkeypatch.setattr(loader, "collate_packed", slow)
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=4)
    values["data"]["dataloader_num_workers"] = 0
    values["logging"] |= {"logging_steps": 2, "histogram_steps": 2}
    events = list(api.train(values))
    logs = [index for index, event in enumerate(events) if isinstance(event, Log)]
    for index in logs:
        log, timing, machine = events[index : index + 3]
        assert isinstance(timing, Timing) and isinstance(machine, Machine)
        assert log.step == timing.step == machine.step
        assert sum(seconds(timing)) == pytest.approx(log.step_seconds)
        assert timing.data_seconds >= 0.02
        assert min(timing.forward_seconds, timing.backward_seconds, timing.optimizer_seconds) > 0
    assert events[logs[-1] + 1].other_seconds > 0, "histograms"


def test_the_box_is_read_at_most_once_a_second(tmp_path):
    reader = MachineReader(tmp_path / "not there yet")
    (first,) = reader.machine(1)
    assert list(reader.machine(2)) == []
    assert 0 < first.ram_used_gib < first.ram_total_gib
    assert first.disk_free_gib > 0
    assert math.isnan(first.gpu_utilization), "the processor trains here"


def test_measuring_costs_next_to_nothing(tmp_path, monkeypatch):
    """Some microseconds a step and half a millisecond a second; the limits leave room for a slow box."""
    watch = Stopwatch()
    begun = time.process_time()
    for _ in watch.fetched(range(2000)):
        for phase in ("forward", "backward", "optimizer"):
            watch.lap(phase)
        watch.stop()
    assert (time.process_time() - begun) / 2000 < 50e-6
    monkeypatch.setattr(instruments, "READ_EVERY_SECONDS", 0.0)
    reader = MachineReader(tmp_path)
    begun = time.process_time()
    for step in range(100):
        assert len(list(reader.machine(step))) == 1
    assert (time.process_time() - begun) / 100 < 3e-3
