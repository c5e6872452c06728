"""Files as they are met live: torn, cut, replaced, huge, missing, junk; and the same events however they arrive."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.events import tail
from luthier.events.codecs import lines
from luthier.events.follow import open_log
from luthier.events.line import format_line
from luthier.events.record import to_record
from luthier.events.types import Log, Notice, RunStarted, Timing
from luthier.monitor.state import RunState, fold
from tests.events.stream import evaluated, finished, log, started, whole_run

LOGS = Path(__file__).parent / "logs"
RECORDED = sorted(path.name for path in LOGS.iterdir())
QUIET = 3
ANY_FILE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def record(event, attempt="a", time=1.7e9):
    return json.dumps(to_record(event, time=time, attempt=attempt), separators=(",", ":")).encode() + b"\n"


def line(event):
    return f"{format_line(event)}\n".encode()


def steps(told):
    return [item.event.step for item in told if isinstance(item.event, Log)]


def settled(follower):
    return [item for _ in range(QUIET) for item in follower.poll()]


def plain(told):
    """Comparable: nan is not equal to itself, and times depend on when one looks."""
    return [repr(item.event) + item.attempt for item in told]


class TestNamedRecord:
    """A training.log that says where its events are."""

    @staticmethod
    def run(folder, attempt="a1b2", first_step=0, to=20):
        """What a run writes: its events, and the lines of its log."""
        (folder / "checkpoints").mkdir(exist_ok=True)
        start = replace(started(first_step=first_step), record=f"checkpoints/events.jsonl#{attempt}")
        events = [
            start,
            *(log(step) for step in range(first_step + 10, to + 1, 10)),
            Timing(to, 0.0, 0.1, 0.2, 0.3, 0.4),
        ]
        with (folder / "checkpoints" / "events.jsonl").open("ab") as file:
            file.writelines(record(event, attempt) for event in events)
        with (folder / "training.log").open("ab") as file:
            file.writelines(line(event) for event in events if format_line(event))
        return events

    def test_the_events_are_read_instead_with_plan_and_timing(self, tmp_path):
        events = self.run(tmp_path)
        follower = open_log(tmp_path / "training.log")
        assert [item.event for item in follower.poll()] == events
        assert follower.source == "Luthier events.jsonl, named by training.log"
        whole = open_log(tmp_path / "training.log", whole=True)
        assert [item.event for item in whole.everything()] == events

    def test_a_live_run_is_followed_there(self, tmp_path):
        self.run(tmp_path)
        follower = open_log(tmp_path / "training.log")
        follower.poll()
        with (tmp_path / "checkpoints" / "events.jsonl").open("ab") as file:
            file.write(record(log(30), "a1b2"))
        assert steps(follower.poll()) == [30]
        assert [item for _ in range(20) for item in follower.poll()] == [], "looking again tells nothing twice"

    def test_events_that_are_named_later_take_over(self, tmp_path):
        (tmp_path / "training.log").write_bytes(line(Notice("info", "loading")))
        follower = open_log(tmp_path / "training.log")
        state = RunState()
        for item in settled(follower):
            state = fold(state, item.event, item.time)
        self.run(tmp_path)
        for _ in range(20):
            for item in follower.poll():
                state = fold(state, item.event, item.time)
        assert state.plan == started().plan
        assert [point.step for point in state.history] == [10, 20]
        assert len(state.timings) == 1

    @pytest.mark.parametrize("what", ["gone", "another attempt", "another file", "torn line"])
    def test_the_log_itself_is_read_where_they_are_not_its_own(self, tmp_path, what):
        self.run(tmp_path)
        path, events = tmp_path / "training.log", tmp_path / "checkpoints" / "events.jsonl"
        if what == "gone":
            events.unlink()
        elif what == "another attempt":
            with events.open("ab") as file:
                file.write(record(started(), "c3d4") + record(log(10), "c3d4"))
        elif what == "another file":
            path.write_text(path.read_text().replace("events.jsonl#", "secrets.txt#"))
        else:
            path.write_bytes(path.read_bytes().partition(b"a1b2")[0])
        told = settled(open_log(path))
        assert told[0].event == replace(started(), plan={})
        assert steps(told) == ([] if what == "torn line" else [10, 20])

    def test_an_attempt_that_goes_on_in_the_same_log_is_the_one(self, tmp_path):
        self.run(tmp_path)
        again = self.run(tmp_path, "c3d4", first_step=20, to=40)
        told = open_log(tmp_path / "training.log").poll()
        assert [item.event for item in told][-len(again) :] == again
        assert steps(told) == [10, 20, 30, 40]

    def test_another_run_is_redirected_into_the_same_log(self, tmp_path):
        self.run(tmp_path)
        follower = open_log(tmp_path / "training.log")
        follower.poll()
        (tmp_path / "training.log").write_bytes(line(Notice("info", "loading")))
        told = [item.event for _ in range(20) for item in follower.poll()]
        assert told == [Notice("info", "loading")]
        (tmp_path / "checkpoints").rename(tmp_path / "checkpoints-1")
        events = self.run(tmp_path, "e5f6", to=30)
        told = [item.event for _ in range(20) for item in follower.poll()]
        assert told[-len(events) :] == events


class TestLive:
    def test_new_lines_show_at_the_next_look(self, tmp_path):
        path = tmp_path / "events.jsonl"
        path.write_bytes(record(started()) + record(log(10)))
        follower = open_log(path)
        assert len(follower.poll()) == 2
        assert follower.poll() == []
        with path.open("ab") as file:
            file.write(record(log(20)))
        assert steps(follower.poll()) == [20]

    def test_a_torn_line_waits_for_its_end(self, tmp_path):
        path = tmp_path / "events.jsonl"
        last = record(log(10))
        path.write_bytes(record(started()) + last[:40])
        follower = open_log(path)
        assert len(settled(follower)) == 1
        with path.open("ab") as file:
            file.write(last[40:])
        assert steps(follower.poll()) == [10]

    @pytest.mark.parametrize("name", ["events.jsonl", "training.log"])
    def test_a_whole_last_line_without_a_line_break_is_told_when_it_is_quiet(self, tmp_path, name):
        first, last = (log(10), log(20))
        text = (
            record(first) + record(last)
            if name == "events.jsonl"
            else f"{format_line(first)}\n{format_line(last)}\n".encode()
        )
        path = tmp_path / name
        path.write_bytes(text[:-1])
        follower = open_log(path)
        assert steps(follower.poll()) == [10]
        assert steps(settled(follower)) == [20]
        with path.open("ab") as file:
            file.write(b"\n")
        assert settled(follower) == []

    def test_a_file_that_is_not_there_is_waited_for(self, tmp_path):
        path = tmp_path / "out" / "events.jsonl"
        follower = open_log(path)
        assert follower.poll() == []
        assert follower.source == f"waiting for {path}"
        path.parent.mkdir()
        path.write_bytes(b"")
        assert follower.poll() == []
        path.write_bytes(record(log(10)))
        assert steps(follower.poll()) == [10]
        assert follower.source == "Luthier events.jsonl"

    def test_a_replaced_file_is_read_to_its_end_and_then_the_new_one(self, tmp_path):
        path = tmp_path / "training.log"
        path.write_text(f"{format_line(log(10))}\n")
        follower = open_log(path)
        follower.poll()
        with path.open("a") as file:
            file.write(f"{format_line(log(20))}\n")
        path.rename(tmp_path / "training.log.1")
        assert steps(follower.poll()) == [20]
        path.write_text(f"{format_line(log(30))}\n")
        told = follower.poll()
        assert steps(told) == [30]
        assert not any(isinstance(item.event, RunStarted) for item in told), "the run goes on"

    def test_a_file_that_was_cut_is_read_from_its_start(self, tmp_path):
        path = tmp_path / "events.jsonl"
        path.write_bytes(record(started()) + record(log(10)) + record(log(20)))
        follower = open_log(path)
        follower.poll()
        path.write_bytes(record(started(), "b"))
        assert [item.attempt for item in follower.poll()] == ["b"]

    def test_a_file_that_was_written_anew_and_is_longer_is_read_from_its_start(self, tmp_path):
        path = tmp_path / "training.log"
        path.write_text(f"{format_line(started())}\n{format_line(log(10))}\n")
        follower = open_log(path)
        state = RunState()
        for item in follower.poll():
            state = fold(state, item.event, item.time)
        other = RunStarted("other", 50, 0, 1.0, {})
        path.write_text("".join(f"{format_line(event)}\n" for event in (other, log(5), log(10), log(15))))
        for item in follower.poll():
            state = fold(state, item.event, item.time)
        assert (state.run, [point[0] for point in state.history]) == ("other", [5, 10, 15])

    def test_another_format_in_the_same_place(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(record(started()) + record(log(10)))
        follower = open_log(path)
        follower.poll()
        path.write_text("{'loss': 1.0, 'step': 5}\n")
        assert steps(follower.poll()) == [5]
        assert follower.source == "Trainer log, steps as written"
        path.write_bytes(record(log(7)))
        assert steps(follower.poll()) == [7]

    def test_a_file_that_goes_and_comes_back_is_not_told_twice(self, tmp_path):
        path = tmp_path / "events.jsonl"
        path.write_bytes(record(log(10)))
        follower = open_log(path)
        follower.poll()
        path.rename(tmp_path / "away")
        assert follower.poll() == []
        (tmp_path / "away").rename(path)
        assert follower.poll() == []
        with path.open("ab") as file:
            file.write(record(log(20)))
        assert steps(follower.poll()) == [20]

    def test_the_clock_goes_back_and_steps_come_twice(self, tmp_path):
        path = tmp_path / "events.jsonl"
        path.write_bytes(record(log(10), time=2e9) + record(log(10), time=1e9) + record(log(20), time=1e9))
        told = open_log(path).poll()
        assert [(item.event.step, item.time) for item in told] == [(10, 2e9), (10, 1e9), (20, 1e9)]

    def test_nan_and_inf(self, tmp_path):
        path = tmp_path / "a.log"
        path.write_text(
            "{'loss': 'nan', 'grad_norm': 'inf', 'epoch': '0.1'}\n{'loss': nan, 'grad_norm': -inf, 'step': 9}\n"
        )
        first, second = (item.event for item in open_log(path).poll() if isinstance(item.event, Log))
        assert math.isnan(first.loss)
        assert first.grad_norm == math.inf
        assert (second.step, second.grad_norm) == (9, -math.inf)

    @pytest.mark.parametrize("what", ["pipe", "device", "no permission", "null byte", "loop", "long name"])
    def test_what_is_no_log_file_is_said_and_never_waited_on(self, tmp_path, what):
        path = tmp_path / "log"
        if what == "pipe":
            os.mkfifo(path)
        elif what == "device":
            path = Path("/dev/zero")
        elif what == "no permission":
            path.write_text("x")
            path.chmod(0)
            if os.access(path, os.R_OK):
                pytest.skip("root may read everything")
        elif what == "loop":
            path.symlink_to(path)
        else:
            path = tmp_path / ("a\0b" if what == "null byte" else "x" * 5000)
        follower = open_log(path)
        assert settled(follower) == []
        assert follower.source.startswith("cannot read ")
        follower.close()


class TestFolder:
    def test_the_best_log_of_a_folder(self, tmp_path):
        follower = open_log(tmp_path)
        assert follower.poll() == []
        assert follower.source == f"waiting for a log in {tmp_path}"
        (tmp_path / "debug.log").write_text("nothing\n")
        state = {"log_history": [{"loss": 1.0, "step": 1}], "max_steps": 9}
        for name, content in (
            ("checkpoint-1/trainer_state.json", json.dumps(state).encode()),
            ("runs/a/" + next(n for n in RECORDED if "tfevents" in n), None),
            ("train.log", b"{'loss': 1.0, 'step': 3}\n"),
            ("trainer_log.jsonl", b'{"current_steps": 4, "total_steps": 9, "loss": 1.0}\n'),
            ("events.jsonl", record(log(5))),
        ):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((LOGS / path.name).read_bytes() if content is None else content)
            told = [item for _ in range(10) for item in follower.poll()]
            assert steps(told), name
        assert follower.source == "Luthier events.jsonl"

    def test_the_newest_checkpoint(self, tmp_path):
        def save(step):
            path = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
            path.parent.mkdir()
            history = [{"loss": 1.0, "step": at} for at in range(1, step + 1)]
            path.write_text(json.dumps({"log_history": history, "max_steps": 20}))
            os.utime(path, (step, step))

        save(9)
        follower = open_log(tmp_path)
        assert steps(follower.poll()) == list(range(1, 10))
        save(11)
        told = follower.poll()
        assert steps(told) == [10, 11]
        assert [item.time for item in told] == [10.0, 11.0]

    def test_the_name_of_the_run(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "trainer_log.jsonl").write_text('{"current_steps": 4, "total_steps": 9, "loss": 1.0}\n')
        monkeypatch.chdir(tmp_path / "out")
        assert open_log(".").poll()[0].event.run == "out"


class TestLong:
    """A long history is thinned; head and tail are whole, and nothing but log steps is lost."""

    COUNT = 6000

    @pytest.fixture(autouse=True)
    def sizes(self, monkeypatch):
        """A tenth of the real ones, so that a tenth of the lines is long."""
        for name in ("WHOLE", "HEAD", "TAIL", "CHUNK"):
            monkeypatch.setattr(tail, name, getattr(tail, name) // 10)
        monkeypatch.setattr(lines, "KEEP", lines.KEEP // 10)
        monkeypatch.setattr(lines, "OTHERS", lines.OTHERS // 10)

    def write(self, path, form):
        others = {2000: evaluated(2000, 1.0), 4000: Notice("warning", "look here", step=4000)}
        with path.open("wb") as file:
            file.write(form(started(0, self.COUNT)))
            for step in range(1, self.COUNT + 1):
                file.write(form(log(step, 2.0, self.COUNT)))
                if step in others:
                    file.write(form(others[step]))
            file.write(form(finished(step=self.COUNT)))

    @pytest.mark.parametrize("name", ["events.jsonl", "training.log"])
    def test_thinned(self, tmp_path, name):
        form = record if name == "events.jsonl" else line
        path = tmp_path / name
        self.write(path, form)
        follower = open_log(path)
        told = settled(follower)
        taken = steps(told)
        assert f"history: one log step in {follower._source._every}" in follower.source
        assert lines.KEEP / 2 < len(taken) < 3 * lines.KEEP
        assert taken == sorted(set(taken))
        assert taken[:30] == list(range(1, 31))
        assert taken[-100:] == list(range(self.COUNT - 99, self.COUNT + 1))
        gaps = {after - before for before, after in itertools.pairwise(taken)}
        assert max(gaps) <= 2 * follower._source._every
        kinds = [item.event.kind for item in told if not isinstance(item.event, Log)]
        assert kinds == ["run_started", "evaluated", "notice", "run_finished"]
        with path.open("ab") as file:
            file.write(form(log(self.COUNT + 1)))
        assert steps(follower.poll()) == [self.COUNT + 1]

    def test_counted_steps_stay_right_when_lines_are_left_out(self, tmp_path):
        path = tmp_path / "hf.log"
        with path.open("w") as file:
            for step in range(1, self.COUNT + 1):
                file.write(f"{{'loss': '2.0', 'learning_rate': '{step / 1e5}', 'epoch': '{step / 1e3:.4g}'}}\n")
        told = open_log(path).poll()
        assert all(round(item.event.learning_rate * 1e5) == item.event.step for item in told[1:])
        assert steps(told)[-1] == self.COUNT

    @pytest.mark.parametrize("block", [1, 7000], ids=["as printed", "in blocks"])
    def test_steps_by_the_bar_stay_right_when_lines_are_left_out(self, tmp_path, block):
        path = tmp_path / "bars.log"
        late, drawn = "", ""
        with path.open("w") as file:
            file.write(f"\r  0%|     | 0/{self.COUNT * 5} [00:00<?, ?it/s]")
            for step in range(1, self.COUNT + 1):
                bar = f"\r 50%|#####     | {step * 5}/{self.COUNT * 5} [1:00:00<10:00, 1.00it/s]"
                values = {"loss": "2.0", "learning_rate": f"{step / 1e5}", "epoch": f"{step / 1e3:.4g}"}
                file.write(f"{drawn}\r{' ' * 40}\r")
                late += f"{values}\n"
                if len(late) >= block:
                    # As a buffer of that size does it: the last line is torn.
                    end = len(late) // block * block if block > 1 else len(late)
                    file.write(late[:end])
                    late = late[end:]
                drawn = bar
            file.write(drawn + late)
        follower = open_log(path)
        logs = [item.event for item in settled(follower) if isinstance(item.event, Log)]
        assert "history" in follower.source
        assert [event for event in logs if round(event.learning_rate * 1e5) * 5 != event.step] == []
        assert len(logs) > 500
        assert logs[-1].step == self.COUNT * 5

    def test_beyond_the_budget_parts_are_read(self, tmp_path, monkeypatch):
        path = tmp_path / "events.jsonl"
        self.write(path, record)
        monkeypatch.setattr(tail, "CHUNK", 2**15)
        monkeypatch.setattr(tail, "BUDGET", 2**18)
        follower = open_log(path)
        told = follower.poll()
        assert "of the file" in follower.source
        taken = steps(told)
        assert taken == sorted(set(taken))
        assert taken[-1] == self.COUNT
        holes = [after - before for before, after in itertools.pairwise(taken) if after - before > 50]
        assert 6 <= len(holes) <= 9
        assert max(holes) < self.COUNT / 5

    def test_read_whole_nothing_is_thinned(self, tmp_path):
        path = tmp_path / "events.jsonl"
        self.write(path, record)
        assert steps(open_log(path, whole=True).everything()) == list(range(1, self.COUNT + 1))
        assert list(open_log(tmp_path / "nothing", whole=True).everything()) == []

    def test_a_line_of_a_gib_takes_no_memory(self, tmp_path):
        path = tmp_path / "events.jsonl"
        with path.open("wb") as file:
            file.write(record(log(10)))
            file.truncate(2**30)
        follower = open_log(path)
        tracemalloc.start()
        try:
            assert steps(settled(follower)) == [10]
            with path.open("ab") as file:
                file.write(b"\n" + record(log(20)))
            assert steps(follower.poll()) == [20]
            assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
        finally:
            tracemalloc.stop()

    def test_many_short_pieces_of_one_line_take_no_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tail, "LONGEST", 40_000)
        path = tmp_path / "a.log"
        path.write_bytes(b"{'loss': 1.0, 'step': 1}\n")
        follower = open_log(path)
        follower.poll()
        splitter = follower._source._tail._splitter
        with path.open("ab", buffering=0) as file:
            for _ in range(5000):
                file.write(b"0123456789")
                assert follower.poll() == []
                assert len(splitter._pieces) <= 1025
                assert splitter._size <= 40_010
            file.write(b"\n{'loss': 1.0, 'step': 2}\n")
        assert steps(follower.poll()) == [2]

    def test_a_bar_that_is_redrawn_for_hours_is_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tail, "LONGEST", 10_000)
        path = tmp_path / "a.log"
        follower = open_log(path)
        with path.open("ab", buffering=0) as file:
            for step in range(1000):
                file.write(f"\r 50%|#####     | {step}/2000 [1:00:00<10:00, 1.00it/s]".encode())
                follower.poll()
            file.write(b"\r" + b" " * 40 + b"\r{'loss': 1.0, 'epoch': 0.1}\n")
            file.write(b"\r 50%|#####     | 1000/2000 [1:00:00<10:00, 1.00it/s]")
        assert steps(follower.poll()) == [1000]


def arrive(path, data, cuts):
    """What is told of a file whose bytes come in pieces."""
    follower = open_log(path)
    told = []
    with path.open("wb", buffering=0) as file:
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            file.write(data[start:end])
            if end > start:
                told += follower.poll()
    told += settled(follower)
    follower.close()
    return told


@pytest.mark.parametrize("name", RECORDED)
@settings(ANY_FILE, max_examples=8)
@given(data=st.data())
def test_a_recorded_log_gives_the_same_events_in_any_pieces(tmp_path, name, data):
    whole = (LOGS / name).read_bytes()
    if name == "trainer_state.json":
        pytest.skip("is rewritten whole")
    cuts = sorted(data.draw(st.lists(st.integers(12, len(whole)), max_size=6)))
    path = tmp_path / name
    at_once = arrive(path, whole, [])
    path.unlink()
    assert plain(arrive(path, whole, cuts)) == plain(at_once)
    path.unlink()
    assert len(at_once) > 6


@pytest.mark.parametrize("form", ["events.jsonl", "training.log"])
@settings(ANY_FILE, max_examples=15)
@given(data=st.data())
def test_a_whole_run_gives_the_same_events_in_any_pieces(tmp_path, form, data):
    if form == "events.jsonl":
        whole = b"".join(record(event) for event in whole_run())
    else:
        whole = "".join(f"{line}\n" for event in whole_run() if (line := format_line(event))).encode("utf-8", "replace")
    cuts = sorted(data.draw(st.lists(st.integers(1, len(whole)), max_size=8)))
    path = tmp_path / form
    at_once = arrive(path, whole, [])
    path.unlink()
    assert plain(arrive(path, whole, cuts)) == plain(at_once)
    path.unlink()


FRAGMENTS = st.sampled_from(
    [
        b"{'loss': 1.0, 'epoch': 0.1}\n", b"{'loss': '2', 'step': 3}\n", b"{'eval_loss': 1.0}\n", b"{'loss': ",
        b"\r 50%|#####     | 5/10 [00:05<00:05, 1.00it/s]", b"\r  0%|     | 0/10 [00:00<?, ?it/s]", b"\r", b"\n",
        b"Traceback (most recent call last):\n", b"  File\n", b"ValueError: x\n", b"run a: 5 steps, 1 epochs\n",
        b"sample at step 3\n", b"  > a\n", b"    b\n", b"info: x\n", b"  change: y\n", b"failed at step 3\n",
        b"{'train_runtime': 5.0, 'epoch': 1e999}\n", b"Total steps = 12\n", record(log(5)), record(started()),
        b'{"current_steps": 4, "total_steps": 9, "loss": "x", "elapsed_time": 3}\n', b'{"event": "log"}\n',
        (LOGS / "trainer_state.json").read_bytes()[:3000], b"\xff\xfe\x00", b"{" * 50, b"1" * 400,
        *((LOGS / name).read_bytes()[:900] for name in RECORDED),
    ]
)  # fmt: skip


@settings(ANY_FILE, max_examples=150)
@given(st.lists(st.binary(max_size=200) | FRAGMENTS, max_size=12), st.booleans())
def test_any_bytes_in_any_pieces_never_raise(tmp_path, pieces, rewrite):
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    follower = open_log(path)
    for piece in pieces:
        with path.open("wb" if rewrite else "ab") as file:
            file.write(piece)
        for item in follower.poll():
            assert isinstance(item.time, float)
            fold(RunState(), item.event, item.time)
    settled(follower)
    assert follower.source
    follower.close()


@settings(ANY_FILE, max_examples=30)
@given(st.data())
def test_a_damaged_recorded_log_never_raises(tmp_path, data):
    name = data.draw(st.sampled_from(RECORDED))
    whole = bytearray((LOGS / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=50))
    path = tmp_path / name
    path.write_bytes(bytes(whole))
    follower = open_log(path)
    settled(follower)
    follower.close()
    path.unlink()


def test_following_imports_neither_torch_nor_tensorboard():
    code = (
        "import sys, luthier.events.follow; print({'torch', 'transformers', 'tensorboard', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
