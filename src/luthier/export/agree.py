"""Whether another form of a model is still that model: the same words, and nearly the same probabilities behind them.

    reference   the run as it was trained: writes a greedy answer to each held-out prompt
    other       reads prompt and answer; at each place where the reference chose a token:
                    KL(p || q) = sum over the vocabulary of p log(p / q), in nats      p: reference, q: other
                    top-1: is the likeliest token the same?
                then writes its own greedy answers, which are compared as texts

A mean KL of 0 is the same model; docs/export.md has what other forms come to. The bounds below lie beyond what rounding
does, and within what another base does. Equal texts are no condition: between two tokens of nearly equal probability
rounding may choose.

Not covered: whether the run is any good (`luthier compare`).

Shape letters: A tokens of an answer and its end, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from luthier.errors import Problem, RefusedError
from luthier.model.forward import inference, unwrap
from luthier.model.sampling import continue_many

MOST_KL = 0.005
"""Largest mean KL in nats that passes."""
LEAST_TOP1 = 0.97
"""Smallest share of equal likeliest tokens that passes."""
NEW_TOKENS = 32
MOST_BYTES = 2**30
"""Of the probabilities that a reference keeps until the other form is compared."""


def most_prompts(vocabulary: int) -> int:
    """How many prompts a reference has room for."""
    return max(1, MOST_BYTES // (4 * vocabulary * (NEW_TOKENS + 1)))


@dataclass(frozen=True)
class Agreement:
    """How near another form comes to the reference.

    Attributes:
        name: Of the other form.
        prompts: How many.
        tokens: Places that were compared.
        mean_kl: In nats a token.
        max_kl: At the worst place.
        top1: Share of places with the same likeliest token.
        same_text: Prompts with the same greedy answer.
    """

    name: str
    prompts: int
    tokens: int
    mean_kl: float
    max_kl: float
    top1: float
    same_text: int

    @property
    def passed(self) -> bool:
        """Whether it lies within the bounds; no number is no agreement."""
        return self.mean_kl <= MOST_KL and self.top1 >= LEAST_TOP1

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the verdict and its bounds."""
        bounds = {"most_mean_kl": MOST_KL, "least_top1": LEAST_TOP1}
        return {**asdict(self), "passed": self.passed, "bounds": bounds}


@dataclass(frozen=True)
class Reference:
    """What the model as trained writes, and how likely each token was to it.

    Attributes:
        prompts: Token ids.
        answers: Token ids, the end left out.
        log_p_AV: For each prompt, float32 on the CPU; the last row is after the last token of the answer.
        stop_ids: What ends an answer.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    log_p_AV: list[torch.Tensor]
    stop_ids: tuple[int, ...]


def reference(
    model: nn.Module, prompts: Sequence[Sequence[int]], stop_ids: tuple[int, ...], new_tokens: int = NEW_TOKENS
) -> Reference:
    """Let the model as trained answer the prompts."""
    answers = continue_many(model, prompts, stop_ids, new_tokens)
    held = [list(prompt) for prompt in prompts]
    return Reference(held, answers, [_log_p(model, *pair) for pair in zip(held, answers, strict=True)], stop_ids)


def agreement(name: str, known: Reference, model: nn.Module) -> Agreement:
    """Compare a model of transformers with the reference, over its whole vocabulary."""
    log_q = (_log_p(model, prompt, answer) for prompt, answer in zip(known.prompts, known.answers, strict=True))
    places = [_compared(p_AV, q_AV) for p_AV, q_AV in zip(known.log_p_AV, log_q, strict=True)]
    longest = max((len(answer) for answer in known.answers), default=0)
    answers = continue_many(model, known.prompts, known.stop_ids, max(1, longest))
    return summed_up(
        name, [kl for kl, _ in places], [top for _, top in places],
        [a == b for a, b in zip(known.answers, answers, strict=True)],
    )  # fmt: skip


def summed_up(name: str, kl: list[torch.Tensor], top1: list[torch.Tensor], same_text: list[bool]) -> Agreement:
    """One verdict from the values of each prompt: float KL [A], bool top-1 [A], bool texts."""
    all_kl, all_top1 = torch.cat(kl).double(), torch.cat(top1).double()
    worst = float(all_kl.max()) if torch.isfinite(all_kl).all() else math.inf
    mean = float(all_kl.mean()) if math.isfinite(worst) else math.inf
    # Float64 rounding can leave a sum of zeros at -1e-17.
    return Agreement(
        name, len(kl), len(all_kl), max(0.0, mean), max(0.0, worst), float(all_top1.mean()), sum(same_text)
    )


def require(agreements: Sequence[Agreement], what: str) -> None:
    """Refuse what is not the run any more.

    Raises:
        RefusedError: E-EXPORT-002.
    """
    for one in agreements:
        if not one.passed:
            found = (
                f"{what}: mean KL {one.mean_kl:.2g} nats (at most {MOST_KL}), the same likeliest token at "
                f"{one.top1:.1%} of {one.tokens} places (at least {LEAST_TOP1:.0%})"
            )
            fix = "check that --base is the model of the training; a wider number format (--dtype, --quant) rounds less"
            raise RefusedError(Problem("E-EXPORT-002", found, fix))


def _log_p(model: nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities [A, V] of the token after the prompt, after its next token, ..., after the whole answer."""
    causal_lm = unwrap(model)
    ids = torch.tensor([prompt + answer], device=next(causal_lm.parameters()).device)
    places = len(answer) + 1
    keep = {"logits_to_keep": places} if "logits_to_keep" in inspect.signature(causal_lm.forward).parameters else {}
    with inference(model):
        logits = causal_lm(input_ids=ids, use_cache=False, **keep).logits[0, -places:]
    return logits.float().log_softmax(-1).cpu()  # type: ignore[no-any-return]


def _compared(log_p_AV: torch.Tensor, log_q_AV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL and equal top-1 at each place; a vocabulary that was padded is compared where both have tokens."""
    shared = min(log_p_AV.shape[1], log_q_AV.shape[1])
    log_p, log_q = (part[:, :shared].double().log_softmax(-1) for part in (log_p_AV, log_q_AV))
    return (log_p.exp() * (log_p - log_q)).sum(-1), log_p.argmax(-1) == log_q.argmax(-1)
