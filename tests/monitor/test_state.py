import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.doctor.history import LONGEST
from luthier.events.record import Unknown
from luthier.events.types import Checked, Notice, Resumed, TimeForecast
from luthier.monitor.state import LONGEST_HISTORY, RunState, fold
from luthier.monitor.words import outcome
from tests.events.stream import evaluated, events, finished, log, started, whole_run


def fold_all(stream, state=None, start=100.0):
    state = state or RunState()
    for seconds, event in enumerate(stream):
        state = fold(state, event, start + seconds)
    return state


def test_a_whole_run():
    state = fold_all(whole_run())
    assert (state.status, state.step, state.total_steps, state.epoch) == ("done", 100, 100, 3.0)
    assert [point[0] for point in state.history] == list(range(10, 101, 10))
    assert state.first_loss == pytest.approx(2.5 * math.exp(-10 / 60))
    assert state.best.step == 50
    assert len(state.evaluations) == 2
    assert state.checkpoint.step == 100
    assert (state.parameters, state.trainable_parameters) == (1240, 40)


def test_the_smoothed_loss_is_where_the_run_stands():
    lines = [started(), log(1, 4.0), log(2, 2.0), log(3, math.nan), log(4, 1.0), log(5, 0.9), log(6, 3.0)]
    stood = [fold_all(lines[:count]).smoothed_loss for count in range(1, len(lines) + 1)]
    assert stood[:3] == [None, 4.0, 3.0] and math.isnan(stood[3]) and stood[4:] == [2.0, 1.0, 1.0]
    state = fold_all(lines)
    assert state.first_loss == 4.0
    assert math.isnan(state.history[2][1])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_the_smoothed_loss_stays_between_the_losses(losses):
    state = fold_all(log(step, loss) for step, loss in enumerate(losses))
    assert min(losses) - 1e-9 <= state.smoothed_loss <= max(losses) + 1e-9


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 3 * LONGEST_HISTORY))
def test_a_long_history_is_thinned_out_evenly(count):
    state = RunState()
    for step in range(count):
        state = fold(state, log(step, float(step), count), 1.0)
    steps = [point[0] for point in state.history]
    assert steps == list(range(0, count, state.stride))
    assert len(steps) <= LONGEST_HISTORY
    assert len(steps) > LONGEST_HISTORY / 2 - 1 or state.stride == 1


@given(st.lists(events, max_size=15))
def test_any_events_fold(stream):
    state = fold_all(stream)
    said = [event.notice() if isinstance(event, Checked) else event for event in stream]
    said = [Notice("info", str(event)) if isinstance(event, TimeForecast) else event for event in said]
    said = [notice for notice in said if isinstance(notice, Notice)]
    assert {(notice.text, notice.change) for notice in state.notices} == {(one.text, one.change) for one in said}
    assert len(state.notices) <= len(said)
    assert state.updated == (100.0 + len(stream) - 1 if stream else 0.0)


@given(st.lists(events, max_size=6), st.lists(events, max_size=6))
def test_folding_in_two_parts_is_folding_at_once(first, second):
    whole = fold_all(first + second)
    parts = fold_all(second, fold_all(first), 100.0 + len(first))
    assert repr(whole) == repr(parts)


def test_what_each_attempt_says_before_its_first_step_stands_once_with_that_step():
    ready = Notice("info", "rows: 100 to train on"), Checked("rows-cut", "warning", "1 of 9 rows")
    state = fold_all(
        [started(), *ready, Notice("info", "memory: 2 GiB"), Notice("warning", "left out", step=7), log(10)]
    )
    state = fold_all(
        [started(10), *ready, Notice("info", "memory: 3 GiB"), Notice("warning", "left out", step=17)], state
    )
    assert [(notice.step, notice.text) for notice in state.notices] == [
        (None, "memory: 2 GiB"), (7, "left out"), (10, "rows: 100 to train on"), (10, "rows-cut: 1 of 9 rows"),
        (10, "memory: 3 GiB"), (17, "left out"),
    ]  # fmt: skip


def test_a_resumed_attempt_forgets_the_steps_after_its_checkpoint():
    first = [started(), *(log(step, 9.0) for step in (10, 20, 30)), evaluated(20, 2.0), evaluated(30, 1.0)]
    state = fold_all([*first, finished("stopped", 30), started(20), log(30, 1.0)])
    assert [point[:2] for point in state.history] == [(10, 9.0), (20, 9.0), (30, 1.0)]
    assert state.best.step == 20
    assert (state.status, state.finished) == ("training", None)
    assert state.smoothed_loss == 9.0 and fold(state, log(40, 1.0), 1.0).smoothed_loss == 1.0


def test_the_epoch_goes_back_with_the_step():
    state = fold_all([started(), log(10), log(20), log(30), started(20), Resumed(20, "checkpoint-20")])
    assert state.epoch == pytest.approx(log(20).epoch)


def test_an_early_rise_of_the_eval_loss_is_kept_for_its_curve():
    few = fold_all(evaluated(step, 1.0) for step in range(1, 121))
    assert [event.step for event in few.evaluations] == list(range(1, 121))
    many = fold_all(evaluated(step, 1.0) for step in range(1, 3001))
    assert many.evaluations[0].step == 1 and many.evaluations[-1].step == 3000 and len(many.evaluations) <= LONGEST


def test_a_run_from_the_start_forgets_everything_but_the_notices():
    warning = Notice(severity="warning", text="a key has no effect")
    state = fold_all([warning, log(10), started(), log(20)])
    assert [point[0] for point in state.history] == [20]
    assert state.notices == (warning,)


def test_an_unknown_event_changes_only_the_time():
    state = fold_all([started(), log(10)])
    after = fold(state, Unknown(name="teleported", fields={}), 500.0)
    assert after.updated == 500.0
    assert after.history == state.history


def test_a_log_without_its_beginning_is_training():
    assert fold_all([log(10)]).status == "training"


def test_the_most_memory_counts_what_came_after_the_last_log_line():
    def ended(logged, peak):
        line = replace(log(90), memory_gib=logged)
        return fold_all([started(), line, replace(finished(), peak_memory_gib=peak)])

    for logged, peak, most in (
        (0.79, 0.80, "0.80"),
        (0.80, 0.79, "0.80"),
        (math.nan, 0.80, "0.80"),
        (0.79, 0.0, "0.79"),
    ):
        state = ended(logged, peak)
        assert f"{state.memory_gib:.2f}" == most
        assert any(f"{most} GiB" in value for _, value, _ in outcome(state, state.finished))
    assert math.isnan(fold_all([started()]).memory_gib)
