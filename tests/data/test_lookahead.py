"""The next step's micro-batches before their turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.data.collate import MicroBatch, collate_packed
from luthier.data.loader import Lookahead


class Row:
    def __init__(self, count):
        self.input_ids = np.arange(count, dtype=np.int32)
        self.trained = np.arange(count) > 0


@pytest.fixture
def steps():
    return [[collate_packed([Row(3 + number)])] for number in range(3)]


def test_what_is_looked_at_before_comes_in_its_turn_as_it_was_packed(steps):
    lookahead, device, found = Lookahead(iter(steps)), torch.device("meta"), []
    for batches in lookahead:
        found.append(batches.packed)
        ahead = lookahead.peek(device)
        again = lookahead.peek(device)
        assert len(ahead) == len(again) and all(a is b for a, b in zip(ahead, again, strict=True)), "not the one after"
        assert all(batch.input_ids_BT.device == device for batch in ahead)
    assert all(packed is step for packed, step in zip(found, steps, strict=True))
    assert ahead == []


def test_a_step_has_what_was_moved_for_it_and_no_other(steps):
    lookahead = Lookahead(iter(steps))
    first = next(lookahead)
    assert first.nearest is first.packed, "nobody looked at it before"
    ahead = lookahead.peek(torch.device("meta"))
    second = next(lookahead)
    assert second.packed is steps[1] and second.nearest is ahead
    others = list(second.packed)
    second.rebuild(others)
    assert second.packed is second.nearest is others
    third = next(lookahead)
    assert third.nearest is third.packed is steps[2]


def test_no_step_is_lost_where_memory_runs_out_while_it_is_moved(steps, monkeypatch):
    lookahead, to = Lookahead(iter(steps)), MicroBatch.to

    def too_large(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    next(lookahead)
    monkeypatch.setattr(MicroBatch, "to", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        lookahead.peek(torch.device("meta"))
    monkeypatch.setattr(MicroBatch, "to", to)
    (moved,) = lookahead.peek(torch.device("meta"))
    assert moved.input_ids_BT.shape == steps[1][0].input_ids_BT.shape and moved.input_ids_BT.is_meta
    assert next(lookahead).packed is steps[1] and next(lookahead).packed is steps[2]
