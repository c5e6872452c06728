"""Rows of token ids to the tensors of one micro-batch.

A token at position t is predicted from the hidden state at t - 1 of the same document. `positions_N` are those
predecessors (indices into the flattened rows) and `targets_N` the tokens that follow them, for trained tokens only;
there are no -100 labels, so nothing can be masked by mistake of an id.

Shape letters: B rows (1 when packed), T tokens of a row, N trained tokens, M documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

_SHORTEST_SHARED = 4  # tokens; below that a document more costs as much as it saves
_LONGEST_SHARING = 1024  # tokens of a row; above that the mask of its attention costs more than sharing saves


class Row(Protocol):
    """What collating needs of a row."""

    @property
    def input_ids(self) -> NDArray[np.int32]:
        """Token ids, shape (T,)."""

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Whether each token is trained, shape (T,). The first never is: nothing comes before it."""


@dataclass(frozen=True)
class MicroBatch:
    """The tensors of one forward and backward pass.

    Attributes:
        input_ids_BT: int64 token ids.
        position_ids_BT: int64; restart at 0 with every document.
        attention_mask_BT: int64, 1 for real tokens; None when packed.
        positions_N: int64 indices into the flattened (B*T) positions, each before a trained token.
        targets_N: int64 ids of the trained tokens.
        document_offsets: M + 1 starts of the packed documents; empty when padded.
        cu_seq_lens: The same as int32 tensor, for CUDA kernels; None when padded.
        num_tokens: Tokens of the rows: padding not counted, a shared beginning counted once a row.
        shared_tokens: Length of the first document, when it is the beginning of all others (which go on after it).
        pairs: Where rows come in pairs of a chosen and a rejected answer: each pair's index in the selection. Its rows
            are then chosen_0, rejected_0, chosen_1, rejected_1, ...
        row_of_N: int64, with `pairs`: to which of these rows each trained token belongs; ascending.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor | None
    positions_N: torch.Tensor
    targets_N: torch.Tensor
    document_offsets: tuple[int, ...]
    cu_seq_lens: torch.Tensor | None
    num_tokens: int
    shared_tokens: int = 0
    pairs: tuple[int, ...] = ()
    row_of_N: torch.Tensor | None = None

    @property
    def num_trained(self) -> int:
        """Trained tokens."""
        return len(self.targets_N)

    @property
    def num_losses(self) -> int:
        """What the step's loss is a mean over: pairs where there are any, else trained tokens."""
        return len(self.pairs) or self.num_trained

    @property
    def rows(self) -> int:
        """Rows of the data in it."""
        documents = len(self.document_offsets) - 1 - (self.shared_tokens > 0)
        return documents if self.document_offsets else len(self.input_ids_BT)

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        if self.input_ids_BT.device == device:
            return self
        moved: dict[str, Any] = {
            name: value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments of the model's forward pass."""
        inputs: dict[str, Any] = {"input_ids": self.input_ids_BT, "position_ids": self.position_ids_BT}
        if self.document_offsets:
            inputs |= {"document_offsets": self.document_offsets, "cu_seq_lens": self.cu_seq_lens}
            return inputs | ({"shared_tokens": self.shared_tokens} if self.shared_tokens else {})
        return inputs | {"attention_mask": self.attention_mask_BT}


def collate_packed(rows: Sequence[Row], *, share: bool = False) -> MicroBatch:
    """Lay rows end to end in one row of T tokens.

    Args:
        rows: At least one.
        share: Lay the beginning that all rows have in common there once, as a document of its own: a prompt template's
            opening words are the same in every row, and so are their hidden states.
    """
    shared = shared_beginning(rows) if share else 0
    parts = [rows[0].input_ids[:shared], *(row.input_ids[shared:] for row in rows)][0 if shared else 1 :]
    trained = [np.zeros(shared, dtype=bool), *(_trained(row)[shared:] for row in rows)][0 if shared else 1 :]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int32)
    positions = [np.arange(shared), *(np.arange(shared, len(row.input_ids)) for row in rows)]
    input_ids_T = torch.from_numpy(np.concatenate(parts).astype(np.int64))
    targets_at = torch.from_numpy(np.concatenate(trained)).nonzero().squeeze(1)
    return MicroBatch(
        input_ids_BT=input_ids_T[None],
        position_ids_BT=torch.from_numpy(np.concatenate(positions))[None],
        attention_mask_BT=None,
        positions_N=targets_at - 1,
        targets_N=input_ids_T[targets_at],
        document_offsets=tuple(int(o) for o in offsets),
        cu_seq_lens=torch.from_numpy(offsets),
        num_tokens=sum(len(row.input_ids) for row in rows),
        shared_tokens=shared,
    )


def in_pairs(batch: MicroBatch, rows: Sequence[Row], pairs: Sequence[int]) -> MicroBatch:
    """The batch of `rows`, two for each of `pairs`, with what a loss over pairs needs to know."""
    counts = torch.tensor([int(_trained(row).sum()) for row in rows])
    return replace(batch, pairs=tuple(pairs), row_of_N=torch.arange(len(rows)).repeat_interleave(counts))


@dataclass(frozen=True)
class _Nothing:
    """Two tokens that nobody learns."""

    input_ids: NDArray[np.int32]
    trained: NDArray[np.bool_]


def untrained(*, packed: bool) -> MicroBatch:
    """A micro-batch for a rank that has no rows left while others do: its loss and its gradients are 0."""
    row = _Nothing(np.zeros(2, dtype=np.int32), np.zeros(2, dtype=bool))
    return replace(collate_packed([row]) if packed else collate_padded([row]), num_tokens=0)


def shared_beginning(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, none at or just before a trained one; 0 when sharing pays nothing."""
    if len(rows) < 2 or max(len(row.input_ids) for row in rows) > _LONGEST_SHARING:
        return 0
    # the hidden state that predicts the first trained token belongs to its row alone
    most = min(int(_trained(row).argmax()) - 1 if _trained(row).any() else len(row.input_ids) - 1 for row in rows)
    if most < _SHORTEST_SHARED:
        return 0
    first = rows[0].input_ids[:most]
    differs = np.logical_or.reduce([row.input_ids[:most] != first for row in rows[1:]])
    shared = int(differs.argmax()) if differs.any() else most
    return shared if shared >= _SHORTEST_SHARED else 0


def collate_padded(rows: Sequence[Row]) -> MicroBatch:
    """One row each, filled up on the right to the longest. Padding is masked by position; its id (0) means nothing."""
    longest = max(len(row.input_ids) for row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    trained = np.zeros((len(rows), longest), dtype=bool)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[index, :length] = row.input_ids
        mask[index, :length] = 1
        trained[index, :length] = _trained(row)
    targets_at = torch.from_numpy(np.flatnonzero(trained))
    input_ids_BT = torch.from_numpy(input_ids)
    return MicroBatch(
        input_ids_BT=input_ids_BT,
        position_ids_BT=torch.arange(longest).repeat(len(rows), 1),  # a view of one row could not be pinned
        attention_mask_BT=torch.from_numpy(mask),
        positions_N=targets_at - 1,
        targets_N=input_ids_BT.flatten()[targets_at],
        document_offsets=(),
        cu_seq_lens=None,
        num_tokens=int(mask.sum()),
    )


def _trained(row: Row) -> NDArray[np.bool_]:
    """The row's mask without its first token, which nothing predicts."""
    mask = row.trained.astype(bool)
    mask[0] = False
    return mask
