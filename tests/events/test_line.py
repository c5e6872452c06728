import dataclasses
import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.events.durations import DURATION, duration, each, seconds_of
from luthier.events.line import format_line, parse_line
from luthier.events.types import Log
from tests.events.stream import ESCAPES, evaluated, events, finished, forecast, gradients, log, started, whole_run


def test_a_log_line_is_the_dict_that_hugging_face_users_know():
    assert format_line(log(10, 2.45149)) == (
        "{'loss': 2.4515, 'grad_norm': 0.9123, 'learning_rate': 0.00019998, 'epoch': 0.3, 'step': 10, "
        "'num_tokens': 35200, 'tokens_per_second': 1234, 'memory_gib': 2.31, 'eta_seconds': 36}"
    )


def test_the_other_dict_lines():
    assert format_line(evaluated(10, 1.23456)) == (
        "{'eval_loss': 1.2346, 'eval_runtime': 1.23, 'epoch': 0.3, 'step': 10}"
    )
    assert format_line(finished()) == (
        "{'train_runtime': 40.0, 'train_loss': 1.2, 'epoch': 3.0, 'step': 100, 'num_tokens': 352000}\n"
        "result: checkpoints/final_model; ask it: luthier chat checkpoints"
    )


def test_the_command_that_asks_the_result_can_be_pasted():
    ended = dataclasses.replace(finished(), final_model="my runs/a/final_model")
    assert format_line(ended).endswith("result: my runs/a/final_model; ask it: luthier chat 'my runs/a'")
    assert format_line(dataclasses.replace(ended, final_model="")).endswith("}")


def test_a_stopped_run_is_a_sentence():
    assert format_line(finished("stopped", 40)) == "stopped at step 40: a signal came"
    assert format_line(started(50)) == "run run-1a2b: 100 steps, 3 epochs, from step 50"
    many = dataclasses.replace(started(), epochs=1234.4)
    assert format_line(many) == "run run-1a2b: 100 steps, 1,234 epochs"


def test_the_time_of_a_run_is_a_sentence():
    noon = time.mktime((2026, 1, 2, 16, 40, 0, 0, 0, -1))
    line = format_line(forecast(ends_at=noon))
    assert line == (
        "time: about 2 h 10 min, done at about 2026-01-02 16:40: 3,315 steps of 2.1 s, 12 evaluations of 20 s, "
        "13 saves of 0.30 s; 43 min 20 s an epoch (rough: scaled from the rehearsal)"
    )
    later = forecast(3000, ends_at=noon, fitted_steps=17, error=0.04, evaluations=1, samples=2, epoch_seconds=math.nan)
    assert format_line(later) == (
        "time: about 2 h 10 min from step 3,000 on, done at about 2026-01-02 16:40: 315 steps of 2.1 s, "
        "1 evaluation of 20 s, 13 saves of 0.30 s, 2 samples not counted yet (by 17 steps, each 4% off)"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (0.034, "0.034 s"), (0.5, "0.50 s"), (1.0, "1.0 s"), (9.97, "10 s"), (75, "1 min 15 s")],
)
def test_the_seconds_of_one_step_have_two_digits(seconds, text):
    assert each(seconds) == text
    assert seconds_of(text) == pytest.approx(seconds, rel=0.05)


@given(st.floats(0, 1e12))
def test_durations_come_back(seconds):
    text = duration(seconds)
    assert re.fullmatch(DURATION, text)
    assert seconds_of(text) == pytest.approx(seconds, rel=0.05, abs=0.5)
    assert re.fullmatch(DURATION, each(seconds))


@pytest.mark.parametrize("steps_per_epoch", [10, 100, 1163, 20_000])
def test_log_lines_ten_steps_apart_have_epochs_apart(steps_per_epoch):
    lines = [dataclasses.replace(log(step), epoch=step / steps_per_epoch) for step in range(10, 200, 10)]
    epochs = [parse_line(format_line(line))["epoch"] for line in lines]
    assert len(set(epochs)) == len(epochs)


def test_a_small_learning_rate_keeps_its_digits():
    line = format_line(dataclasses.replace(log(1), learning_rate=1.23456789e-7))
    assert parse_line(line)["learning_rate"] == 1.23457e-7


@given(events)
def test_every_dict_line_parses_back(event):
    line = format_line(event)
    if line is None or not line.startswith("{"):
        return
    values = parse_line(line)
    assert str(values) == line.partition("\n")[0]
    if isinstance(event, Log) and math.isfinite(event.loss):
        assert values["loss"] == pytest.approx(event.loss, abs=5.1e-5)
    elif isinstance(event, Log):
        assert str(values["loss"]) == str(event.loss)


@given(events)
def test_no_line_carries_control_characters(event):
    line = format_line(event)
    assert line is None or all(char == "\n" or char.isprintable() for char in line)
    assert line is None or line.encode()


def test_a_sample_is_indented_and_cleaned():
    lines = [format_line(event) for event in whole_run(ESCAPES)]
    sample = next(line for line in lines if line and line.startswith("sample at step 100"))
    assert sample.split("\n")[-2:] == ["    def add(a, b):", "        return a + b"]
    assert format_line(gradients(1)) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{'loss': 1.5, 'epoch': 0.01}  12%|###   | 3/25", {"loss": 1.5, "epoch": 0.01}),
        ('  4%|    | 1/25 {"loss": -1e-05, "step": 3}', {"loss": -1e-05, "step": 3}),
        ("{'loss': '2.45', 'epoch': '1'}", {"loss": "2.45", "epoch": "1"}),
        ("{'a': True, 'b': None}", {"a": True, "b": None}),
        ('{"a": true, "b": null, "c": Infinity}', {"a": True, "b": None, "c": math.inf}),
        ("{'eval_loss': 1.2, 'accuracy': np.float64(0.85)}", {"eval_loss": 1.2, "accuracy": 0.85}),
        ("{'grad_norm': tensor(-9e-1, device='cuda:0'), 'n': numpy.int64(3)}", {"grad_norm": -0.9, "n": 3}),
        ("{'a': [1, 'b', 2], 'loss': 1.5, 'c': ['d', 'e']}", {"loss": 1.5}),
        ("{'a': {'b': 1, 'c': 2}, 'loss': 1.5}", {"loss": 1.5}),
        (r"{'a': 'it\'s {odd}', 'at': datetime(2025, 1, 2), 'loss': 1.5}", {"loss": 1.5}),
        ("INFO {rank 0} {'loss': 1.5}", {"loss": 1.5}),
    ],
)
def test_lines_of_others_parse(text, values):
    assert parse_line(text) == values


@pytest.mark.parametrize("text", ["{'loss': nan, 'grad_norm': -inf}", '{"loss": NaN, "grad_norm": -Infinity}'])
def test_nan_and_infinity_parse(text):
    values = parse_line(text)
    assert math.isnan(values["loss"])
    assert values["grad_norm"] == -math.inf


@pytest.mark.parametrize(
    "text",
    ["{'a':" + "''" * 30_000, "{'a':'" + r"\'" * 30_000, "{'a':" + "{" * 60_000, "{'a':[," * 9_000, "{'" * 30_000],
)
def test_a_line_that_was_made_to_be_slow_is_read_at_once(text):
    begun = time.process_time()
    assert parse_line(text) is None
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{",
        "{}",
        "{'a': 1",
        "{'a': __import__('os')}",
        "{'a': [1]}",
        "{'a': {'b': 1}}",
        "{" * 10_000,
        "{'a': " + "9" * 10_000 + "}",
        "{1: 2}",
    ],
)
def test_what_is_no_flat_dict_is_none(text):
    assert parse_line(text) is None


@given(st.text(st.sampled_from("{}'\":,.0123456789eE+-naif \\x")) | st.text())
def test_parsing_never_raises(text):
    for line in (text, "{" + text):
        values = parse_line(line)
        assert values is None or all(isinstance(key, str) for key in values)


def test_an_event_is_printed_as_its_line():
    assert str(log(10, 2.45149)) == format_line(log(10, 2.45149))
    assert str(gradients(3)) == "gradients" and len(str(started())) < 300
