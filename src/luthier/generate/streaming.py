"""The text of an answer as its tokens come.

A token can be a part of a character (some bytes of an emoji), which decodes to U+FFFD until the rest has come; that is
held back. Each time the whole answer is decoded and what is new is passed on: tokenizers of the SentencePiece kind drop
a space at the start of whatever they decode, so that decoding line by line (as transformers' own TextStreamer does)
would lose a column of the indentation of code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_UNFINISHED = "\ufffd"


class Pieces:
    """Hands pieces of text to `write`; together they are the decoded answer.

    Args:
        tokenizer: Decodes.
        write: Called with each piece.
    """

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._write = write
        self._ids: list[int] = []
        self._written = 0

    def add(self, token: int) -> None:
        """Take the next token."""
        self._ids.append(token)
        self._pass_on(str(self._tokenizer.decode(self._ids)).rstrip(_UNFINISHED))

    def end(self) -> None:
        """The answer is over: what was held back is text after all."""
        self._pass_on(str(self._tokenizer.decode(self._ids)))

    def _pass_on(self, text: str) -> None:
        if new := text[self._written :]:
            self._written = len(text)
            self._write(new)
