"""Which tokens come next: the model's logits, and what the user asked for.

    logits  -  presence_penalty + frequency_penalty * times it was written      of tokens in the answer so far
            /  temperature                                                      0: the largest one, and done
            -> the likeliest tokens that together have top_p                    1: all
            -> the one in which a number of the answer's own falls, 0 <= u < 1, when their probabilities lie end to end

        |---- a ----|-- b --|- c -|d|      u of the sum: here b
                          u

A draw depends on the answer's seed and logits alone, so that answers which share a batch do not share their luck.
What is as large as the vocabulary stays on the device, and answers with one temperature and top_p are drawn together.
Log-probabilities are those of the model itself, before all of this: log softmax of its logits, in nats.

Source of the penalties: OpenAI's API reference. Not covered: top-k, min-p, repetition penalties, biases.

Shape letters: B answers, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch

from luthier.errors import ConfigError, Problem

COLDEST = 1e-4
"""A temperature below this is greedy: dividing by it would overflow."""
_LIKELIEST = 1024
"""Tokens among which top_p is first looked for: nearly always enough, and many times faster than sorting all."""


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

    Raises:
        ConfigError: E-CFG-011, a number that nothing can be written by.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        """What types do not say."""
        for name, possible, must in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature < inf, "0 or more"),
            ("top_p", 0 <= self.top_p <= 1, "from 0 to 1"),
        ):
            if not possible:
                found = f"{name} is {getattr(self, name)!r}, but must be {must}"
                raise ConfigError(Problem("E-CFG-011", found, f"leave out {name}, or write a number that is {must}"))

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
    """The rules and the luck of one answer.

    Args:
        sampling: As the user wants it.
        number: Which of several answers with the same seed; each draws for itself.

    Attributes:
        sampling: As given.
    """

    def __init__(self, sampling: Sampling, number: int = 0) -> None:
        self.sampling = sampling
        if not sampling.greedy:
            seed = int(torch.randint(2**62, ())) if sampling.seed is None else sampling.seed
            self._random = random.Random(f"{seed} {number}")

    def draw(self) -> float:
        """A number of this answer's own, from 0 to below 1."""
        return self._random.random()


def choose(logits_BV: torch.Tensor, choosers: Sequence[Chooser], written: Sequence[Sequence[int]]) -> torch.Tensor:
    """The next token of each answer, int64 [B].

    Args:
        logits_BV: float32.
        choosers: Of each answer.
        written: Ids of each answer so far.
    """
    scores_BV = _penalized(logits_BV, [chooser.sampling for chooser in choosers], written)
    chosen_B = scores_BV.argmax(-1)
    alike: dict[tuple[float, float], list[int]] = {}
    for row, chooser in enumerate(choosers):
        if not chooser.sampling.greedy:
            alike.setdefault((chooser.sampling.temperature, chooser.sampling.top_p), []).append(row)
    for (temperature, top_p), rows in alike.items():
        drawn = torch.tensor([choosers[row].draw() for row in rows], dtype=torch.float64)
        some_BV = scores_BV[rows]
        probabilities_BV = ((some_BV - some_BV.amax(-1, keepdim=True)) / temperature).softmax(-1)
        if probabilities_BV.device.type == "mps":  # it has no float64
            probabilities_BV = probabilities_BV.cpu()
        drawn_B = drawn.to(probabilities_BV.device)
        taken_B = _among_all(probabilities_BV, drawn_B) if top_p >= 1 else _nucleus(probabilities_BV, top_p, drawn_B)
        chosen_B[rows] = taken_B.to(chosen_B.device)
    return chosen_B


def _penalized(
    logits_BV: torch.Tensor, samplings: Sequence[Sampling], written: Sequence[Sequence[int]]
) -> torch.Tensor:
    scores_BV = logits_BV
    for row, (sampling, ids) in enumerate(zip(samplings, written, strict=True)):
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
        if ids and (presence or frequency):
            scores_BV = logits_BV.clone() if scores_BV is logits_BV else scores_BV
            once, times = torch.unique(torch.tensor(ids, device=logits_BV.device), return_counts=True)
            scores_BV[row, once] -= presence + frequency * times.to(logits_BV.dtype)
    return scores_BV


def _among_all(weights_BV: torch.Tensor, drawn_B: torch.Tensor) -> torch.Tensor:
    """Where the drawn numbers fall, int64 [B]; a weight of zero is never hit."""
    reached_BV = weights_BV.cumsum(-1, dtype=torch.float64)
    places_B1 = torch.searchsorted(reached_BV, drawn_B[:, None] * reached_BV[:, -1:], right=True)
    return places_B1[:, 0].clamp(max=weights_BV.shape[1] - 1)  # logits that are no numbers reach nothing


def _nucleus(
    probabilities_BV: torch.Tensor, top_p: float, drawn_B: torch.Tensor, likeliest: int = _LIKELIEST
) -> torch.Tensor:
    """As `_among_all`, among the likeliest tokens that together reach `top_p`; at least one of them."""
    vocabulary = probabilities_BV.shape[1]
    likely_BK, ids_BK = probabilities_BV.topk(min(likeliest, vocabulary))
    reached_BK = likely_BK.cumsum(-1, dtype=torch.float64)
    left_out_BK = reached_BK - likely_BK >= top_p
    left_out_BK[:, 0] = False
    chosen_B = ids_BK.gather(1, _among_all(likely_BK.masked_fill(left_out_BK, 0.0), drawn_B)[:, None])[:, 0]
    short_B = reached_BK[:, -1] < top_p
    if likeliest < vocabulary and bool(short_B.any()):
        chosen_B[short_B] = _nucleus(probabilities_BV[short_B], top_p, drawn_B[short_B], vocabulary)
    return chosen_B


def measured(logits_V: torch.Tensor, chosen: int, top: int, tokenizer: Any) -> Token:
    """The chosen token with the model's own log-probabilities."""
    logprobs_V = logits_V.log_softmax(-1)
    values, ids = logprobs_V.topk(min(top, len(logprobs_V)))
    likeliest = zip(ids.tolist(), values.tolist(), strict=True)
    named = tuple((str(tokenizer.decode([token])), value) for token, value in likeliest)
    return Token(str(tokenizer.decode([chosen])), float(logprobs_V[chosen]), named)
