"""Which token comes next: the model's logits, and what the user asked for.

    logits  -  presence_penalty + frequency_penalty * times it was written      of tokens in the answer so far
            /  temperature                                                      0: the largest one, and done
            -> the likeliest tokens that together have top_p                    1: all
            -> one of them, drawn by a generator of the answer's own

A draw depends on the answer's seed and logits alone, so that answers which share a batch do not share their luck.
Log-probabilities are those of the model itself, before all of this: log softmax of its logits, in nats.

Source of the penalties: OpenAI's API reference. Not covered: top-k, min-p, repetition penalties, biases.

Shape letters: V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

COLDEST = 1e-4
"""A temperature below this is greedy: dividing by it would overflow."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is written.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: 0 is greedy and repeatable; higher is more varied.
        top_p: Draw only among the likeliest tokens that together have this probability; 1: among all.
        seed: Repeats the draws. None: a new one from torch's generator.
        stop: Strings that end the answer and are no part of it.
        presence_penalty: Subtracted from the logits of tokens that the answer holds already.
        frequency_penalty: The same, once for each time.
        top_logprobs: How many likeliest tokens to name beside each token. None: no log-probabilities at all.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature < COLDEST

    @property
    def plain(self) -> bool:
        """Whether the next token is that of the largest logit."""
        return self.greedy and not self.presence_penalty and not self.frequency_penalty


@dataclass(frozen=True)
class Token:
    """A token that was written.

    Attributes:
        text: What it decodes to by itself.
        logprob: Its log-probability in nats.
        top: Text and log-probability of the likeliest tokens at its place, the likeliest first.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


class Chooser:
    """Chooses the tokens of one answer.

    Args:
        sampling: As the user wants it.
        number: Which of several answers with the same seed; each draws for itself.
    """

    def __init__(self, sampling: Sampling, number: int = 0) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if not sampling.greedy:
            seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
            self._generator.manual_seed(random.Random(f"{seed} {number}").getrandbits(63))

    def choose(self, logits_V: torch.Tensor, written: Sequence[int]) -> int:
        """The next token.

        Args:
            logits_V: float32.
            written: Ids of the answer so far.
        """
        scores_V = self._penalized(logits_V, written)
        if self._sampling.greedy:
            return int(scores_V.argmax())
        shifted_V = (scores_V - scores_V.max()) / self._sampling.temperature
        probabilities_V = _nucleus(shifted_V.softmax(-1).cpu(), self._sampling.top_p)
        return int(torch.multinomial(probabilities_V, 1, generator=self._generator))

    def _penalized(self, logits_V: torch.Tensor, written: Sequence[int]) -> torch.Tensor:
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if not written or not (presence or frequency):
            return logits_V
        ids, times = torch.unique(torch.tensor(written, device=logits_V.device), return_counts=True)
        return logits_V.index_add(0, ids, -(presence + frequency * times.to(logits_V.dtype)))


def _nucleus(probabilities_V: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zero but for the likeliest tokens that together reach `top_p`; at least one stays."""
    if top_p >= 1:
        return probabilities_V
    sorted_V, order_V = probabilities_V.sort(descending=True, stable=True)
    left_out_V = sorted_V.cumsum(-1) - sorted_V >= top_p
    left_out_V[0] = False
    return probabilities_V.index_fill(0, order_V[left_out_V], 0.0)


def measured(logits_V: torch.Tensor, chosen: int, top: int, tokenizer: Any) -> Token:
    """The chosen token with the model's own log-probabilities."""
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(min(top, len(logprobs_V)))
    likeliest = zip(ids.tolist(), values.tolist(), strict=True)
    named = tuple((str(tokenizer.decode([token])), value) for token, value in likeliest)
    return Token(str(tokenizer.decode([chosen])), float(logprobs_V[chosen]), named)
