"""Answers in the shape that OpenAI's clients read: whole ones and the chunks of a stream.

Chunks are a pure function of the events; a whole answer is all of its chunks put together, so that both say the same.

Not covered: `bytes` of tokens that are parts of a character (null).
"""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from luthier.generate.choosing import Token
from luthier.serve.worker import Ended, Said

AnswerEvent = Said | Ended


class Shape(ABC):
    """The envelope of one response.

    Args:
        model: Its name.
        answers: How many in all.
    """

    prefix = object_name = chunk_name = ""

    def __init__(self, model: str, answers: int) -> None:
        self._answers = answers
        self._same = {"created": int(time.time()), "model": model, "system_fingerprint": None}
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"

    def whole(self, events: Iterable[AnswerEvent], prompt_tokens: int) -> dict[str, Any]:
        """The response."""
        texts, reasons, written = [""] * self._answers, [""] * self._answers, 0
        tokens: list[list[Token]] = [[] for _ in range(self._answers)]
        for event in events:
            if isinstance(event, Said):
                texts[event.index] += event.text
                tokens[event.index] += event.tokens
            else:
                reasons[event.index] = event.reason
                written += event.tokens
        choices = [
            {
                "index": i,
                **self._answer(texts[i]),
                "logprobs": self._logprobs(tokens[i], 0),
                "finish_reason": reasons[i],
            }
            for i in range(self._answers)
        ]
        return {
            "id": self._id,
            "object": self.object_name,
            **self._same,
            "choices": choices,
            "usage": usage(prompt_tokens, written),
        }

    def openings(self) -> Iterator[dict[str, Any]]:
        """The chunks before the first text."""
        return iter(())

    def chunk(self, event: AnswerEvent) -> dict[str, Any]:
        """One event."""
        if isinstance(event, Said):
            return self._chunk(event.index, self._piece(event.text), self._logprobs(event.tokens, event.index), None)
        return self._chunk(event.index, self._piece(None), None, event.reason)

    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
        """The chunk with the counts."""
        return {**self._envelope(), "choices": [], "usage": usage(prompt_tokens, completion_tokens)}

    def _chunk(self, index: int, piece: dict[str, Any], logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, **piece, "logprobs": logprobs, "finish_reason": reason}
        return {**self._envelope(), "choices": [choice]}

    def _envelope(self) -> dict[str, Any]:
        return {"id": self._id, "object": self.chunk_name, **self._same}

    @abstractmethod
    def _answer(self, text: str) -> dict[str, Any]:
        """A whole answer, as a choice holds it."""

    @abstractmethod
    def _piece(self, text: str | None) -> dict[str, Any]:
        """A piece of an answer, as a chunk's choice holds it; None: its end."""

    @abstractmethod
    def _logprobs(self, tokens: list[Token], index: int) -> dict[str, Any] | None:
        """The log-probabilities of tokens of an answer; None where there are none."""


class ChatShape(Shape):
    """Of /v1/chat/completions."""

    prefix, object_name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def openings(self) -> Iterator[dict[str, Any]]:
        """Who speaks."""
        for index in range(self._answers):
            yield self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None)

    def _answer(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _piece(self, text: str | None) -> dict[str, Any]:
        return {"delta": {} if text is None else {"content": text}}

    def _logprobs(self, tokens: list[Token], index: int) -> dict[str, Any] | None:
        if not tokens:
            return None
        content = [
            {**_named(token.text, token.logprob), "top_logprobs": [_named(*likely) for likely in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionShape(Shape):
    """Of /v1/completions."""

    prefix, object_name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, answers: int) -> None:
        super().__init__(model, answers)
        self._offsets = [0] * answers

    def _answer(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _piece(self, text: str | None) -> dict[str, Any]:
        return {"text": text or ""}

    def _logprobs(self, tokens: list[Token], index: int) -> dict[str, Any] | None:
        if not tokens:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(reversed(token.top)) for token in tokens],  # of equal texts the likeliest stays
            "text_offset": offsets,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Counts of tokens."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def server_sent(content: Any) -> bytes:
    """One event of a stream; in ASCII, since some clients end lines at other characters than the newline."""
    return f"data: {json.dumps(content)}\n\n".encode()


def _named(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}
