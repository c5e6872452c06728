"""text: one column `text`, learned as it stands, from the first token to the end of the text; no template."""

from __future__ import annotations

from typing import Any

from luthier.data.formats.fields import checked_answer, text_field
from luthier.data.messages import Content, Segment

NAME = "text"
REQUIRED = ("text",)

_OTHERS = frozenset(
    {"output", "answer", "answers", "response", "completion", "solution", "code", "target", "label", "labels"}
    | {"instruction", "prompt", "question", "messages", "conversations", "conversation"}
)


def matches(columns: frozenset[str]) -> bool:
    """There is a text, and no column that looks like a question or an answer to go with it."""
    return "text" in columns and columns.isdisjoint(_OTHERS)


def read(row: dict[str, Any]) -> Content:
    """One segment.

    Raises:
        RowError: Missing, not text, or empty.
    """
    return [Segment(checked_answer(text_field(row, "text"), '"text"'), trained=True)]
