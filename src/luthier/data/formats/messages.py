"""messages: a column `messages` of {role, content}; the form of the OpenAI API and of chat templates."""

from __future__ import annotations

from typing import Any

from luthier.data.formats.conversation import read_turns
from luthier.data.formats.fields import in_order
from luthier.data.messages import Content

NAME = "messages"
REQUIRED = ("messages",)


def matches(columns: frozenset[str]) -> bool:
    """The column is there."""
    return columns.issuperset(REQUIRED)


def read(row: dict[str, Any]) -> Content:
    """The conversation; every answer in it is learned, but for those with `weight: 0`.

    Raises:
        RowError: Not a list of messages, an unknown role or weight, or turns out of order.
    """
    return in_order(read_turns(row, "messages"))
