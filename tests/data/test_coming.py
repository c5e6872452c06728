"""The next step's micro-batches before their turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.data.collate import MicroBatch, collate_packed
from luthier.data.loader import Coming


class Row:
    def __init__(self, count):
        self.input_ids = np.arange(count, dtype=np.int32)
        self.trained = np.arange(count) > 0


@pytest.fixture
def steps():
    return [[collate_packed([Row(3 + number)])] for number in range(3)]


def test_what_is_looked_at_before_comes_in_its_turn_as_it_was_packed(steps):
    coming, device, found = Coming(iter(steps)), torch.device("meta"), []
    for batches in coming:
        found.append(batches)
        ahead = coming.peek(device)
        assert ahead is coming.peek(device), "the same, not the one after"
        if ahead is not None:
            assert ahead[0].input_ids_BT.device == device
    assert all(batches is step for batches, step in zip(found, steps, strict=True))
    assert ahead is None


def test_a_step_has_what_was_moved_for_it_and_no_other(steps):
    coming = Coming(iter(steps))
    first = next(coming)
    assert coming.moved(first) is first, "nobody looked at it before"
    ahead = coming.peek(torch.device("meta"))
    second = next(coming)
    assert second is steps[1] and coming.moved(second) is ahead
    cut_anew = list(second)
    assert coming.moved(cut_anew) is cut_anew
    third = next(coming)
    assert coming.moved(third) is third


def test_no_step_is_lost_where_memory_runs_out_while_it_is_moved(steps, monkeypatch):
    coming, to = Coming(iter(steps)), MicroBatch.to

    def too_large(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    next(coming)
    monkeypatch.setattr(MicroBatch, "to", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        coming.peek(torch.device("meta"))
    monkeypatch.setattr(MicroBatch, "to", to)
    (moved,) = coming.peek(torch.device("meta"))
    assert moved.input_ids_BT.shape == steps[1][0].input_ids_BT.shape and moved.input_ids_BT.is_meta
    assert next(coming) is steps[1] and next(coming) is steps[2]
