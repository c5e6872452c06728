"""One forward pass over a micro-batch, and its loss.

The decoder runs over all tokens; the head only over the positions whose next token is trained. Models that do
something to their logits (scaling, soft-capping, a head with an adapter or a bias) take the general road: their own
forward pass with `logits_to_keep`, then the same loss on its logits.

Shape letters: B rows, T tokens of a row, N trained tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from luthier.config.plan import Plan
from luthier.model.head import chunked_nll, plain_head, token_nll
from luthier.model.lean.decoder import LeanDecoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LEAN = "luthier_lean"
"""Attribute of a model that runs on the lean path: its `LeanDecoder`; read by `lean_of`."""
PASS = "luthier_pass"
"""Attribute of a sharded model: calls what it is given, with the weights outside of the layers gathered."""
_T = TypeVar("_T")


class Batch(Protocol):
    """What a forward pass needs; `luthier.data.collate.MicroBatch` is one."""

    @property
    def positions_N(self) -> torch.Tensor:
        """int64 indices into the flattened (B*T) positions, each before a trained token."""

    @property
    def targets_N(self) -> torch.Tensor:
        """int64 ids of the trained tokens."""

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments of the model's forward pass."""


def lean_of(model: nn.Module) -> LeanDecoder | None:
    """What computes its passes on the lean path; None where its own layers do."""
    return getattr(model, LEAN, None)


def summed_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Sum of the negative log-likelihoods (nats, float32) of the batch's trained tokens.

    Args:
        model: A causal language model of transformers, with or without peft's adapters.
        batch: Packed or padded; on the model's device.
    """
    lean = lean_of(model)
    if lean is not None:
        return lean.summed_loss(batch.model_inputs(), batch.positions_N, batch.targets_N)
    causal_lm = unwrap(model)
    return as_one_pass(causal_lm, lambda: _summed_loss(causal_lm, batch))


def _summed_loss(causal_lm: Any, batch: Batch) -> torch.Tensor:
    head = plain_head(causal_lm)
    if head is None or decoder_of(causal_lm) is None:
        return _losses_by_logits(causal_lm, batch, "sum")
    return chunked_nll(_hidden_states(causal_lm, batch), head.weight, batch.targets_N)


def _hidden_states(causal_lm: Any, batch: Batch) -> torch.Tensor:
    """Those before each trained token (N, D)."""
    hidden_BTD = causal_lm.get_decoder()(**batch.model_inputs(), use_cache=False).last_hidden_state
    return hidden_BTD.flatten(0, 1)[batch.positions_N]  # type: ignore[no-any-return]


def decoder_of(causal_lm: Any) -> Any:
    """What makes the hidden states that the head is given; None where transformers does not find it.

    It takes the head of ModernBERT's decoder for one, and gives Llama 4 back itself.
    """
    decoder = causal_lm.get_decoder()
    return None if decoder is causal_lm or decoder is causal_lm.get_output_embeddings() else decoder


def token_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood (nats, float32, shape (N,)) of each trained token; differentiable.

    Args:
        model: As for `summed_loss`; not sharded.
        batch: Packed or padded; on the model's device.
    """
    lean = lean_of(model)
    if lean is not None:
        return lean.token_losses(batch.model_inputs(), batch.positions_N, batch.targets_N)
    causal_lm = unwrap(model)
    head = plain_head(causal_lm)
    if head is None or decoder_of(causal_lm) is None:
        return _losses_by_logits(causal_lm, batch, "none")
    return token_nll(_hidden_states(causal_lm, batch), head.weight, batch.targets_N)


def own_token_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The same by the model's own layers and all logits at once, to compare with."""
    return _losses_by_logits(unwrap(model), batch, "none")


def _losses_by_logits(causal_lm: Any, batch: Batch, reduction: str) -> torch.Tensor:
    logits_NV = causal_lm(**batch.model_inputs(), use_cache=False).logits.flatten(0, 1)[batch.positions_N]
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return nn.functional.cross_entropy(logits_NV.to(wide), batch.targets_N, reduction=reduction)


def as_one_pass(causal_lm: Any, work: Callable[[], _T]) -> _T:
    """`work()`, which may use any module and weight of the model; of a sharded one all ranks do it together.

    Args:
        causal_lm: A model of transformers, without peft's wrapper.
        work: Returns what a forward pass returns: tensors, or something that holds them.
    """
    enter: Callable[[Callable[[], _T]], _T] | None = getattr(causal_lm, PASS, None)
    return work() if enter is None else enter(work)


def unwrap(model: Any) -> Any:
    """The model of transformers inside peft's wrapper; adapters stay active."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def autocast(plan: Plan) -> AbstractContextManager[object]:
    """Compute in `model.dtype` where it is a 16-bit format, whatever the trainable parameters are kept in."""
    dtype = DTYPES[plan.config.model.dtype]
    return nullcontext() if dtype is torch.float32 else torch.autocast(plan.machine.device, dtype=dtype)


def to_evaluation(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, except its 4-bit layers.

    In that mode bitsandbytes, on a CPU with bfloat16, packs their weights anew at their first use: it multiplies in
    bfloat16 whatever the model's format is, what is merged or saved afterwards is read as if it were not packed, and
    training gets no gradient through the layer, without a word.
    """
    model.eval()
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.training = True
    return model


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients; the model's mode comes back afterwards."""
    was_training = [(module, module.training) for module in model.modules()]
    to_evaluation(model)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in was_training:
            module.training = training
