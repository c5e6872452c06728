"""Seconds = a passes + b tokens, found again from steps that cost exactly that."""

import pytest

from luthier.training.cost import FIRST_STEPS, StepCost, advice, fit


def steps(a, b, passes=lambda n: 1 + n % 3, tokens=lambda n: 1000 + 37 * n):
    return [(passes(n), tokens(n), a * passes(n) + b * tokens(n)) for n in range(FIRST_STEPS)]


def said(measured):
    return advice([StepCost(passes, tokens, 2 * tokens, seconds) for passes, tokens, seconds in measured], FIRST_STEPS)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.001), (0.0, 0.002), (0.3, 0.0)])
def test_the_costs_are_found(a, b):
    cost = fit(steps(a, b))
    assert cost.pass_seconds == pytest.approx(a, abs=1e-9)
    assert cost.token_seconds == pytest.approx(b, abs=1e-12)
    assert cost.error < 1e-6


def test_one_pass_a_step_is_told_from_its_tokens_by_their_lengths():
    cost = fit(steps(0.2, 0.001, passes=lambda n: 1))
    assert (cost.pass_seconds, cost.token_seconds) == (pytest.approx(0.2), pytest.approx(0.001))


def test_no_cost_is_below_zero():
    falling = [(1, 1000 + n, 2.0 - 0.001 * n) for n in range(20)]
    cost = fit(falling)
    assert cost.pass_seconds >= 0 and cost.token_seconds >= 0


def test_what_would_pay_is_said_with_its_line():
    notice = said(steps(0.1, 0.0001, passes=lambda n: 4))
    assert "a pass costs 100.0 ms and 1,000 tokens 100.0 ms (fitted on 17 steps, 0% off)" in notice.text
    assert "one pass a step instead of 4.0 would save" in notice.text
    assert notice.change == "training.max_tokens_per_micro_batch: 3584"
    assert notice.step == FIRST_STEPS


def test_what_would_not_pay_is_not_proposed():
    assert said(steps(0.001, 0.002, passes=lambda n: 2)) is None
