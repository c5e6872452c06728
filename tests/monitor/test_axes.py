"""Axes for pictures: round numbers within the ends, whatever the values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.monitor.axes import value_axis
from luthier.monitor.statistics import centred

NUMBERS = st.floats(-1e12, 1e12)


def test_round_numbers_and_a_margin():
    axis = value_axis(2.1, 3.9, 4)
    assert [label for _, label in axis.ticks] == ["2.5", "3.0", "3.5"] and axis.low < 2.1 and axis.high > 3.9
    assert value_axis(0.0, 2e-4, 3, from_zero=True).ticks[:2] == ((0.0, "0"), (1e-4, "1e-4"))
    powers = value_axis(-3.0, 0.0, 4, logarithmic=True)
    assert [label for _, label in powers.ticks] == ["0.001", "0.01", "0.1", "1"]


@given(NUMBERS, NUMBERS, st.integers(3, 8), st.booleans())
def test_every_value_and_every_label_lies_on_it(a, b, ticks, from_zero):
    axis = value_axis(min(a, b), max(a, b), ticks, from_zero=from_zero)
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in (a, b))
    assert 1 <= len(axis.ticks) <= 2 * ticks + 2 and all(axis.low <= value <= axis.high for value, _ in axis.ticks)


def test_the_centred_mean_lags_behind_nothing():
    line = [3.0 * index for index in range(20)]
    assert centred(line, 4) == pytest.approx(line), "a straight line is its own mean"
    values = [1.0, 5.0, math.nan, 7.0, 9.0]
    assert centred(values, 1) == [1.0, 3.0, 6.0, 8.0, 9.0]
    assert math.isnan(centred([math.nan], 3)[0]) and centred([], 3) == []
