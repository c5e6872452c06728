"""Time to finish: runs whose every second is known, on a clock that the test turns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from luthier.data.loader import step_passes
from luthier.events.types import Notice, TimeForecast
from luthier.training.ahead import TimeLeft
from luthier.training.cost import FIRST_STEPS, WARM_UP, StepCost
from luthier.training.engine import due
from tests.rows import MemoryRows, plan_for

PASS, TOKEN, EVALUATION, SAVE, BETWEEN = 0.05, 0.001, 2.5, 1.5, 0.01


def lived(tiny_model_dir, steps=100, first=0, noise=0.0, eval_every=12, save_every=30, expect=True):
    """(prediction after 20 steps, seconds in all, seconds predicted as left at each step, seconds really left)."""
    rows = MemoryRows(300, longest=200)
    plan = plan_for(tiny_model_dir, rows, 300, max_steps=steps, per_device_train_batch_size=1)
    plan = replace(plan, eval_every=eval_every, save_every=save_every)
    now = [1000.0]
    held_out = MemoryRows(60, longest=200, seed=1)
    ahead = TimeLeft(plan, rows, held_out, clock=lambda: now[0])
    if expect:
        ahead.expect("saving", SAVE)
    now[0] += 50  # loading
    ahead.start()
    started, left = now[0], {}
    for step in range(first + 1, steps + 1):
        groups = step_passes(rows, plan, step - 1, 0, 1)
        tokens = sum(int(rows.lengths[group].sum()) for group in groups)
        seconds = (PASS * len(groups) + TOKEN * tokens) * (1 + noise * (-1) ** step)
        now[0] += seconds
        assert ahead.add(StepCost(len(groups), tokens, tokens, seconds), step) is None, (
            "each log line says what is left; no notice does"
        )
        assert math.isfinite(ahead.predicted_seconds) is (step >= first + FIRST_STEPS)
        left[step] = (now[0], ahead.remaining(step))
        now[0] += BETWEEN
        last = step == steps
        if due(step, plan.eval_every) or (last and plan.eval_every):
            now[0] += EVALUATION
            ahead.took("evaluation", EVALUATION)
        if due(step, plan.save_every) or last:
            now[0] += SAVE
            ahead.took("saving", SAVE)
    now[0] += SAVE  # final_model
    real = {step: now[0] - at for step, (at, _) in left.items()}
    return ahead.predicted_seconds, now[0] - started, {s: value for s, (_, value) in left.items()}, real


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_after_20_steps_the_end_is_known(tiny_model_dir, noise):
    predicted, real, _, _ = lived(tiny_model_dir, noise=noise)
    assert predicted == pytest.approx(real, rel=0.01 if not noise else 0.04)


def test_before_step_1_the_rehearsed_pass_is_scaled_by_tokens(tiny_model_dir):
    rows, held_out = MemoryRows(300, longest=200), MemoryRows(60, longest=200, seed=1)
    plan = plan_for(tiny_model_dir, rows, 300, max_steps=100, per_device_train_batch_size=1)
    plan = replace(plan, eval_every=12, save_every=30, steps_per_epoch=25.0)
    ahead = TimeLeft(plan, rows, held_out)
    ahead.rehearsed(500, 500 * TOKEN, 0.02)
    ahead.expect("saving", SAVE)
    ahead.expect("evaluation", EVALUATION)
    tokens = sum(int(rows.lengths[group].sum()) for s in range(100) for group in step_passes(rows, plan, s, 0, 1))
    said = ahead.forecast(0)
    assert (said.step, said.steps, said.fitted_steps, said.samples) == (0, 100, 0, 0)
    assert said.step_seconds == pytest.approx(tokens * TOKEN / 100 + 0.02)
    assert (said.evaluations, said.eval_seconds) == (9, EVALUATION)
    assert (said.saves, said.save_seconds) == (4 + 1 + 1, SAVE), "after step 1, three times, at the end; final_model"
    parts = 100 * said.step_seconds + 9 * EVALUATION + 6 * SAVE
    assert said.remaining_seconds == pytest.approx(parts)
    assert said.epoch_seconds == pytest.approx(parts / 4)
    assert math.isnan(said.error)


def test_steps_replace_the_rehearsal_once_they_are_warm(tiny_model_dir):
    rows = MemoryRows(300, longest=200)
    plan = plan_for(tiny_model_dir, rows, 300, max_steps=100, per_device_train_batch_size=1)
    now = [0.0]
    ahead = TimeLeft(plan, rows, clock=lambda: now[0])
    ahead.rehearsed(500, 500 * TOKEN, 0.0)
    ahead.start()
    before, left, told = ahead.forecast(0), {}, []
    for step in range(1, 31):
        groups = step_passes(rows, plan, step - 1, 0, 1)
        tokens = sum(int(rows.lengths[group].sum()) for group in groups)
        seconds = 2 * TOKEN * tokens * (10 if step <= WARM_UP else 1)  # twice as slow as rehearsed, and a slow start
        now[0] += seconds
        ahead.add(StepCost(len(groups), tokens, tokens, seconds), step)
        left[step] = ahead.forecast(step)
        told += [(step, type(event)) for event in ahead.told(step)]
    assert told == [(FIRST_STEPS, TimeForecast)], "once; fewer passes would not pay where a pass costs nothing"
    assert [left[step].fitted_steps for step in (1, WARM_UP, WARM_UP + 1, FIRST_STEPS)] == [0, 0, 1, 17]
    assert left[WARM_UP].step_seconds == pytest.approx(before.step_seconds, rel=0.1)
    assert left[FIRST_STEPS].step_seconds == pytest.approx(2 * before.step_seconds, rel=0.1)
    assert left[FIRST_STEPS].error == pytest.approx(0, abs=1e-6)
    assert left[FIRST_STEPS].remaining_seconds == pytest.approx(ahead.predicted_seconds - now[0], rel=0.2)


def test_what_would_pay_is_said_once_and_only_where_luthier_may_decide(tiny_model_dir):
    rows = MemoryRows(300, longest=200)
    for auto in (True, False):
        ahead, told = TimeLeft(plan_for(tiny_model_dir, rows, 300, max_steps=100, auto=auto), rows), []
        for step in range(1, 31):
            ahead.add(StepCost(4, 1000 + 37 * step, 2000, 0.4 + TOKEN * (1000 + 37 * step)), step)
            told += [(step, event.change) for event in ahead.told(step) if isinstance(event, Notice)]
        assert told == [(FIRST_STEPS, "training.max_tokens_per_micro_batch: 2048")] * auto


def test_the_seconds_left_are_right_at_every_step(tiny_model_dir):
    _, _, left, real = lived(tiny_model_dir)
    assert all(left[step] == pytest.approx(real[step], rel=0.02, abs=0.5) for step in range(20, 101))


def test_a_resumed_attempt_predicts_what_it_has_left(tiny_model_dir):
    predicted, real, _, _ = lived(tiny_model_dir, first=40)
    assert predicted == pytest.approx(real, rel=0.01)


def test_without_evaluations_saves_and_20_steps_there_is_no_promise(tiny_model_dir):
    predicted, _, left, real = lived(tiny_model_dir, steps=FIRST_STEPS - 1, eval_every=0, save_every=0)
    assert math.isnan(predicted)
    assert left[10] == pytest.approx(real[10], rel=0.02, abs=0.1)


def test_a_long_run_is_looked_at_in_part(tiny_model_dir, monkeypatch):
    monkeypatch.setattr("luthier.training.ahead._MOST_STEPS", 50)
    predicted, real, _, _ = lived(tiny_model_dir, steps=400)
    assert predicted == pytest.approx(real, rel=0.05)


def test_an_evaluation_that_is_still_to_come_is_counted(tiny_model_dir):
    predicted, real, _, _ = lived(tiny_model_dir, steps=60, eval_every=30)
    assert predicted == pytest.approx(real, rel=0.05)


def test_steps_that_met_a_size_for_the_first_time_do_not_tell_what_one_costs(tiny_model_dir):
    rows = MemoryRows(300, longest=200)
    plan = plan_for(tiny_model_dir, rows, 300, max_steps=1000, per_device_train_batch_size=1)
    now = [1000.0]
    ahead = TimeLeft(plan, rows, clock=lambda: now[0])
    ahead.start()
    for step in range(1, FIRST_STEPS + 1):
        usual = step % 4 == 0
        tokens = 1000 + 37 * step
        seconds = PASS + TOKEN * tokens + (0.0 if usual else 5.0)
        now[0] += seconds
        ahead.add(StepCost(1, tokens, tokens, seconds, usual), step)
    said = ahead.forecast(FIRST_STEPS)
    assert said.fitted_steps == 5 and said.error < 1e-6
    groups = [step_passes(rows, plan, step, 0, 1) for step in range(FIRST_STEPS, 1000)]
    tokens = sum(int(rows.lengths[rows_of].sum()) for step in groups for rows_of in step)
    assert said.step_seconds * said.steps == pytest.approx(PASS * sum(map(len, groups)) + TOKEN * tokens, rel=1e-6)
