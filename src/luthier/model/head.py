"""The loss: negative log-likelihood of the trained tokens, without ever holding all logits.

For a hidden state h and the head's weights W (V rows, one a vocabulary entry) the logits are z = W h and

    loss(h, y) = logsumexp(z) - z[y]                     (nats; 0 = certain and right, log V = guessing)
    d loss / d z = softmax(z) - onehot(y)                (known as soon as z is, so no second pass is needed)

Logits are made for a chunk of trained tokens at a time, turned into loss and gradient in float32, and forgotten. With
128,256 vocabulary entries a step of 4,096 tokens would otherwise hold 2 GiB of float32 logits and as much of gradients.

Shape letters: N trained tokens, C tokens of a chunk, V vocabulary, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}


class _ChunkedNll(torch.autograd.Function):
    """Sum of negative log-likelihoods; gradients are computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        compute_VD = weight_VD.detach().to(dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND) if need_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if need_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        chunk = max(16, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // (4 * weight_VD.shape[0]))
        with torch.autocast(device, enabled=False):
            for start in range(0, hidden_ND.shape[0], chunk):
                hidden_CD = hidden_ND.detach()[start : start + chunk].to(dtype)
                targets_C1 = targets_N[start : start + chunk, None]
                log_probabilities_CV = torch.log_softmax(hidden_CD @ compute_VD.T, dim=-1, dtype=torch.float32)
                total -= log_probabilities_CV.gather(1, targets_C1).sum()
                if not (need_hidden or need_weight):
                    continue
                grad_CV = log_probabilities_CV.exp_()
                grad_CV.scatter_add_(1, targets_C1, torch.full_like(targets_C1, -1.0, dtype=torch.float32))
                grad_CV = grad_CV.to(dtype)
                if grad_hidden_ND is not None:
                    grad_hidden_ND[start : start + chunk] = grad_CV @ compute_VD
                if grad_weight_VD is not None:
                    grad_weight_VD += grad_CV.T @ hidden_CD
        ctx.gradients = (grad_hidden_ND, None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (scale,) = grad_outputs
        hidden, weight = (None if g is None else g.mul_(scale.to(g.dtype)) for g in ctx.gradients)
        ctx.gradients = ()  # they were scaled in place: a second backward pass must fail, not lie
        return hidden, weight, None


def chunked_nll(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Sum over N of -log softmax(hidden @ weight.T)[target].

    Args:
        hidden_ND: Final hidden states at the positions before each trained token.
        weight_VD: Weights of the head (no bias).
        targets_N: int64 ids of the trained tokens.

    Returns:
        A float32 scalar in nats (a sum, not a mean: the mean is over the whole optimizer step, which only the engine
        knows). Differentiable once in `hidden_ND` and `weight_VD`.
    """
    return _ChunkedNll.apply(hidden_ND, weight_VD, targets_N)  # type: ignore[no-any-return, no-untyped-call]
