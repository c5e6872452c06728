"""sharegpt: a column `conversations` (or `conversation`) of {from: human|gpt|system, value}; optional `system`."""

from __future__ import annotations

from typing import Any

from luthier.data.formats.conversation import read_turns
from luthier.data.formats.fields import in_order, optional_text
from luthier.data.messages import Content, Message

NAME = "sharegpt"
REQUIRED = ("conversations",)


def matches(columns: frozenset[str]) -> bool:
    """One of the two spellings is there."""
    return "conversations" in columns or "conversation" in columns


def read(row: dict[str, Any]) -> Content:
    """The conversation; every answer in it is learned, but for those with `weight: 0`.

    Raises:
        RowError: Not a list of messages, an unknown role or weight, or turns out of order.
    """
    turns = read_turns(row, "conversation" if "conversations" not in row and "conversation" in row else "conversations")
    system = optional_text(row, "system")
    if system.strip() and not (turns and turns[0].role == "system"):
        turns.insert(0, Message("system", system))
    return in_order(turns)
