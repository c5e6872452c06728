"""Attention that keeps packed documents apart.

A micro-batch is one row of T tokens in which documents lie end to end. Each document attends causally to itself and
to nothing else, so packing changes no number: it only removes padding.

    tokens     a a a a | b b | c c c            document_offsets = (0, 4, 6, 9)
    attention  causal  causal  causal           one block each; no mask tensor is ever built

Registered with transformers as the attention implementation ``luthier_documents``, the extension point that every
model of `transformers` with the attention interface calls. On CUDA in 16 bits it runs a variable-length flash kernel
(`luthier.model.flash`); on a CPU documents of similar length are batched (`luthier.model.bucketed`); elsewhere there
is one `scaled_dot_product_attention` a document. Sliding windows are honoured where a layer tells its attention of
them; some models (Phi-3.5-MoE) leave that to the mask, which packed attention does not get, and `asked_masks` finds
them out. Not covered: such windows, other masks, attention soft-capping, sinks and position biases, which raise
`UnsupportedAttentionError` (such models train unpacked).

Shape letters: B batch (1), H query heads, K key/value heads, T tokens of the micro-batch, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from luthier.model.bucketed import bucketed_attention
from luthier.model.flash import kernel_for

NAME = "luthier_documents"
_Model = TypeVar("_Model", bound=Any)
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")


class UnsupportedAttentionError(NotImplementedError):
    """The model needs something of its attention that the packed form does not compute."""


def caps_scores(config: Any) -> bool:
    """Whether a model of transformers, by its config, caps the scores of its attention softly."""
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def with_capped_scores(model: _Model) -> _Model:
    """The model, with an attention that caps where its config says so.

    transformers 5.17 takes torch's `scaled_dot_product_attention` for such models, which leaves the caps out unsaid.
    """
    if caps_scores(model.config):
        model.set_attn_implementation("eager")
    return model


def document_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    document_offsets: tuple[int, ...] = (),
    cu_seq_lens: torch.Tensor | None = None,
    shared_tokens: int = 0,
    longest: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    Args:
        module: The calling layer (unused; part of the interface of transformers).
        query_BHTD: Queries.
        key_BKTD: Keys; H is a multiple of K (grouped-query attention).
        value_BKTD: Values.
        attention_mask: None, as documents are told apart by their offsets; or what `asked_masks` makes of it.
        dropout: Probability of dropping an attention weight.
        scaling: Factor on the scores; None: 1 / sqrt(D).
        sliding_window: Each token sees itself and the (sliding_window - 1) tokens before it.
        document_offsets: Where each document starts, and T at the end.
        cu_seq_lens: The same as an int32 tensor on the device, for the CUDA kernel.
        shared_tokens: Length of the first document when all others begin with it (see `luthier.model.bucketed`).
        longest: Tokens of the longest document, or more; None: counted.
        **kwargs: Refused when they would change the result.

    Returns:
        Output of shape (B, T, H, D), and None for the attention weights.
    """
    for name in _UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise UnsupportedAttentionError(name)
    if attention_mask is not None:
        _refuse_other_masks(attention_mask, sliding_window)
    if not (document_offsets or (longest and cu_seq_lens is not None)):  # some models (Nemotron) do not hand it on
        raise UnsupportedAttentionError("nothing of what it is told about documents")
    assert query_BHTD.shape[0] == 1, "packed micro-batches hold one row"
    device = query_BHTD.device.type
    if shared_tokens and not shares_beginnings(device, sliding_window):
        raise UnsupportedAttentionError("a shared beginning")
    longest = longest or max(end - start for start, end in pairwise(document_offsets))
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    if dropout == 0.0 and goes_in_buckets(device, sliding_window, longest):
        query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query_BHTD, key_BKTD, value_BKTD))
        return bucketed_attention(query_THD, key_TKD, value_TKD, scale, document_offsets, shared_tokens)[None], None
    # rotated queries and keys may come in float32 beside values in 16 bits
    query_BHTD, key_BKTD = query_BHTD.to(value_BKTD.dtype), key_BKTD.to(value_BKTD.dtype)
    if cu_seq_lens is not None and dropout == 0.0 and (flash := kernel_for(query_BHTD, scale, sliding_window)):
        query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query_BHTD, key_BKTD, value_BKTD))
        output_THD = flash(query_THD, key_TKD, value_TKD, cu_seq_lens, longest, scale, sliding_window)
        return output_THD[None], None
    assert document_offsets, "one call a document: where they start must be known here"
    outputs = []
    for start, end in pairwise(document_offsets):
        window = _window_mask(end - start, sliding_window, query_BHTD.device)
        outputs.append(
            scaled_dot_product_attention(
                query_BHTD[:, :, start:end],
                key_BKTD[:, :, start:end],
                value_BKTD[:, :, start:end],
                attn_mask=window,
                is_causal=window is None,
                dropout_p=dropout,
                scale=scale,
                enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
            ).transpose(1, 2)
        )
    return torch.cat(outputs, dim=1), None


@contextmanager
def asked_masks(longest: int) -> Iterator[None]:
    """While the block runs, `document_attention` is told of the masks that a model asks for, and refuses unlike ones.

    Args:
        longest: Tokens of the longest document that will come: a window that holds it is none.
    """
    masks = AttentionMaskInterface._global_mapping
    masks[NAME] = partial(_asked_mask, longest)
    try:
        yield
    finally:
        del masks[NAME]


def _asked_mask(longest: int, *, mask_function: Any, local_size: int | None = None, **_: Any) -> torch.Tensor:
    """In place of a mask: what it would let a token see."""
    mask: Any = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    first, second = torch.arange(2)
    mask.luthier_asked = longest, local_size, bool(mask_function(0, 0, first, second))
    return mask  # type: ignore[no-any-return]


def _refuse_other_masks(mask: Any, sliding_window: int | None) -> None:
    """Refuse a mask that is not causal within what the layer says by itself."""
    if not hasattr(mask, "luthier_asked"):
        raise UnsupportedAttentionError("a mask of its own")
    longest, reach, looks_ahead = mask.luthier_asked
    if looks_ahead:
        raise UnsupportedAttentionError("what comes after a token")
    by_mask, by_layer = (None if size is None or size >= longest else size for size in (reach, sliding_window))
    if by_mask != by_layer:
        raise UnsupportedAttentionError(f"a window of {by_mask or by_layer:,} tokens that not all of its code knows of")


def goes_in_buckets(device: str, sliding_window: int | None, longest: int) -> bool:
    """Whether documents of up to `longest` tokens are attended to by `luthier.model.bucketed`."""
    return device == "cpu" and (sliding_window is None or sliding_window >= longest)


def shares_beginnings(device: str, sliding_window: int | None) -> bool:
    """Whether documents that begin alike can share those tokens."""
    return device == "cpu" and sliding_window is None


def _window_mask(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    """Boolean (length, length) mask of a causal window, or None where plain causality says the same."""
    if sliding_window is None or length <= sliding_window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < sliding_window)


AttentionInterface.register(NAME, document_attention)
