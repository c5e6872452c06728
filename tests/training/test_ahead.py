"""Time to finish: runs whose every second is known, on a clock that the test turns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from luthier.data.loader import step_passes
from luthier.training.ahead import TimeLeft
from luthier.training.cost import FIRST_STEPS
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
        assert ahead.add(len(groups), tokens, seconds, step) is None, "each log line says what is left; no notice does"
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
