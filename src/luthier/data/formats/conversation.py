"""Lists of {role, content} (or ShareGPT's {from, value}) to messages; shared by the conversational formats.

An answer with `weight: 0` is read and not learned, as in OpenAI's files for fine-tuning.
"""

from __future__ import annotations

from typing import Any

from luthier.data.formats.fields import list_field, text_field
from luthier.data.messages import Message, Role
from luthier.data.problems import RowError

ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}

_TOOLS = frozenset(
    ("tool", "tools", "tool_call", "tool_response", "function", "function_call", "observation", "ipython")
)


def read_turns(row: dict[str, Any], column: str, *, trained: bool = True) -> list[Message]:
    """The messages of a column, in any order.

    Args:
        row: A row.
        column: The column that holds the list.
        trained: Whether the assistant's turns are learned.

    Raises:
        RowError: Not a list of messages, an unknown role, or an answer's weight that is not 0 or 1.
    """
    return [_turn(item, number, trained) for number, item in enumerate(list_field(row, column), 1)]


def _turn(item: dict[str, Any], number: int, trained: bool) -> Message:
    role_key, text_key = ("from", "value") if "from" in item else ("role", "content")
    said = item.get(role_key)
    role = ROLES.get(said) if isinstance(said, str) else None
    if (isinstance(said, str) and said in _TOOLS) or item.get("tool_calls") or item.get("function_call"):
        fix = "leave rows with tool calls out, or rewrite them as user and assistant"
        raise RowError("E-DATA-025", f"turn {number} is a tool call ({role_key}: {str(said)[:40]})", fix)
    if role is None:
        shown = f'"{said[:40]}"' if isinstance(said, str) else f"no {role_key}"
        fix = f"use one of {', '.join(ROLES)}"
        raise RowError("E-DATA-025", f"turn {number} has an unknown role: {shown}", fix)
    weight = item.get("weight")
    if role == "assistant" and weight not in (None, 0, 1):
        fix = "write 0 (not learned) or 1 (learned), or leave it out"
        raise RowError("E-DATA-023", f"turn {number} has weight: {str(weight)[:40]}", fix)
    never = role == "assistant" and weight == 0
    learned = role != "assistant" or (trained and not never)
    return Message(role, _text(item, text_key), trained=learned, never=never)


def _text(item: dict[str, Any], key: str) -> str:
    """What a turn says; a list of OpenAI's text parts is one text."""
    parts = item.get(key)
    if not (isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts)):
        return text_field(item, key)
    if strange := [part.get("type") for part in parts if part.get("type") != "text"]:
        fix = "keep the parts of type text, or leave the row out"
        raise RowError("E-DATA-023", f'"{key}" has a part of type {str(strange[0])[:40]}, not text', fix)
    return "".join(text_field(part, "text") for part in parts)
