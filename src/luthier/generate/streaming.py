"""An answer as it is written: a streamer for transformers' `generate`.

A token can be a part of a character (some bytes of an emoji), which decodes to U+FFFD until the rest has come; that is
held back. Each time the whole answer is decoded and what is new is passed on: tokenizers of the SentencePiece kind drop
a space at the start of whatever they decode, so that decoding line by line (as transformers' own TextStreamer does)
would lose a column of the indentation of code.

It runs in the caller's thread: an exception in `write`, or Ctrl-C, ends `generate` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers.generation.streamers import BaseStreamer

_UNFINISHED = "\ufffd"


class Pieces(BaseStreamer):  # type: ignore[misc]
    """Hands pieces of text to `write`; the prompt and the stop token are left out.

    Args:
        tokenizer: Decodes.
        stop_ids: Tokens that end an answer and are no part of it.
        write: Called with each piece.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int], write: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._write = write
        self._prompt_seen = False
        self._ids: list[int] = []
        self._written = 0

    def put(self, value: Any) -> None:
        """Take the prompt (first call) or the next token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._ids += [token for token in value.reshape(-1).tolist() if token not in self._stop_ids]
        self._pass_on(str(self._tokenizer.decode(self._ids)).rstrip(_UNFINISHED))

    def end(self) -> None:
        """The answer is over: what was held back is text after all."""
        self._pass_on(str(self._tokenizer.decode(self._ids)))

    def _pass_on(self, text: str) -> None:
        if new := text[self._written :]:
            self._written = len(text)
            self._write(new)
