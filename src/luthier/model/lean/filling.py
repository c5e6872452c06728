r"""Micro-batches filled up to one of few sizes, where each new size costs time and memory.

On CUDA a pass can be recorded for a size (`luthier.model.lean.graphs`). On a CPU in 16 bits oneDNN writes machine code
for the sizes of a product when it first sees them: that takes longer than the product, and what it allocates in between
keeps freed tensors from becoming one piece of memory again.

    tokens      one more document of at least one token, that nobody trains on
    positions   more rows of that document's first token, which have no target

None of them changes a number of the others, and their gradients are exactly 0.

Shape letters: T tokens, N trained tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

_LEAST = 64
_PARTS_ON_A_CPU = 8


class PassInputs(NamedTuple):
    """What a pass reads.

    Attributes:
        inputs: Of the model.
        positions_N: Before trained tokens.
        targets_N: The ids of these, or of the first of them; see `luthier.model.head.nll`.
    """

    inputs: dict[str, Any]
    positions_N: Tensor
    targets_N: Tensor


def fills_up(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether passes that are not recorded are filled up, too."""
    return device.type == "cpu" and dtype.itemsize == 2


def in_few_sizes(batch: PassInputs) -> PassInputs:
    """A batch for a CPU: `filled`, and its last document among the others; one of such a size already as it is."""
    tokens = batch.inputs["input_ids"].shape[1]
    if _rounded(tokens, _PARTS_ON_A_CPU) == tokens:
        return batch
    batch = filled(batch, _PARTS_ON_A_CPU)
    offsets = (*batch.inputs["document_offsets"], batch.inputs["input_ids"].shape[1])
    known = {name: value for name, value in batch.inputs.items() if name not in ("cu_seq_lens", "longest")}
    return batch._replace(inputs=known | {"document_offsets": offsets})


def filled(batch: PassInputs, parts: int) -> PassInputs:
    """Tokens and positions filled up by one of so many parts at most; targets and documents' starts stay."""
    inputs, positions_N, targets_N = batch
    tokens, rows = inputs["input_ids"].shape[1], len(positions_N)
    more = _rounded(tokens + 1, parts) - tokens
    by_token = {name: pad(inputs[name], (0, more)) for name in ("input_ids", "position_ids")}
    return PassInputs(inputs | by_token, pad(positions_N, (0, _rounded(rows, parts) - rows), value=tokens), targets_N)


def power_of_2(count: int) -> int:
    """The next one, or `count` itself."""
    return 1 << max(0, count - 1).bit_length()


def _rounded(count: int, parts: int) -> int:
    """Up to a part more, so that few sizes come out; small ones to a multiple of 64."""
    step = max(_LEAST, power_of_2(count) // 2 // parts)
    return -(-count // step) * step
