"""prompt-completion: `prompt` and `completion`, both texts (taken as they stand, no template) or both message lists.

With message lists only the answers of the completion are learned. Source: TRL, "Dataset formats and types".
"""

from __future__ import annotations

from typing import Any

from luthier.data.formats.conversation import read_turns
from luthier.data.formats.fields import answer, checked_prompt, in_order, text_field
from luthier.data.messages import Content, Segment

NAME = "prompt-completion"
REQUIRED = ("prompt", "completion")


def matches(columns: frozenset[str]) -> bool:
    """Both columns are there."""
    return columns.issuperset(REQUIRED)


def read(row: dict[str, Any]) -> Content:
    """Two segments, or a conversation.

    Raises:
        RowError: A field is missing, empty, or of another type than its partner.
    """
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        return in_order(read_turns(row, "prompt", trained=False) + read_turns(row, "completion"))
    prompt = checked_prompt(text_field(row, "prompt"), '"prompt"')
    return [Segment(prompt, trained=False), Segment(answer(row, "completion"), trained=True)]
