"""Each shape of log, as recorded from real runs (recipes/logs/record.py) or, where that is not possible here, written
after the source that prints it, and what it becomes."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.events.codecs.failure import Failure, explained
from luthier.events.codecs.progress import parse_bar, seconds_of
from luthier.events.codecs.records import masked_crc32c
from luthier.events.codecs.values import count, number
from luthier.events.follow import open_log
from luthier.events.line import format_line
from luthier.events.read import read
from luthier.events.sinks.tensorboard import TensorBoardSink
from luthier.events.types import (
    Architecture,
    CheckpointSaved,
    Evaluated,
    Log,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
)
from luthier.monitor.state import RunState, fold
from tests.events.stream import events as any_event
from tests.events.stream import forecast, log, whole_run

LOGS = Path(__file__).parent / "logs"
STEPS = [2, 4, 6, 8, 10, 12]
LOSSES = [6.363, 6.304, 6.134, 6.048, 5.965, 5.921]
QUIET = 3


def told_of(path, polls=QUIET):
    follower = open_log(path)
    told = [told for _ in range(polls) for told in follower.poll()]
    follower.close()
    return told, follower.source


def events_of(path, *kinds):
    return [told.event for told in told_of(path)[0] if isinstance(told.event, kinds or object)]


def bar(step, total):
    return f"\r 50%|#####     | {step}/{total} [00:0{step}<00:01,  1.00it/s]"


def printed(line):
    """A line as tqdm prints it past its bar."""
    return f"\r{' ' * 40}\r{line}\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def state_of(path):
    state = RunState()
    for told in told_of(path)[0]:
        state = fold(state, told.event, told.time)
    return state


class TestTrainer:
    """transformers 5.23 and TRL 1.16, `> NAME.txt 2>&1`."""

    def test_with_bars(self):
        told, source = told_of(LOGS / "trl_bars.txt")
        assert source == "Trainer log, steps by the progress bar, now at 12 of 12"
        events = [item.event for item in told if not isinstance(item.event, Notice)]
        assert [type(event) for event in events] == [
            RunStarted, Log, Log, Log, Evaluated, Log, Log, Log, Evaluated, RunFinished,
        ]  # fmt: skip
        assert (events[0].run, events[0].total_steps, events[0].first_step, events[0].plan) == ("trl_bars", 12, 0, {})
        logs = [event for event in events if isinstance(event, Log)]
        assert [event.step for event in logs] == STEPS
        assert [event.loss for event in logs] == LOSSES
        first = logs[0]
        assert (first.epoch, first.grad_norm, first.learning_rate, first.num_tokens) == (0.1, 0.9759, 0.001833, 391)
        assert math.isnan(first.memory_gib)
        assert 0 < first.step_seconds < 1
        assert first.remaining_seconds == 1.0
        evaluations = [event for event in events if isinstance(event, Evaluated)]
        assert [(event.step, event.eval_loss, event.best) for event in evaluations] == [
            (6, 6.167, True), (12, 5.956, True),
        ]  # fmt: skip
        last = events[-1]
        assert (last.status, last.step, last.train_loss, last.num_tokens) == ("done", 12, 6.123, 2045)

    def test_without_bars_the_steps_are_counted_and_the_screen_is_told(self):
        told, source = told_of(LOGS / "trl_plain.txt")
        assert source == "Trainer log, steps are numbers of log lines"
        logs = [item.event for item in told if isinstance(item.event, Log)]
        assert [(event.step, event.loss) for event in logs] == list(enumerate(LOSSES, 1))
        assert [item.event.total_steps for item in told if isinstance(item.event, RunStarted)] == [0]
        evaluations = [item.event for item in told if isinstance(item.event, Evaluated)]
        assert [event.step for event in evaluations] == [3, 6]

    def test_a_killed_and_resumed_run_tells_where_it_goes_on(self):
        told, _ = told_of(LOGS / "trl_resumed.txt")
        assert [(item.attempt, item.event.step) for item in told if isinstance(item.event, Log)] == [
            ("1", 2), ("1", 4), ("1", 6), ("1", 8), ("2", 8), ("2", 10), ("2", 12),
        ]  # fmt: skip
        starts = [(item.attempt, item.event.first_step) for item in told if isinstance(item.event, RunStarted)]
        assert starts == [("1", 0), ("2", 7)]
        state = state_of(LOGS / "trl_resumed.txt")
        assert [point[0] for point in state.history] == STEPS
        assert state.status == "done"

    def test_a_traceback_at_the_end_is_a_failure(self):
        told, _ = told_of(LOGS / "trl_crash.txt")
        last = told[-1].event
        assert isinstance(last, RunFinished)
        assert (last.status, last.step) == ("failed", 6)
        assert last.reason == "ValueError: the label of row 113 is not a number"
        assert [item for item in told_of(LOGS / "trl_crash.txt", polls=1)[0] if item.event.kind == "run_finished"] == []

    def test_a_traceback_that_the_run_survives_is_a_warning(self, tmp_path):
        trouble = "Traceback (most recent call last):\n  File x\nOSError: no space left\n"
        text = f"{{'loss': 2.0, 'epoch': 0.1}}\n{trouble}{{'loss': 1.9, 'epoch': 0.2}}\n"
        events = events_of(write(tmp_path / "a.log", text))
        assert [type(event) for event in events] == [RunStarted, Log, Notice, Log]
        assert "OSError: no space left" in events[2].text

    def test_out_of_memory_is_named(self, tmp_path):
        # The message of torch 2.13.
        oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of"
        text = f"[rank0]: Traceback (most recent call last):\n[rank0]:   File x\n[rank0]: {oom}\n"
        launcher = "Traceback (most recent call last):\n  y\nsubprocess.CalledProcessError: Command died\n"
        (last,) = events_of(write(tmp_path / "a.log", "{'loss': 2.0}\n" + text + launcher), RunFinished)
        assert last.reason.startswith("out of GPU memory: torch.OutOfMemoryError: CUDA out of memory. Tried to")

    def test_ctrl_c_is_no_failure(self, tmp_path):
        text = "{'loss': 2.0}\nTraceback (most recent call last):\n  File x\nKeyboardInterrupt\n"
        (last,) = events_of(write(tmp_path / "a.log", text), RunFinished)
        assert last.status == "stopped"

    def test_numbers_without_quotes_as_transformers_4_prints_them(self, tmp_path):
        text = "{'loss': 2.4512, 'grad_norm': nan, 'learning_rate': 0.0002, 'epoch': 0.01}\n"
        (event,) = events_of(write(tmp_path / "a.log", text), Log)
        assert (event.loss, event.learning_rate, event.epoch) == (2.4512, 0.0002, 0.01)
        assert math.isnan(event.grad_norm)

    def test_the_step_may_stand_behind_the_dict(self, tmp_path):
        text = "".join(f"{{'loss': 2.0, 'epoch': 0.{step}}}  Step {step}0\n" for step in (1, 2, 3))
        told, source = told_of(write(tmp_path / "a.log", text))
        assert [item.event.step for item in told if isinstance(item.event, Log)] == [10, 20, 30]
        assert source == "Trainer log, steps as written"

    def test_a_run_from_the_start_in_the_same_log(self, tmp_path):
        lines = "".join(f"{{'loss': {3 - n / 10}, 'epoch': {n / 10}}}\n" for n in range(1, 6))
        path = write(tmp_path / "a.log", lines + lines)
        assert [event.first_step for event in events_of(path, RunStarted)] == [0, 0]
        assert [event.step for event in events_of(path, Log)] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
        assert [point[0] for point in state_of(path).history] == [1, 2, 3, 4, 5]

    def test_an_evaluation_of_as_many_batches_as_steps_is_no_new_run(self, tmp_path):
        text = bar(0, 2) + bar(1, 2) + printed("{'loss': 2.0, 'epoch': 0.5}") + bar(1, 2) + bar(2, 2)
        text += bar(0, 2) + bar(1, 2) + bar(2, 2) + printed("{'eval_loss': 1.5, 'epoch': 1.0}") + bar(2, 2)
        text += printed("{'loss': 1.0, 'epoch': 1.0}") + bar(2, 2) + "\n"
        events = events_of(write(tmp_path / "a.log", text))
        assert [type(event) for event in events] == [RunStarted, Log, Evaluated, Log]
        assert [event.step for event in events[1:]] == [1, 2, 2]

    def test_resumed_with_more_steps(self, tmp_path):
        first = bar(0, 4) + printed("{'loss': 2.0, 'epoch': 0.1}") + bar(2, 4)
        first += printed("{'loss': 1.9, 'epoch': 0.2}") + bar(4, 4)
        second = "\n" + bar(0, 8) + printed("{'loss': 1.8, 'epoch': 0.3}") + bar(6, 8) + "\n"
        told = events_of(write(tmp_path / "a.log", first + second), RunStarted, Log)
        assert [event.step for event in told if isinstance(event, Log)] == [2, 4, 6]
        starts = [(event.total_steps, event.first_step) for event in told if isinstance(event, RunStarted)]
        assert starts == [(4, 0), (8, 5)]

    def test_lines_that_come_in_blocks_long_after_their_bars(self):
        path = LOGS / "trl_late.txt"
        told, source = told_of(path)
        assert source == "Trainer log, steps by the progress bar, now at 90 of 90"
        data = path.read_bytes()
        assert re.search(rb"}\n{'loss'", data), "lines come without bars between them"
        logs = [item.event for item in told if isinstance(item.event, Log)]
        assert [event.step for event in logs] == list(range(1, 91))
        assert all(event.epoch == pytest.approx(event.step / 20, rel=1e-3) for event in logs)
        assert [item.time for item in told] == sorted(item.time for item in told)

    def test_other_lines_that_are_printed_past_the_bar_shift_no_step(self, tmp_path):
        text = bar(0, 9)
        for step in range(1, 6):
            text += printed("hello") + bar(step, 9) + printed(f"{{'loss': 2.0, 'epoch': 0.{step}}}") + bar(step, 9)
        assert [event.step for event in events_of(write(tmp_path / "a.log", text), Log)] == [1, 2, 3, 4, 5]

    def test_a_line_that_bars_have_torn_is_put_together(self, tmp_path):
        text = bar(0, 4) + f"\r{' ' * 40}\r{{'loss': 2.0, 'ep" + bar(2, 4) + f"\r{' ' * 40}\r" + bar(4, 4)
        text += "och': 0.1}\n{'loss': 1.9, 'epoch': 0.2}\n"
        logs = events_of(write(tmp_path / "a.log", text), Log)
        assert [(event.step, event.loss, event.epoch) for event in logs] == [(2, 2.0, 0.1), (4, 1.9, 0.2)]

    def test_lines_that_every_process_prints_count_once(self, tmp_path):
        line = "{'loss': 2.0, 'epoch': 0.1}\n"
        assert len(events_of(write(tmp_path / "a.log", line * 4), Log)) == 1

    def test_equal_lines_at_different_steps_are_different_steps(self, tmp_path):
        line = "{'loss': 0.0, 'grad_norm': 0.0, 'learning_rate': 0.0002, 'epoch': 0.01}"
        text = bar(0, 9) + "".join(printed(line) + bar(step, 9) for step in range(1, 8)) + "\n"
        assert [event.step for event in events_of(write(tmp_path / "a.log", text), Log)] == list(range(1, 8))
        marks = "".join(f"\r{' ' * 40}\r{bar(step, 9)}" for step in range(1, 8))
        late = bar(0, 9) + marks + f"{line}\n" * 7
        assert [event.step for event in events_of(write(tmp_path / "b.log", late), Log)] == list(range(1, 8))
        twice = bar(0, 9) + printed(f"{line}\n{line}") + bar(1, 9) + "\n"
        assert [event.step for event in events_of(write(tmp_path / "c.log", twice), Log)] == [1]

    def test_a_number_that_is_null_is_not_there(self, tmp_path):
        text = '{"loss": null, "eval_loss": 1.5, "step": 3}\n{"loss": 2.0, "step": 4}\n'
        evaluation, _, step = events_of(write(tmp_path / "a.log", text))
        assert (evaluation.step, evaluation.eval_loss, step.step, step.loss) == (3, 1.5, 4, 2.0)

    def test_a_train_loss_is_not_the_end(self, tmp_path):
        text = "{'loss': 2.0, 'epoch': 1}\n{'train_loss': 2.0, 'val_loss': 2.1, 'epoch': 1}\n"
        assert events_of(write(tmp_path / "a.log", text), RunFinished) == []

    def test_speed_from_tokens_and_bar(self):
        logs = events_of(LOGS / "trl_bars.txt", Log)
        assert math.isnan(logs[0].tokens_per_second)
        for before, after in itertools.pairwise(logs):
            new = after.num_tokens - before.num_tokens
            assert after.tokens_per_second == pytest.approx(new / (2 * after.step_seconds))

    def test_what_unsloth_and_peft_say_first(self, tmp_path):
        # Unsloth 2025.9, models/llama.py; peft 0.21, print_trainable_parameters.
        banner = (
            "==((====))==  Unsloth 2025.9.1: Fast Llama patching.\n"
            "   \\\\   /|    Num examples = 51,760 | Num Epochs = 2 | Total steps = 1,060\n"
            ' "-____-"     Trainable parameters = 24,313,856 of 3,237,063,680 (0.75% trained)\n'
            "trainable params: 11,272,192 || all params: 1,247,086,592 || trainable%: 0.9039\n"
        )
        start, *architectures = events_of(write(tmp_path / "a.log", banner))
        assert (start.total_steps, start.epochs, start.program) == (1060, 2.0, "Unsloth")
        assert architectures == [
            Architecture(3_237_063_680, 24_313_856, []),
            Architecture(1_247_086_592, 11_272_192, []),
        ]


class TestAxolotl:
    """Axolotl 0.15: the dict of core/trainers/base.py `log`, the prefix of logging_config.py; not run here."""

    TEXT = (
        "[2025-11-19 17:03:46,240] [INFO] [axolotl.train.setup_model:63] [PID:99] loading model\x1b[39m\n"
        "\x1b[33m[2025-11-19 17:03:47,028] [WARNING] [axolotl.utils.config:686] [PID:99] `pad_to_sequence_len: true` is"
        " recommended\x1b[39m\n"
        "\r  0%|          | 0/200 [00:00<?, ?it/s]\r  1%|          | 1/200 [00:02<08:13,  2.48s/it]\r     \r"
        "{'loss': '1.549', 'grad_norm': '14.32', 'learning_rate': '5.2e-07', 'ppl': '4.708',"
        " 'memory/max_active (GiB)': '14.56', 'memory/max_allocated (GiB)': '14.5', 'memory/device_reserved (GiB)':"
        " '14.6', 'tokens/train_per_sec_per_gpu': '1820', 'tokens/trainable': 4096, 'tokens/total': 8192,"
        " 'epoch': '0.01'}\n"
        "\r  1%|          | 1/200 [00:02<08:13,  2.48s/it]\n"
        "[2025-11-19 17:04:00,028] [INFO] [axolotl.core.trainers.base:721] [PID:99] Saving model checkpoint to"
        " ./outputs/lora/checkpoint-1\n"
    )

    def test_it(self, tmp_path):
        warning, start, step, saved = events_of(write(tmp_path / "axolotl.log", self.TEXT))
        assert (start.total_steps, start.program) == (200, "Axolotl")
        assert warning == Notice("warning", "`pad_to_sequence_len: true` is recommended")
        assert (step.step, step.loss, step.num_tokens, step.memory_gib) == (1, 1.549, 8192, 14.5)
        assert (step.trained_tokens_per_second, step.step_seconds, step.remaining_seconds) == (1820, 2.48, 493.0)
        assert (saved.step, saved.path) == (1, "./outputs/lora/checkpoint-1")


class TestFactory:
    """LLaMA-Factory 0.9.3, train/callbacks.py `LogCallback.on_log`; not run here."""

    def line(self, step, **values):
        about = {"current_steps": step, "total_steps": 20, "epoch": step / 10, "percentage": step * 5.0}
        return json.dumps(about | values) + "\n"

    def step(self, step, loss):
        times = {"elapsed_time": f"0:00:{step:02}", "remaining_time": f"0:01:{20 - step:02}"}
        return self.line(step, loss=loss, lr=5e-5, **times, throughput=1234.5, total_tokens=100 * step)

    def test_it(self, tmp_path):
        text = self.step(5, 1.5) + self.line(5, eval_loss=1.4, elapsed_time="0:00:07") + self.step(20, 1.2)
        path = write(tmp_path / "trainer_log.jsonl", text + self.line(20, elapsed_time="1 day, 0:00:20"))
        told, source = told_of(path)
        assert source == "LLaMA-Factory trainer_log.jsonl"
        start, first, evaluation, second, end = (item.event for item in told)
        assert start.program == "LLaMA-Factory"
        assert (start.total_steps, start.first_step) == (20, 0)
        assert (first.step, first.loss, first.learning_rate, first.epoch) == (5, 1.5, 5e-5, 0.5)
        assert (first.tokens_per_second, first.num_tokens, first.remaining_seconds) == (1234.5, 500, 75.0)
        assert (evaluation.step, evaluation.eval_loss, evaluation.best) == (5, 1.4, True)
        assert (second.step, end.status, end.train_runtime) == (20, "done", 86420.0)
        assert told[1].time - told[0].time == 0
        assert told[2].time - told[1].time == 2

    def test_again_from_a_checkpoint(self, tmp_path):
        text = "".join(self.step(step, 2.0) for step in (5, 10, 15)) + self.step(15, 1.0) + self.step(10, 1.0)
        path = write(tmp_path / "trainer_log.jsonl", text)
        assert [event.first_step for event in events_of(path, RunStarted)] == [0, 9]
        assert [point[:2] for point in state_of(path).history] == [(5, 2.0), (10, 1.0)]

    def test_resumed_where_it_was_killed(self, tmp_path):
        seconds = {10: 30, 20: 60, 30: 20, 40: 45}
        lines = [
            self.line(step, loss=2.0, elapsed_time=f"0:00:{at}" if at < 60 else "0:01:00", remaining_time="9:00:00")
            for step, at in seconds.items()
        ]
        events = events_of(write(tmp_path / "trainer_log.jsonl", "".join(lines)), RunStarted, Log)
        assert [event.first_step for event in events if isinstance(event, RunStarted)] == [0, 20]
        logs = [event for event in events if isinstance(event, Log)]
        assert [event.step_seconds for event in logs] == [3.0, 3.0, 2.0, 2.5]
        assert [event.remaining_seconds for event in logs[:2]] == [32400.0, 32400.0]
        assert all(math.isnan(event.remaining_seconds) for event in logs[2:])

    def test_null_and_what_is_no_log_step(self, tmp_path):
        text = (
            self.line(5, loss=None, eval_loss=1.5) + '{"current_steps": 5, "total_steps": 9, "percentage": 1.0}\n[]\n'
        )
        assert [type(event) for event in events_of(write(tmp_path / "x", text))] == [RunStarted, Evaluated]


class TestState:
    def state(self, path, steps, loss=2.0, max_steps=50):
        history = [{"epoch": step / 10, "learning_rate": 1e-4, "loss": loss, "step": step} for step in steps]
        write(path, json.dumps({"log_history": history, "max_steps": max_steps, "num_train_epochs": 3}))

    def test_a_recorded_one(self):
        told, source = told_of(LOGS / "trainer_state.json")
        assert source == "Trainer's trainer_state.json, as of the last save"
        start = told[0].event
        assert (start.total_steps, start.epochs) == (12, 1.0)
        assert [item.event.step for item in told if isinstance(item.event, Log)] == STEPS
        assert [round(item.event.loss, 3) for item in told if isinstance(item.event, Log)] == LOSSES
        assert [item.event.step for item in told if isinstance(item.event, Evaluated)] == [6, 12]

    def test_only_what_is_new_is_told(self, tmp_path):
        path = tmp_path / "trainer_state.json"
        self.state(path, [10, 20])
        follower = open_log(path)
        assert [item.event.kind for item in follower.poll()] == ["run_started", "log", "log"]
        assert follower.poll() == []
        self.state(path, [10, 20, 30])
        assert [item.event.step for item in follower.poll()] == [30]

    def test_a_resumed_run_goes_on_from_what_is_the_same(self, tmp_path):
        path = tmp_path / "trainer_state.json"
        self.state(path, [10, 20, 30])
        follower = open_log(path)
        state = RunState()
        for item in follower.poll():
            state = fold(state, item.event, item.time)
        history = json.loads(path.read_text())
        history["log_history"][1:] = [{"loss": 1.0, "step": step} for step in (20, 30, 40)]
        write(path, json.dumps(history))
        told = follower.poll()
        assert (told[0].event.first_step, told[0].attempt) == (10, "2")
        for item in told:
            state = fold(state, item.event, item.time)
        assert [point[:2] for point in state.history] == [(10, 2.0), (20, 1.0), (30, 1.0), (40, 1.0)]

    def test_one_saved_at_the_last_step_has_ended(self, tmp_path):
        """Trainer writes it without its summary."""
        path = tmp_path / "trainer_state.json"
        self.state(path, [10, 20])
        follower, state = open_log(path), RunState()
        statuses = []
        for steps in ([10, 20], [10, 20, 30, 40, 50], [10, 20, 30, 40, 50, 60]):
            self.state(path, steps, max_steps=50 if steps[-1] <= 50 else 90)  # at last it goes on for longer
            for item in follower.poll():
                state = fold(state, item.event, item.time)
            statuses.append((state.status, state.step, state.total_steps))
        assert statuses == [("training", 20, 50), ("done", 50, 50), ("training", 60, 90)]

    def test_its_own_summary_is_the_end(self, tmp_path):
        path = tmp_path / "trainer_state.json"
        history = [{"loss": 1.0, "step": 50}, {"train_runtime": 7.0, "train_loss": 1.2, "step": 50}]
        write(path, json.dumps({"log_history": history, "max_steps": 50, "global_step": 50}))
        ends = [item.event for item in open_log(path).poll() if isinstance(item.event, RunFinished)]
        assert [event.train_runtime for event in ends] == [7.0]

    def test_nan_is_equal_to_itself(self, tmp_path):
        path = tmp_path / "trainer_state.json"
        self.state(path, [10], loss=math.nan)
        follower = open_log(path)
        assert math.isnan(follower.poll()[-1].event.loss)
        self.state(path, [10, 20], loss=math.nan)
        assert [item.event.step for item in follower.poll()] == [20]

    def test_the_steps_of_a_save_took_the_time_since_the_one_before(self, tmp_path):
        path = tmp_path / "trainer_state.json"
        follower = open_log(path)
        for last, now in ((20, 1000.0), (40, 1100.0)):
            self.state(path, range(10, last + 1, 10))
            os.utime(path, (now, now))
            told = follower.poll()
        assert [item.time for item in told] == [1050.0, 1100.0]

    def test_a_half_written_one_waits(self, tmp_path):
        path = tmp_path / "trainer_state.json"
        self.state(path, [10, 20])
        whole = path.read_bytes()
        path.write_bytes(whole[:60])
        follower = open_log(path)
        assert follower.poll() == []
        assert follower.source.endswith("is not whole")
        path.write_bytes(whole)
        assert len(follower.poll()) == 3

    def test_of_a_large_one_the_end_is_read(self, tmp_path, monkeypatch):
        path = tmp_path / "trainer_state.json"
        steps = list(range(1, 2001))
        monkeypatch.setattr("luthier.events.codecs.state.LARGEST", 20_000)
        self.state(path, steps, max_steps=3000)
        follower = open_log(path)
        first = [item.event.step for item in follower.poll() if isinstance(item.event, Log)]
        assert first == steps[-len(first) :]
        assert 100 < len(first) < 1000
        self.state(path, [*steps, 2001], max_steps=3000)
        assert [item.event.step for item in follower.poll()] == [2001]


class TestTensorBoard:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "out" / "runs" / "today"
        folder.mkdir(parents=True)
        for path in LOGS.glob("events.out.tfevents.*"):
            shutil.copy(path, folder)
        return folder

    def test_a_file_of_the_trainer(self, folder):
        told, source = told_of(folder.parents[1])
        assert source == "TensorBoard event files"
        events = [item.event for item in told]
        assert (events[0].total_steps, events[0].epochs) == (12, 3.0)
        assert [event.step for event in events if isinstance(event, Log)] == STEPS
        assert [round(event.loss, 3) for event in events if isinstance(event, Log)] == LOSSES
        assert [event.num_tokens for event in events if isinstance(event, Log)][-1] == 2045
        assert [event.step for event in events if isinstance(event, Evaluated)] == [6, 12]
        assert (events[-1].status, round(events[-1].train_loss, 3)) == ("done", 6.123)
        times = [item.time for item in told]
        assert times == sorted(times)
        assert times[0] > 1.7e9

    def test_one_of_luthier(self, tmp_path):
        sink = TensorBoardSink(tmp_path / "logs")
        for event in whole_run():
            sink.write(event)
        sink.close()
        events = events_of(tmp_path)
        assert [event.step for event in events if isinstance(event, Log)] == list(range(10, 101, 10))
        assert [event.step for event in events if isinstance(event, Evaluated)] == [50, 100]
        first = next(event for event in events if isinstance(event, Log))
        names = [field.name for field in fields(first) if field.name not in ("loss", "remaining_seconds")]
        assert [getattr(first, name) for name in names] == pytest.approx([getattr(log(10), name) for name in names])
        assert events[-1].status == "done"
        assert events[-1].train_runtime == 40.0

    def test_each_restart_is_a_file(self, tmp_path):
        for first_step, steps in ((0, (10, 20, 30)), (20, (30, 40))):
            sink = TensorBoardSink(tmp_path / "logs")
            sink.write(RunStarted("r", 40, first_step, 1.0, {}))
            for step in steps:
                sink.write(log(step, 9.0 if first_step == 0 else 1.0))
            sink.close()
        assert [event.first_step for event in events_of(tmp_path, RunStarted)] == [0, 20]
        assert [point[:2] for point in state_of(tmp_path).history] == [(10, 9.0), (20, 9.0), (30, 1.0), (40, 1.0)]

    def test_a_torn_record_waits_for_its_end(self, folder):
        (path,) = folder.glob("events*")
        whole = path.read_bytes()
        told = []
        path.write_bytes(b"")
        follower = open_log(folder)
        for end in range(0, len(whole) + 700, 700):
            path.write_bytes(whole[:end])
            told += follower.poll()
        path.write_bytes(whole)
        told += follower.poll()
        assert [item.event.step for item in told if isinstance(item.event, Log)] == STEPS

    def test_a_step_of_which_a_part_has_just_come_waits_for_the_rest(self, folder):
        (path,) = folder.glob("events*")
        whole = path.read_bytes()
        first = whole.index(b"train/loss")
        follower, told = open_log(path), []
        for end in (12, first + 40, len(whole)):
            path.write_bytes(whole[:end])
            told += follower.poll()
        step = next(item.event for item in told if isinstance(item.event, Log))
        assert (step.step, step.num_tokens) == (2, 391)

    def test_damage_is_said_and_what_came_before_it_stays(self, folder):
        (path,) = folder.glob("events*")
        whole = path.read_bytes()
        path.write_bytes(whole[:-300] + b"\x00" * 200)
        told, source = told_of(path)
        assert "is damaged" in source
        assert len([item for item in told if isinstance(item.event, Log)]) > 3

    def test_the_checksum_is_that_of_tensorboard(self):
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as theirs

        for data in (b"", b"123456789", bytes(range(256))):
            assert masked_crc32c(data) == theirs(data)


class TestLuthier:
    def test_a_recorded_events_file_is_what_read_gives(self):
        path = LOGS / "events.jsonl"
        assert [(repr(item.event), item.time, item.attempt) for item in told_of(path)[0]] == [
            (repr(event), about["time"], about["attempt"]) for event, about in read(path)
        ]

    def test_the_text_log_tells_what_the_events_file_tells(self):
        told, source = told_of(LOGS / "luthier.txt")
        assert source == "Luthier training log"
        full = [event for event, _ in read(LOGS / "events.jsonl")]
        for kind, names in (
            (RunStarted, ("run", "total_steps", "first_step")),
            (Architecture, ("parameters", "trainable_parameters")),
            (Log, ("step", "num_tokens", "epoch")),
            (Evaluated, ("step", "epoch", "best")),
            (CheckpointSaved, ("step", "path", "removed")),
            (RunFinished, ("status", "step", "num_tokens")),
        ):
            rows = [[getattr(event, name) for name in names] for event in full if isinstance(event, kind)]
            mine = [item.event for item in told if isinstance(item.event, kind)]
            assert [[getattr(event, name) for name in names] for event in mine] == rows, kind
        assert [item.event.text for item in told if isinstance(item.event, Notice)][1:] == [
            event.text for event in full if isinstance(event, Notice)
        ]

    def test_times_are_set_back_by_the_work_between_lines(self):
        told, _ = told_of(LOGS / "luthier.txt")
        logs = [item for item in told if isinstance(item.event, Log)]
        assert told[-1].time == pytest.approx((LOGS / "luthier.txt").stat().st_mtime)
        for before, after in itertools.pairwise(logs):
            new = after.event.num_tokens - before.event.num_tokens
            assert after.time - before.time == pytest.approx(new / after.event.tokens_per_second, abs=1e-5)

    def test_a_resumed_run(self):
        told, _ = told_of(LOGS / "luthier_resumed.txt")
        first, second = (item for item in told if isinstance(item.event, RunStarted))
        assert (first.event.first_step, first.event.total_steps, first.attempt) == (0, 9, "1")
        assert second.event.first_step in (3, 6)
        assert second.attempt == "2"
        assert any(isinstance(item.event, Resumed) and item.event.step == second.event.first_step for item in told)
        state = state_of(LOGS / "luthier_resumed.txt")
        assert [point[0] for point in state.history] == list(range(1, 10))
        assert (state.status, state.total_steps) == ("done", 9)

    def test_sentences_come_back(self, tmp_path):
        noon = time.mktime((2026, 1, 2, 12, 0, 0, 0, 0, -1))
        said = [
            RunStarted("run-1a2b", 3315, 200, 3.0, {}),
            Architecture(1_240_000_000, 11_272_192, []),
            Notice("warning", "eval loss rises", change="training.num_train_epochs: 1", step=1100),
            Notice("info", "loading model"),
            forecast(ends_at=noon, epoch_seconds=2580.0, fitted_steps=17, error=0.04, samples=3, sample_seconds=1.2),
            forecast(1100, ends_at=noon, epoch_seconds=2580.0, fitted_steps=17, error=0.1),
            Resumed(1100, "checkpoint-1100", ["checkpoint-1200: torn", "checkpoint-1300: torn"]),
            Sampled(1100, "Add\ntwo numbers.", "def add(a, b):\n    return a + b"),
            CheckpointSaved(1200, "out/checkpoint-1200", 12_300_000, 0.5, ["checkpoint-1100", "checkpoint-1000"]),
        ]
        text = "".join(f"{format_line(event)}\n" for event in said)
        assert repr(events_of(write(tmp_path / "training.log", text))) == repr(said)  # nan is not itself

    def test_blank_lines_of_a_sample_come_back(self, tmp_path):
        sample = Sampled(5, "Add\n\ntwo.", "import math\n\n\ndef add(a, b):\n    return a + b")
        text = f"{format_line(sample)}\n{format_line(log(10))}\n"
        assert events_of(write(tmp_path / "training.log", text), Sampled) == [sample]

    @pytest.mark.parametrize("status", ["stopped", "failed"])
    def test_the_end(self, tmp_path, status):
        ending = RunFinished(status, 1100, 1.0, 1.2, 40.0, 352_000, 2.5, "", "the disk is full: 3 GB are missing")
        text = f"{format_line(log(1100, 1.0, 3000))}\n{format_line(ending)}\n"
        (event,) = events_of(write(tmp_path / "training.log", text), RunFinished)
        assert (event.status, event.step, event.reason) == (status, 1100, ending.reason)
        assert (event.num_tokens, event.peak_memory_gib) == (3520 * 1100, 2.31)

    def test_two_runs_in_one_log(self, tmp_path):
        runs = (RunStarted("a", 30, 0, 1.0, {}), log(10), log(20), RunStarted("b", 20, 0, 1.0, {}), log(10))
        path = write(tmp_path / "training.log", "".join(f"{format_line(event)}\n" for event in runs))
        told, _ = told_of(path)
        assert [item.attempt for item in told] == ["1", "1", "1", "2", "2"]
        state = state_of(path)
        assert (state.run, state.total_steps, [point[0] for point in state.history]) == ("b", 20, [10])
        # Ten steps of 3520 tokens at 1234 tokens/s; the time of a log without times goes on from run to run.
        assert told[2].time - told[1].time == pytest.approx(35200 / 1234)
        assert told[4].time - told[3].time == pytest.approx(35200 / 1234)

    def test_a_log_that_begins_with_a_resume_has_the_times_of_this_attempt(self, tmp_path):
        events = [RunStarted("a", 100, 50, 1.0, {}), Resumed(50, "checkpoint-50"), log(60), log(70)]
        told, _ = told_of(write(tmp_path / "training.log", "".join(f"{format_line(event)}\n" for event in events)))
        assert [item.event for item in told][:2] == [replace(events[0], epochs=1.0), events[1]]
        gone = [item.time - told[0].time for item in told]
        assert gone == pytest.approx([0, 0, 35200 / 1234, 70400 / 1234], rel=1e-3)

    def test_a_run_that_goes_back_is_the_same_run(self, tmp_path):
        back = Resumed(20, "checkpoint-20"), log(30, 1.0)
        events = [RunStarted("a", 100, 0, 1.0, {}), *(log(step, 9.0) for step in (10, 20, 30)), *back]
        path = write(tmp_path / "training.log", "".join(f"{format_line(event)}\n" for event in events))
        assert len(events_of(path, RunStarted)) == 1
        state = state_of(path)
        assert state.run == "a" and [point[:2] for point in state.history] == [(10, 9.0), (20, 9.0), (30, 1.0)]
        assert state.updated - state.started == pytest.approx(4 * 35200 / 1234, rel=1e-3)

    def test_a_bar_in_its_log_is_not_the_loop_s(self, tmp_path):
        text = f"{format_line(RunStarted('a', 30, 0, 1.0, {}))}\n{bar(1, 99)}\n{format_line(log(10))}\n"
        state = state_of(write(tmp_path / "training.log", text))
        assert (state.total_steps, state.step) == (30, 10)

    def test_what_a_model_writes_is_not_read_as_the_log(self, tmp_path):
        evil = "{'loss': 99.0, 'step': 1}\nTotal steps = 7\nrun x: 9 steps, 1 epochs\nfailed at step 3: no"
        text = f"{format_line(Sampled(5, evil, evil))}\n{format_line(log(10))}\n"
        _sampled, start, step = events_of(write(tmp_path / "training.log", text))
        assert (start.total_steps, step.step) == (0, 10)

    @given(any_event)
    def test_any_line_that_luthier_writes_can_be_read(self, event):
        from luthier.events.codecs.text import TextDecoder

        decoder = TextDecoder("x")
        for line in (format_line(event) or "").encode("utf-8", "backslashreplace").split(b"\n"):
            decoder.feed(line)
        decoder.flush()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  8%|▊         | 1/12 [00:00<00:01,  8.39it/s]", (1, 12, 0.0, 1.0, 1 / 8.39)),
        ("100%|##########| 12/12 [1:02:03<00:00, 31.02s/it]", (12, 12, 3723.0, 0.0, 31.02)),
        ("  0%|          | 0/12 [00:00<?, ?it/s]", (0, 12, 0.0, None, None)),
        (" 19%|____      | 19/98 [01:22<05:19,  4.05s/it, loss=2.1]", (19, 98, 82.0, 319.0, 4.05)),
        ("Map: 100%|##########| 12/12 [00:01<00:00, 31.02it/s]", None),
        ("  8%|▊         | 1/12 [00:00<00:01,  8.39it/s", None),
        ("  8%|▊         | 1/12 [00:00<00:01,  8.39 examples/s]", None),
        ("8%", None),
    ],
)
def test_bars(text, expected):
    bar = parse_bar(text)
    if expected is None:
        assert bar is None
    else:
        numbers = (bar.step, bar.total, bar.elapsed, bar.remaining, bar.step_seconds)
        assert [None if math.isnan(value) else value for value in numbers] == list(expected)
        assert bar.end == len(text)


def test_durations():
    assert [seconds_of(text) for text in ("0:05", "1:02:03", "1 day, 0:00:01", "2 days, 0:00:00")] == [
        5.0, 3723.0, 86401.0, 172800.0,
    ]  # fmt: skip
    assert all(math.isnan(seconds_of(text)) for text in ("", "?", "::", "x day, 1:00"))


def test_numbers_may_be_text_and_anything_else_is_none():
    values = {"a": "2.5", "b": None, "c": "x", "d": 10**400, "e": True, "f": -3}
    assert [number(values, name) for name in "af"] == [2.5, -3.0]
    assert number(values, "b", "c", "a") == 2.5
    assert all(math.isnan(number(values, name)) for name in "bcdez")
    assert [count(values, name) for name in "abf"] == [2, 0, 0]


def test_the_last_exception_of_a_chain_counts():
    failure = Failure()
    first = ["Traceback (most recent call last):", '  File "a"', "ValueError: one", "", "During handling of the above"]
    for line in [*first, "Traceback (most recent call last):", "  b", "RuntimeError: two"]:
        failure.take(line)
    assert failure.reason == "RuntimeError: two"
    assert explained("MemoryError") == "out of memory: MemoryError"
    assert explained("KeyError: 'x'") == "KeyError: 'x'"


@given(st.text(max_size=200))
def test_any_text_is_a_bar_or_none(text):
    parse_bar(text)
