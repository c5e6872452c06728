"""Holding out, drawing and counting: properties over keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.split import contradicted, draw, hold_out, not_in, repeated
from luthier.data.tokenize import normalised
from luthier.errors import DataError

KEYS = st.lists(st.integers(0, 40), min_size=2, max_size=200).map(lambda keys: np.array(keys, dtype=np.uint64))


@given(keys=KEYS, share=st.floats(0.01, 0.5), seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_a_question_is_on_one_side_only(keys: np.ndarray, share: float, seed: int) -> None:
    try:
        held = hold_out(keys, share, seed)
    except DataError as error:
        assert error.problems[0].code == "E-DATA-042"
        smallest = np.unique(keys, return_counts=True)[1].min()
        wanted = max(1, round(share * len(keys)))
        assert smallest > wanted or wanted >= len(keys)
        return
    assert not set(keys[held]) & set(keys[~held])
    assert 0 < held.sum() <= max(1, round(share * len(keys)))
    order = np.random.default_rng(seed).permutation(len(keys))
    assert np.array_equal(hold_out(keys[order], share, seed), held[order])


def test_the_number_asked_for_and_the_seed() -> None:
    keys = np.arange(1000, dtype=np.uint64)
    assert hold_out(keys, 0.05, 1).sum() == 50
    assert hold_out(keys, 7.0, 1).sum() == 7
    assert hold_out(keys, 0, 1).sum() == 0
    assert not np.array_equal(hold_out(keys, 50.0, 1), hold_out(keys, 50.0, 2))


@pytest.mark.parametrize("size", [10.0, 11.0])
def test_nothing_left_to_train_on(size: float) -> None:
    with pytest.raises(DataError, match="E-DATA-042"):
        hold_out(np.arange(10, dtype=np.uint64), size, 1)


def test_one_question_cannot_be_split() -> None:
    with pytest.raises(DataError, match="only 1 different prompts"):
        hold_out(np.zeros(10, dtype=np.uint64), 0.5, 1)


@given(weight=st.floats(0.01, 5), count=st.integers(1, 300), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_draw(weight: float, count: int, seed: int) -> None:
    rows = np.arange(10, 10 + count)
    drawn = draw(rows, weight, seed)
    assert abs(len(drawn) - weight * count) <= 1
    assert len(drawn) >= 1
    _, times = np.unique(drawn, return_counts=True)
    assert set(times) <= {int(weight), int(weight) + 1}
    assert np.array_equal(drawn, draw(rows, weight, seed))


def test_counts() -> None:
    prompts, rows = np.array([1, 1, 1, 2, 3], dtype=np.uint64), np.array([11, 11, 12, 20, 30], dtype=np.uint64)
    assert repeated(rows).tolist() == [1]
    assert contradicted(prompts, rows).tolist() == [[0, 2]]
    assert contradicted(prompts[3:], rows[3:]).tolist() == repeated(rows[2:]).tolist() == []
    many = np.array([9, 4, 9, 4, 4, 9], dtype=np.uint64)
    assert contradicted(many, np.array([1, 2, 1, 3, 2, 5], dtype=np.uint64)).tolist() == [[0, 5], [1, 3]]
    assert not_in(prompts, np.array([1], dtype=np.uint64)).tolist() == [False, False, False, True, True]


def test_normalised() -> None:
    assert normalised("  Ｗrite\tＡ\nloop ") == normalised("write a LOOP")
    assert normalised("straße") == normalised("STRASSE")
