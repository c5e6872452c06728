"""Few bins, evenly filled; each item once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.pack import pack, pad


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(50, 900))
def test_each_item_is_in_one_bin_and_no_bin_is_too_full(lengths, budget):
    groups = pack(lengths, budget)
    assert sorted(item for group in groups for item in group) == list(range(len(lengths)))
    loads = [sum(lengths[item] for item in group) for group in groups]
    assert all(load <= budget or len(group) == 1 for load, group in zip(loads, groups, strict=True))
    if max(lengths) <= budget:
        # first-fit's bound: no two bins together fit into one
        assert all(a + b > budget for a, b in zip(sorted(loads), sorted(loads)[1:], strict=False)) or len(loads) <= (
            2 * sum(lengths) // budget + 1
        )


@pytest.mark.parametrize(
    ("lengths", "budget", "loads"),
    [
        ([100] * 16, 2048, [1600]),
        ([130] * 16, 2048, [1040, 1040]),  # not 1950 and 130
        ([900, 800, 700, 100], 1300, [900, 800, 800]),
        ([60, 40, 50, 50], 100, [100, 100]),
        ([70, 30, 40, 60], 100, [100, 100]),
        ([500, 20], 100, [500, 20]),  # longer than a bin: alone
    ],
)
def test_bins_are_filled_evenly(lengths, budget, loads):
    groups = pack(lengths, budget)
    assert sorted((sum(lengths[item] for item in group) for group in groups), reverse=True) == loads
    assert groups == sorted(sorted(group) for group in groups)


def test_padded_groups_hold_similar_lengths():
    assert pad([10, 50, 12, 48], 100, most_rows=4) == [[0, 2], [1, 3]]
    assert pad([10, 10, 10], 1000, most_rows=2) == [[0, 1], [2]]
