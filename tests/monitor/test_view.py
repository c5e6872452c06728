import io
import math
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from luthier.events.durations import duration
from luthier.events.types import Notice, Sampled
from luthier.monitor.drawing import bar, count, decimal, sparkline
from luthier.monitor.state import RunState, fold
from luthier.monitor.view import LOWEST, render, summary
from tests.events.stream import ESCAPES, evaluated, events, finished, forecast, log, started, whole_run


def state_of(stream):
    state = RunState()
    for seconds, event in enumerate(stream):
        state = fold(state, event, 100.0 + seconds)
    return state


def screen(state, width, height, now=200.0, color=None):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=color, force_terminal=True)
    console.print(render(state, now, width, height))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
@pytest.mark.parametrize("height", [6, 12, 24, 60])
def test_it_fits_the_terminal(width, height):
    lines = screen(state_of(whole_run()), width, height).rstrip("\n").split("\n")
    assert {cell_len(line) for line in lines} == {width}
    assert len(lines) <= height


@settings(deadline=None, max_examples=60)
@given(st.lists(events, max_size=12), st.integers(40, 200), st.integers(LOWEST, 60), st.floats(0, 1e9))
def test_any_state_fits_any_terminal(stream, width, height, now):
    lines = screen(state_of(stream), width, height, now).rstrip("\n").split("\n")
    assert all(cell_len(line) <= width for line in lines)
    assert len(lines) <= height
    assert all(cell_len(line.plain) <= width for line in summary(state_of(stream), width))


def assert_no_escapes(text):
    assert all(char == "\n" or unicodedata.category(char) not in {"Cc", "Cf", "Cs"} for char in text)


@pytest.mark.parametrize(
    "hostile", [ESCAPES, "\x1b[2J", "\x9b31m", "\x1bP1$r\x1b\\", "\u202e\u2066", "\r\n\x00\x7f", "[red]x[/]"]
)
def test_what_a_model_writes_cannot_reach_the_terminal(hostile):
    state = state_of([started(), log(10), Sampled(10, hostile, hostile), Notice("critical", hostile, hostile)])
    assert_no_escapes(screen(state, 100, 40))
    assert_no_escapes("\n".join(line.plain for line in summary(state_of(whole_run(hostile)), 100)))
    # Nor is it read as rich's own markup.
    assert "[red]" not in hostile or screen(state, 100, 40).count("[red]x[/]") == 4


def test_the_numbers_and_their_meaning():
    text = screen(state_of(list(whole_run(""))[:-1]), 140, 40)
    for words in (
        "step 100 / 100",
        "epoch 3.00 / 3",
        "lower is better; 0 = every token certain",
        "perplexity 1.75",
        "the loss on rows it never trains on",
        "best 1.0500 at step 50",
        "0.0002  steady, cosine",
        "below the limit of 1",
        "1,234 tokens/s",
        "2.31 / 8.0 GiB",
        "eval loss rises",
        "change  training.num_train_epochs: 1",
        "return a + b",
        "Llama-3.2-1B",
    ):
        assert words in text, words


def test_every_number_has_its_meaning_at_80_columns():
    text = screen(state_of(list(whole_run(""))[:-1]), 80, 40)
    for words in (
        "lower is better",
        "perplexity",
        "on unseen rows",
        "length of a step",
        "pull of the data",
        "highest so far",
    ):
        assert words in text, words


def test_little_height_keeps_the_loss_and_the_warning():
    text = screen(state_of(list(whole_run(""))[:-1]), 80, 13)
    assert "loss " in text
    assert "change  training.num_train_epochs: 1" in text
    assert "checkpoint" not in text


def test_what_the_gate_warned_of_stays_when_the_run_has_more_to_say():
    warned = Notice("warning", "duplicates: 40 of 300 rows", None)
    chatter = [Notice("info", f"{what} is under way") for what in ("loading", "the rehearsal", "the lean path")]
    state = state_of([started(), Notice("info", "the first"), warned, *chatter, log(1, 2.0)])
    shown = screen(state, 80, 40)
    assert "!  duplicates: 40 of 300 rows" in shown
    assert shown.index("duplicates") < shown.index("the rehearsal is") < shown.index("the lean path is")
    assert "loading is" not in shown and "the first" not in shown
    assert "!  duplicates: 40 of 300 rows" in screen(state, 80, 13)
    assert summary(state, 80)[-1].plain == "!  duplicates: 40 of 300 rows"


def test_a_base_is_called_by_its_run_and_not_final_model():
    plan = {"model.model_name_or_path": "out/first/final_model"}
    assert "run-1a2b  first" in screen(state_of([replace(started(), plan=plan)]), 80, 24)


def test_before_the_first_log_line():
    assert "loading" in screen(RunState(), 80, 24)
    assert "waiting for the first log line" in screen(state_of([started()]), 80, 24)


def test_a_loss_that_is_no_number_is_shown_as_such_in_red():
    text = screen(state_of([started(), log(10), log(20, math.nan)]), 100, 30, color="standard")
    assert "\x1b[1;31mnan" in text
    assert "perplexity unknown" in text


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = screen(state_of(whole_run("")), 100, 30, color="standard")
    colors = {str(code) for code in (*range(30, 38), *range(40, 48), *range(90, 98))}
    codes = {code for part in text.split("\x1b[")[1:] for code in part.split("m")[0].split(";")}
    assert codes
    assert not codes & colors


def test_time_left_runs_down_between_two_log_lines():
    state = state_of([started(), log(10)])
    assert "36 s left" in screen(state, 100, 30, now=state.updated)
    assert "26 s left" in screen(state, 100, 30, now=state.updated + 10)
    assert "0 s left" in screen(state, 100, 30, now=state.updated + 1000)
    after = fold(state, evaluated(10, 1.0), state.updated + 20)
    assert "16 s left" in screen(after, 100, 30, now=after.updated), "an evaluation gives no time back"


def test_before_the_first_log_line_the_rehearsal_says_how_long_it_takes():
    state = state_of([started(), forecast()])
    assert "2 h 10 min left" in (shown := screen(state, 100, 30, now=state.updated))
    assert "as the rehearsal predicts" in shown and "3,315 steps of 2.1 s" in shown
    assert "2 h 00 min left" in screen(state, 100, 30, now=state.updated + 600)
    logged = fold(state, log(10), state.updated + 20)
    assert "36 s left" in screen(logged, 100, 30, now=logged.updated)
    again = fold(logged, started(50), logged.updated + 1)
    assert "left" not in screen(again, 100, 30, now=again.updated), "what was predicted of an attempt goes with it"


def test_a_summary_hides_no_warning_without_a_word():
    said = [Notice("warning", f"number {number}") for number in range(1, 6)]
    lines = [line.plain for line in summary(state_of([started(), *said[:3], finished()]), 100)]
    assert lines[-3:] == ["!  number 1", "!  number 2", "!  number 3"] and not any("more" in line for line in lines)
    lines = [line.plain for line in summary(state_of([started(), *said, finished()]), 100)]
    assert lines[-4:] == ["   2 more before these: luthier watch, pane 3", *(f"!  number {n}" for n in (3, 4, 5))]


def test_the_summary():
    lines = [line.plain for line in summary(state_of(whole_run("")), 100)]
    assert lines[0] == "● run-1a2b  done  step 100 of 100, 40 s"
    asked = lines.index("  final model checkpoints/final_model") + 1
    assert lines[asked] == "  ask it      luthier chat checkpoints"
    assert lines[-2:] == ["!  eval loss rises", "   change  training.num_train_epochs: 1"]
    assert any(line.split() == ["work", "352.0", "k", "tokens,", "2.50", "GiB", "seen", "in", "training;", "highest",
                                "memory"] for line in lines)  # fmt: skip
    early = replace(finished(), predicted_runtime=19.0)
    told = summary(state_of([started(), early]), 100)[1].plain
    assert " ".join(told.split()) == "time 40 s 19 s was predicted after 20 steps"


def test_the_summary_of_a_log_that_says_little():
    says_nothing = {"train_runtime": math.nan, "num_tokens": 0, "peak_memory_gib": math.nan}
    foreign = replace(started(), run="x", total_steps=0), replace(finished("failed", 29), **says_nothing)
    lines = [line.plain for line in summary(state_of(foreign), 100)]
    assert lines == ["● x  failed  step 29, 1 s", "  a signal came"]
    partly = foreign[0], replace(foreign[1], num_tokens=2000)
    assert "  work        2,000 tokens  seen in training" in [line.plain for line in summary(state_of(partly), 100)]


def test_the_summary_tells_the_last_loss_and_the_mean_that_is_behind_it():
    losses = [log(step, 2.7 if step < 3 else 0.0029) for step in range(1, 18)]
    (line,) = [line.plain for line in summary(state_of([started(), *losses, finished()]), 100) if "loss" in line.plain]
    assert "2.7000 → 0.0029  first → last; smoothed 0." in line


def test_the_summary_of_a_run_that_was_stopped():
    lines = [line.plain for line in summary(state_of([*list(whole_run(""))[:-1], finished("stopped")]), 100)]
    assert "stopped" in lines[0]
    assert any("checkpoint-100" in line for line in lines)
    assert summary(state_of([started(), log(10)]), 100)[0].plain == "● run-1a2b  left at step 10"


@given(st.lists(st.floats()), st.integers(-3, 300))
def test_a_sparkline_is_never_too_long(values, width):
    curve = sparkline(values, width)
    assert len(curve) == max(0, min(width, len(values)))
    assert set(curve) <= set(" ▁▂▃▄▅▆▇█")


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8, 8, 0, 0], 2) == "█▁"
    assert sparkline([1, math.nan, 3], 3) == "▁ █"
    assert sparkline([2, 2], 2) == "▁▁"
    assert sparkline([math.nan], 1) == " "


@given(st.floats(), st.integers(0, 100))
def test_a_bar_is_as_wide_as_it_should_be(share, width):
    full, empty = bar(share, width)
    assert len(full + empty) == width


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (duration(42.4), "42 s"),
        (duration(59.7), "1 min 00 s"),
        (duration(185), "3 min 05 s"),
        (duration(7620), "2 h 07 min"),
        (duration(273_600), "3 d 04 h"),
        (duration(math.inf), "–"),
        (duration(-1), "–"),
        (count(0.43), "0.43"),
        (count(812), "812"),
        (count(8200), "8,200"),
        (count(35_200), "35.2 k"),
        (count(1_240_000_000), "1.24 G"),
        (count(math.nan), "nan"),
        (decimal(1.23456), "1.2346"),
        (decimal(123456.0), "1.235e+05"),
        (bar(0.5, 4), ("━━", "──")),
        (bar(0.375, 4), ("━╸", "──")),
        (bar(7.0, 2), ("━━", "")),
    ],
)
def test_numbers_and_drawings(text, expected):
    assert text == expected
