"""Answers as they are written, one or many at once, each in its own way (temperature, seed, stop strings, ...).

    write([answer, answer, ...])     batches of them (`luthier.model.batching`)
        each step, each answer:      choose -> token -> Pieces -> Stops -> hear(text, tokens)

An answer can be ended from outside at any time (`cut`), also from another thread; the others of its batch go on.

Shape letters: B answers, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from luthier.generate.choosing import Chooser, Sampling, Token, choose, measured
from luthier.generate.stops import Stops
from luthier.generate.streaming import Pieces
from luthier.model.batching import Manner, write_rows

Hear = Callable[[str, list[Token]], None]
WRITING_VERSION = 5
"""Raised when the same model, prompt and sampling give another answer than before, or more of it is kept: kept ones are
asked again."""


class Answer:
    """One answer to one prompt.

    Args:
        prompt_ids: Ids of the prompt, BOS included.
        sampling: How it is written; `max_new_tokens` as far as the model's context has room.
        hear: Gets each new piece of text, and its tokens where `sampling` asks for log-probabilities. What it raises (a
            Ctrl-C) ends the whole batch.
        tokenizer: Decodes.
        stop_ids: Tokens that end it and are no part of it.
        number: Which of several answers with the same seed.

    Attributes:
        ended: Why it ended: `stop` (a stop token or string), `length`, or what `cut` was set to; empty before.
        cut: Set it to end the answer at its next token.
        on_end: Called with `ended`.
        tokens: How many were written, the stop token included.
        ids: They, without the stop token.
        chooser: Chooses them.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        hear: Hear,
        tokenizer: Any,
        stop_ids: Sequence[int],
        number: int = 0,
    ) -> None:
        self.prompt_ids, self.sampling = prompt_ids, sampling
        self.ended, self.cut, self.tokens = "", "", 0
        self.on_end: Callable[[str], None] = lambda reason: None
        self._hear, self._tokenizer, self._stop_ids = hear, tokenizer, frozenset(stop_ids)
        self.chooser = Chooser(sampling, number)
        self.ids: list[int] = []
        self._pieces = Pieces(tokenizer, self._on_text, prompt_ids)
        self._stops = Stops(sampling.stop)
        self._decoded = self._passed = 0
        self._waiting: deque[tuple[int, Token]] = deque()  # where the token's text begins, the token

    @property
    def room(self) -> int:
        """Most tokens that it may have."""
        return self.sampling.max_new_tokens

    def chose(self, logits_V: torch.Tensor, token: int) -> None:
        """A token was chosen by these logits of the model; its log-probabilities are told where they are wanted."""
        top = self.sampling.top_logprobs
        if top is not None and not self.ended and token not in self._stop_ids:
            self._waiting.append((self._decoded, measured(logits_V, token, top, self._tokenizer)))

    def take(self, token: int) -> None:
        """A token was written; afterwards `ended` says whether it was the last one."""
        self.tokens += 1
        if token in self._stop_ids:
            self.end("stop")
            return
        self.ids.append(token)
        self._pieces.add(token)
        if self.tokens >= self.sampling.max_new_tokens:
            self.end("length")
        elif self.cut:
            self.end(self.cut)

    def end(self, reason: str) -> None:
        """End it, if it has not ended: what was held back is text after all."""
        if not self.ended:
            self._pieces.end()
        if not self.ended:  # no stop string in that
            self._pass_on(self._stops.rest(), all_tokens=True)
            self._over(reason)

    def _on_text(self, piece: str) -> None:
        self._decoded += len(piece)
        text, stopped = self._stops.take(piece)
        self._pass_on(text)
        if stopped:
            self._over("stop")

    def _over(self, reason: str) -> None:
        self.ended = reason
        self.on_end(reason)

    def _pass_on(self, text: str, all_tokens: bool = False) -> None:
        """Tokens whose text begins in what is passed on go with it; those behind a stop string never do."""
        self._passed += len(text)
        tokens = []
        while self._waiting and (all_tokens or self._waiting[0][0] < self._passed):
            tokens.append(self._waiting.popleft()[1])
        if text or tokens:
            self._hear(text, tokens)


def write(
    model: nn.Module,
    answers: Sequence[Answer],
    stop_ids: Sequence[int],
    joining: Callable[[], Sequence[Answer]] | None = None,
) -> None:
    """Write all answers, as many at once as memory and the model's context allow.

    Args:
        model: A causal language model, with or without an adapter.
        answers: Fresh ones.
        stop_ids: Tokens that end them.
        joining: Asked for answers that have come meanwhile, as `luthier.model.batching.Manner` says; they begin as soon
            as there is room.
    """
    write_rows(model, [answer for answer in answers if not answer.cut], Manner(stop_ids, _chosen, joining))
    for answer in answers:  # cut before its first token
        answer.end(answer.cut or "length")


def _chosen(answers: Sequence[Answer], logits_BV: torch.Tensor) -> torch.Tensor | None:
    if all(answer.sampling.plain and answer.sampling.top_logprobs is None for answer in answers):
        return None
    chosen_B = choose(logits_BV, [answer.chooser for answer in answers], [answer.ids for answer in answers])
    for answer, logits_V, token in zip(answers, logits_BV, chosen_B.tolist(), strict=True):
        answer.chose(logits_V, token)
    return chosen_B
