"""The loss: negative log-likelihood of the trained tokens, without ever holding all logits.

For a hidden state h and the head's weights W (V rows, one a vocabulary entry) the logits are z = W h and

    loss(h, y) = logsumexp(z) - z[y]                     (nats; 0 = certain and right, log V = guessing)
    d loss / d z = softmax(z) - onehot(y)                (known as soon as z is: a sum of losses needs no second pass)

Logits are made for a chunk of trained tokens at a time, turned into loss and gradient where they lie, and forgotten.
With 128,256 vocabulary entries a step of 4,096 tokens would otherwise hold 2 GiB of float32 logits and as much of
gradients. What is between logits and gradient is computed in float32, for a block of a chunk at a time: on a CPU few
enough rows for its caches.

Shape letters: N trained tokens, C tokens of a chunk, B tokens of a block, V vocabulary, D hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BY_LOGITS = "luthier_by_logits"
"""Attribute of a model that was seen to do more than one product with its hidden states: it has no plain head."""
NO_TARGET = -1
"""In place of a target: its row has no loss and no gradient. Only `luthier.model.kernels.loss` knows it."""
_LOGIT_CHANGES = re.compile("logits?_(soft_?cap|scal)|lm_head_multiplier")
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 128 * 2**20}
"""Of the float32 logits of a block; their softmax takes as much again."""


def nll(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    hidden: bool = False,
    weight: bool = False,
    hidden_scale: float = 1.0,
    in_place: Callable[..., Tensor] | None = None,
    shares_N: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The loss of each trained token (float32, nats) and, where asked for, the gradients of their sum, all in one go.

    Args:
        hidden_ND: Final hidden states at the positions before each trained token.
        weight_VD: Weights of the head, in the same format.
        targets_N: int64 ids of the trained tokens. There may be fewer: the last hidden states then have no loss, and a
            gradient of 0.
        hidden: Return the gradient of `hidden_ND` too, in its format.
        weight: Return the gradient of `weight_VD` too, in float32.
        hidden_scale: Factor on the gradient of `hidden_ND`, before it is rounded to its format.
        in_place: `luthier.model.kernels.loss.cross_entropy`, to be used instead of plain torch.
        shares_N: Factors of the losses in that sum, where they are not 1; for plain torch.
    """
    size, wide = weight_VD.shape[0], torch.promote_types(hidden_ND.dtype, torch.float32)
    grad_hidden_ND = torch.empty_like(hidden_ND) if hidden else None
    grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if weight else None
    loss_N = hidden_ND.new_empty(len(targets_N), dtype=wide)
    device = hidden_ND.device.type
    chunk = chunk_rows(device, size, hidden_ND.element_size() if in_place else wide.itemsize)
    rows, block = min(chunk, len(hidden_ND)), block_rows(device, size, wide.itemsize)
    logits_CV = hidden_ND.new_empty(rows, size)
    room_2BV = None if in_place else hidden_ND.new_empty(2, min(rows, block), size, dtype=wide)
    for start in range(0, len(hidden_ND), chunk):
        hidden_CD, targets_C = hidden_ND[start : start + chunk], targets_N[start : start + chunk]
        grad_CV = torch.mm(hidden_CD, weight_VD.T, out=logits_CV[: len(hidden_CD)])
        with_target_CV, without_CV = torch.split(grad_CV, [len(targets_C), len(grad_CV) - len(targets_C)])
        loss_C = loss_N[start : start + chunk]
        if room_2BV is None:
            assert in_place is not None and shares_N is None
            loss_C.copy_(in_place(with_target_CV, targets_C, gradient=hidden or weight))
        else:
            shares_C = loss_C if shares_N is None else shares_N[start : start + chunk]
            blocks = (torch.split(x, block) for x in (with_target_CV, targets_C, loss_C, shares_C))
            for logits_BV, targets_B, loss_B, shares_B in zip(*blocks, strict=True):
                room, shares = room_2BV[:, : len(logits_BV)], None if shares_N is None else shares_B
                loss_B.copy_(_cross_entropy(logits_BV, targets_B, room, shares, gradient=hidden or weight))
        if len(without_CV):
            without_CV.zero_()
        if grad_hidden_ND is not None:
            grad_CD = grad_hidden_ND[start : start + chunk]
            if hidden_scale == 1.0:
                torch.mm(grad_CV, weight_VD, out=grad_CD)
            else:
                torch.addmm(grad_CD, grad_CV, weight_VD, beta=0, alpha=hidden_scale, out=grad_CD)
        if grad_weight_VD is not None:
            grad_weight_VD += grad_CV.T @ hidden_CD
    return loss_N, grad_hidden_ND, grad_weight_VD


def chunk_rows(device: str, vocabulary: int, logit_bytes: int) -> int:
    """How many trained tokens' logits are made at a time: whole tiles of a matrix product, so that none is half empty.

    Args:
        device: "cuda", "cpu", ...
        vocabulary: Logits of a token.
        logit_bytes: Of each: 4, or those of the format where a kernel makes them their own gradient.
    """
    rows = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (logit_bytes * vocabulary)
    tile = 128 if rows >= 128 else 16
    return max(tile, rows // tile * tile)


def block_rows(device: str, vocabulary: int, wide_bytes: int) -> int:
    """How many of them are turned into loss and gradient at a time; `wide_bytes` of a number in the format of that."""
    return max(1, BLOCK_BYTES.get(device, BLOCK_BYTES["cuda"]) // (wide_bytes * vocabulary))


def _cross_entropy(
    logits_BV: Tensor, targets_B: Tensor, room_2BV: Tensor, shares_B: Tensor | None, *, gradient: bool
) -> Tensor:
    """The losses; if asked for, logits become their gradient. There is room for a wide copy and its softmax."""
    targets_B1 = targets_B[:, None]
    z_BV = room_2BV[0].copy_(logits_BV)
    p_BV = torch.softmax(z_BV, dim=-1, out=room_2BV[1])
    # log softmax(z)[y] is that of the largest z less what lies between them: no probability is too small for it
    between_B1 = z_BV.amax(-1, keepdim=True) - z_BV.gather(1, targets_B1)
    loss_B1 = between_B1 - p_BV.amax(-1, keepdim=True).log_()
    if gradient:
        p_BV.scatter_(1, targets_B1, torch.expm1(-loss_B1))
        logits_BV.copy_(p_BV if shares_B is None else p_BV.mul_(shares_B[:, None]))
    return loss_B1[:, 0]


def _format(hidden_ND: Tensor) -> torch.dtype:
    """What products are computed in."""
    device = hidden_ND.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype


class _ChunkedNll(torch.autograd.Function):
    """The sum of `nll` in autograd's graph; gradients are computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, wanted: bool) -> Tensor:
        device, dtype = hidden_ND.device.type, _format(hidden_ND)
        hidden, weight = (needed and wanted for needed in ctx.needs_input_grad[:2])
        with torch.autocast(device, enabled=False):
            loss_N, *gradients = nll(hidden_ND.to(dtype), weight_VD.to(dtype), targets_N, hidden=hidden, weight=weight)
        formats = (hidden_ND.dtype, weight_VD.dtype)
        ctx.gradients = tuple(None if g is None else g.to(f) for g, f in zip(gradients, formats, strict=True))
        return loss_N.sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (scale,) = grad_outputs
        hidden, weight = (None if g is None else g.mul_(scale.to(g.dtype)) for g in ctx.gradients)
        ctx.gradients = ()  # they were scaled in place: a second backward pass must fail, not lie
        return hidden, weight, None, None


def chunked_nll(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over N of -log softmax(hidden @ weight.T)[target].

    Args:
        hidden_ND: Final hidden states at the positions before each trained token.
        weight_VD: Weights of the head (no bias).
        targets_N: int64 ids of the trained tokens.

    Returns:
        A float32 scalar in nats (a sum, not a mean: the mean is over the whole optimizer step, which only the engine
        knows). Differentiable once in `hidden_ND` and `weight_VD`; in 16 bits a factor on it should be a power of two:
        any other is rounded, and all gradients with it.
    """
    return _ChunkedNll.apply(hidden_ND, weight_VD, targets_N, torch.is_grad_enabled())  # type: ignore[no-any-return, no-untyped-call]


class _TokenNll(torch.autograd.Function):
    """`nll` in autograd's graph; what each loss counts is known only then, so the backward pass makes logits anew."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        ctx.dtype = dtype = _format(hidden_ND)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return nll(hidden_ND.to(dtype), weight_VD.to(dtype), targets_N)[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        hidden, weight = ctx.needs_input_grad[:2]
        with torch.autocast(hidden_ND.device.type, enabled=False):
            _, grad_hidden_ND, grad_weight_VD = nll(
                hidden_ND.to(ctx.dtype),
                weight_VD.to(ctx.dtype),
                targets_N,
                hidden=hidden,
                weight=weight,
                shares_N=grad_outputs[0],
            )
        return (
            None if grad_hidden_ND is None else grad_hidden_ND.to(hidden_ND.dtype),
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None,
        )


def token_nll(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """-log softmax(hidden @ weight.T)[target] of each of N tokens.

    Args:
        hidden_ND: Final hidden states at the positions before each trained token.
        weight_VD: Weights of the head (no bias).
        targets_N: int64 ids of the trained tokens.

    Returns:
        float32 (N,) in nats. Differentiable once in `hidden_ND` and `weight_VD`, at the price of the head's forward
        pass a second time; a sum alone has no such price (`chunked_nll`).
    """
    return _TokenNll.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-any-return, no-untyped-call]


def plain_head(causal_lm: Any) -> nn.Linear | None:
    """The head, when logits are exactly `hidden @ weight.T`; None otherwise."""
    config = causal_lm.config.get_text_config()
    if getattr(causal_lm, BY_LOGITS, False) or any(
        _LOGIT_CHANGES.search(name) and value not in (None, 1) for name, value in vars(config).items()
    ):
        return None
    head = causal_lm.get_output_embeddings()
    if hasattr(head, "modules_to_save"):  # trained in full beside the adapter
        head = head.modules_to_save["default"]
    return head if type(head) is nn.Linear and head.bias is None else None
