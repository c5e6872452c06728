"""The text of an answer as its tokens come.

A token can be a part of a character (some bytes of an emoji), which decodes to U+FFFD until the rest has come; that is
held back. What is new is told by decoding a window of the last tokens twice, with and without the new one:

    ids     a b c d e f g        the window's head: tokens of the last text that was whole; it is passed on already
                  [d e]f         new text = decode(d e f) without decode(d e)

The head is there because tokenizers of the SentencePiece kind drop a space at the start of whatever they decode: new
tokens by themselves would lose a column of the indentation of code. So a token costs the same at any length; only while
no whole character comes the window grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_UNFINISHED = "\ufffd"


class Pieces:
    """Hands pieces of text to `write`; together they are the decoded answer.

    Args:
        tokenizer: Decodes.
        write: Called with each piece.
        before: Ids of the prompt.
    """

    def __init__(self, tokenizer: Any, write: Callable[[str], None], before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._write = write
        last = str(tokenizer.decode(list(before[-1:]))) if before else ""
        head = [] if last.strip() else list(before[-1:])  # behind a word the space is the template's, and nobody's text
        self._ids: list[int] = head  # the window
        self._head = len(head)  # how many of them are its head
        self._written = len(last) if head else 0  # characters of the window's text that were passed on

    def add(self, token: int) -> None:
        """Take the next token."""
        self._ids.append(token)
        text = self._decoded()
        whole = text.rstrip(_UNFINISHED)
        is_new = len(whole) > self._written
        self._pass_on(whole)
        if is_new and whole == text:
            self._ids = self._ids[self._head :]
            self._head, self._written = len(self._ids), len(self._decoded())

    def end(self) -> None:
        """The answer is over: what was held back is text after all."""
        self._pass_on(self._decoded())

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids))

    def _pass_on(self, text: str) -> None:
        if new := text[self._written :]:
            self._written = len(text)
            self._write(new)
