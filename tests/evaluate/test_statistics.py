"""Formulas against plain references: exact fractions, sums over all cases, all resamples."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from luthier.evaluate.statistics import (
    Z,
    bootstrap_mean,
    bootstrap_ratio,
    fewest_changed,
    holm,
    mcnemar,
    newcombe,
    pass_at_k,
    wilson,
)


@pytest.mark.parametrize(("passed", "total"), [(0, 5), (1, 5), (5, 5), (37, 200), (199, 200), (0, 1)])
def test_wilson_ends_are_where_the_score_test_turns(passed, total):
    """An end of the interval is a share p whose distance from the data is exactly z standard errors of p itself."""
    low, high = wilson(passed, total)
    assert 0 <= low <= passed / total <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            standard_error = (end * (1 - end) / total) ** 0.5
            assert abs(passed / total - end) == pytest.approx(Z * standard_error, rel=1e-9)
    assert (low == 0) == (passed == 0) and (high == 1) == (passed == total)


def test_wilson_covers_the_truth_about_95_times_in_100():
    total, truth = 40, Fraction(3, 10)
    covered = Fraction(0)
    for passed in range(total + 1):
        low, high = wilson(passed, total)
        if low <= truth <= high:
            covered += comb(total, passed) * truth**passed * (1 - truth) ** (total - passed)
    assert 0.93 < covered < 0.97


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 0), (0, 6), (3, 3), (7, 2), (2, 9)])
def test_mcnemar_counts_all_ways_that_are_as_uneven(gained, lost):
    changed = gained + lost
    uneven = abs(gained - lost)
    ways = sum(abs(2 * sum(way) - changed) >= uneven for way in product((0, 1), repeat=changed))
    assert mcnemar(gained, lost) == pytest.approx(float(Fraction(ways, 2**changed)), rel=1e-12)


@pytest.mark.parametrize("others", [[], [0.9], [0.001], [0.9, 0.9, 0.9], [0.001, 0.04, 0.9]])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_fewest_changes_reach_the_level_and_one_less_does_not(level, others):
    fewest = fewest_changed(level, others)
    reached = [holm([mcnemar(changed, 0), *others])[0] for changed in (fewest - 1, fewest)]
    assert reached[0] >= level > reached[1]
    assert fewest_changed(0.05) == 6 and fewest_changed(0.05, [0.9]) == 7


def test_newcombe_is_that_of_the_paper_and_covers():
    assert newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)  # Newcombe 1998, method 10
    low, high = newcombe(0, 4, 0, 0)
    assert 0 < low < 0.5 and high == 1, "four of four gained is not certainty"
    low, high = newcombe(2, 0, 0, 1)
    assert low < 0 < high, "no change among three is not certainty either"
    rng = np.random.default_rng(0)
    for n, gain, loss in ((50, 0.04, 0.02), (20, 0.9, 0.0)):
        counts = rng.multinomial(n, [(1 - gain - loss) / 2, gain, loss, (1 - gain - loss) / 2], size=2000)
        inside = [low <= gain - loss <= high for low, high in (newcombe(*map(int, row)) for row in counts)]
        assert 0.93 < np.mean(inside) < 0.99


def test_the_bootstrap_is_that_of_all_resamples():
    """5 tasks have 5^5 resamples; 10,000 draws of them agree with all of them."""
    values = [1, 1, 0, -1, 0.5]
    every = np.array([np.mean(draw) for draw in product(values, repeat=5)])
    low, high = bootstrap_mean(values)
    for mine, quantile in ((low, 0.025), (high, 0.975)):
        assert np.quantile(every, quantile - 0.008) - 1e-9 <= mine <= np.quantile(every, quantile + 0.008) + 1e-9
    assert low < np.mean(values) < high


def test_the_bootstrap_follows_its_seed_and_not_the_order():
    values = [1, 0, 0, 0, -1, 1, 1, 0.25, 0.75, 0]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values[::-1], seed=3)
    assert any(bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=seed) for seed in (4, 5, 6))
    assert bootstrap_mean([0, 0, 0]) == (0, 0)


@pytest.mark.parametrize(("answers", "passed", "k"), [(5, 0, 2), (5, 2, 1), (5, 2, 3), (6, 3, 4), (4, 4, 2), (7, 1, 7)])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_answers(answers, passed, k):
    right = [i < passed for i in range(answers)]
    choices = [any(choice) for choice in combinations(right, k)]
    assert pass_at_k(answers, passed, k) == pytest.approx(sum(choices) / len(choices), rel=1e-12)


def test_holm_is_the_step_down_procedure():
    """Rejected at level a exactly when it and all smaller ones pass a / (how many are left)."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = list(rng.random(5) ** 3)
        raised = holm(values)
        for level in (0.01, 0.05, 0.3):
            rejected = set()
            for rank, place in enumerate(np.argsort(values)):
                if values[place] > level / (5 - rank):
                    break
                rejected.add(place)
            assert rejected == {place for place in range(5) if raised[place] <= level}
    assert holm([0.03]) == [0.03] and holm([]) == []


def test_a_ratio_weighs_passages_by_their_tokens():
    low, high = bootstrap_ratio([2.0, 30.0, 8.0], [2, 10, 4])
    assert low < 40 / 16 < high and low >= 1.0 and high <= 3.0
    assert bootstrap_ratio([3.0, 6.0], [1, 2]) == (3.0, 3.0)
