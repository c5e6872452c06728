"""Learning rates, against the formulas and against transformers' own schedules."""

from __future__ import annotations

import pytest
import torch
from transformers import get_cosine_with_min_lr_schedule_with_warmup, get_linear_schedule_with_warmup

from luthier.training.schedule import learning_rate
from tests.rows import MemoryRows, plan_for

ROWS = MemoryRows(64)


def rates(**keys):
    plan = plan_for("model", ROWS, val_set_size=0, max_steps=100, learning_rate=2e-4, **keys)
    return [learning_rate(plan, step) for step in range(100)]


def transformers_rates(build):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    scheduler = build(optimizer)
    found = []
    for _ in range(100):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_with_a_floor_is_that_of_transformers():
    theirs = transformers_rates(
        lambda optimizer: get_cosine_with_min_lr_schedule_with_warmup(optimizer, 0, 100, min_lr=5e-5)
    )
    assert rates(lr_scheduler_type="cosine", min_learning_rate=5e-5) == pytest.approx(theirs, rel=1e-12)


def test_linear_is_that_of_transformers():
    theirs = transformers_rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, 0, 100))
    assert rates(lr_scheduler_type="linear") == pytest.approx(theirs, rel=1e-12)


def test_warmup_rises_to_the_peak_and_never_starts_at_zero():
    found = rates(lr_scheduler_type="constant", warmup_steps=10)
    assert found[0] == pytest.approx(2e-5)
    assert found[:10] == sorted(found[:10])
    assert set(found[9:]) == {2e-4}


def test_warmup_stable_decay_stays_and_then_falls_to_the_floor():
    found = rates(lr_scheduler_type="wsd", warmup_ratio=0.1, decay_ratio=0.2, min_learning_rate=1e-5)
    assert set(found[10:81]) == {2e-4}
    assert found[80:] == sorted(found[80:], reverse=True)
    assert found[99] == pytest.approx(1e-5 + 1.9e-4 / 20)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_every_rate_lies_between_floor_and_peak(schedule):
    keys = {} if schedule == "constant" else {"min_learning_rate": 1e-5}
    found = rates(lr_scheduler_type=schedule, warmup_steps=7, **keys)
    assert max(found) == pytest.approx(2e-4)
    assert min(found[7:]) >= 1e-5
