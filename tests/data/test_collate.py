"""Rows laid end to end, with what they begin with once."""

import numpy as np
import pytest
import torch

from luthier.data.collate import collate_packed, collate_padded, in_pairs, shared_beginning
from tests.rows import MemoryRow


def row(ids, trained_from):
    ids = np.array(ids, dtype=np.int32)
    return MemoryRow(ids, np.arange(len(ids)) >= trained_from)


BEGIN = [1, 5, 6, 7, 8]
ROWS = [row([*BEGIN, 20, 21, 2], 6), row([*BEGIN, 30, 31, 32, 2], 7), row([*BEGIN, 20, 40, 2], 7)]


def test_each_token_is_there_once_and_positions_go_on():
    batch = collate_packed(ROWS, share=True)
    assert batch.shared_tokens == 5
    assert batch.document_offsets == (0, 5, 8, 12, 15)
    assert batch.input_ids_BT.tolist() == [[*BEGIN, 20, 21, 2, 30, 31, 32, 2, 20, 40, 2]]
    assert batch.position_ids_BT.tolist() == [[*range(5), *range(5, 8), *range(5, 9), *range(5, 8)]]
    assert batch.num_tokens == 8 + 9 + 8
    assert batch.model_inputs()["shared_tokens"] == 5


def test_what_is_trained_stays_trained():
    apart, shared = collate_packed(ROWS), collate_packed(ROWS, share=True)
    assert shared.targets_N.tolist() == apart.targets_N.tolist()
    before = [batch.input_ids_BT[0][batch.positions_N].tolist() for batch in (apart, shared)]
    assert before[0] == before[1]
    assert apart.shared_tokens == 0 and "shared_tokens" not in apart.model_inputs()


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        (ROWS[:1], 0),
        (ROWS[:2], 5),
        ([row([*BEGIN, 9, 9, 9, 2], 7), row([*BEGIN, 9, 9, 9, 2], 7)], 6),  # the last untrained token predicts
        ([row([*BEGIN, 20, 2], 3), row([*BEGIN, 30, 2], 6)], 0),  # trained before the beginning ends
        ([row([1, 5, 6, 20, 2], 4), row([1, 5, 6, 30, 2], 4)], 0),  # too short to pay
        ([row([1, 20, 2], 1), row([1, 30, 2], 1)], 0),
        ([row([9, *BEGIN, 2], 6), row([*BEGIN, 30, 2], 6)], 0),
    ],
)
def test_how_long_a_beginning_is_shared(rows, length):
    assert shared_beginning(rows) == length
    assert collate_packed(rows, share=True).shared_tokens == length


@pytest.mark.parametrize("collate", [collate_packed, collate_padded])
def test_every_tensor_can_be_pinned(collate):
    """Pinning lays a tensor's numbers where its own strides say, so no two may have one place."""
    batch = in_pairs(collate(ROWS[:2]), ROWS[:2], [0])
    for tensor in (x for x in vars(batch).values() if isinstance(x, torch.Tensor)):
        assert torch.equal(torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor), tensor)
