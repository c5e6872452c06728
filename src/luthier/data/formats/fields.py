"""Reading one field of a row, with the words for what can be wrong with it; and the order of turns."""

from __future__ import annotations

import difflib
from typing import Any

from luthier.data.messages import Message
from luthier.data.problems import RowError

_FIX_TYPE = "write text into the field, or delete the row"


def text_field(row: dict[str, Any], name: str) -> str:
    """A field that must be text; it may be empty.

    Raises:
        RowError: Missing, null, or of another type.
    """
    value = row.get(name)
    if isinstance(value, str):
        return value
    raise RowError("E-DATA-023", _what_is_wrong(row, name, "text"), _FIX_TYPE)


def optional_text(row: dict[str, Any], name: str) -> str:
    """A field that may be missing or null: then it is empty.

    Raises:
        RowError: Of another type than text.
    """
    return "" if row.get(name) is None else text_field(row, name)


def answer(row: dict[str, Any], name: str) -> str:
    """A field that must hold an answer.

    Raises:
        RowError: Not text, or empty.
    """
    return checked_answer(text_field(row, name), f'"{name}"')


def checked_answer(text: str, what: str) -> str:
    """The text, if it says anything.

    Raises:
        RowError: Empty, or white space alone.
    """
    if not text.strip():
        fix = "give the row an answer or delete it; rows of plain text belong under `format: text`"
        raise RowError("E-DATA-024", f"a prompt without an answer: {what} is empty", fix)
    return text


def checked_prompt(text: str, what: str) -> str:
    """The text, if it asks anything.

    Raises:
        RowError: Empty, or white space alone.
    """
    if not text.strip():
        raise RowError("E-DATA-027", f"{what} is empty", "give the row a question or delete it")
    return text


def list_field(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A field that must be a list of objects.

    Raises:
        RowError: Missing, or anything else.
    """
    value = row.get(name)
    fix = "write a list of messages into the field, or delete the row"
    if isinstance(value, str) and value.lstrip().startswith("["):
        found, fix = (
            f'"{name}" is text that looks like a list',
            "write the list itself: json.loads turns JSON text into it",
        )
        raise RowError("E-DATA-023", found, fix)
    if not isinstance(value, list):
        raise RowError("E-DATA-023", _what_is_wrong(row, name, "a list of messages"), fix)
    for number, item in enumerate(value):
        if not isinstance(item, dict):
            raise RowError("E-DATA-023", f'"{name}"[{number}] is {_type(item)}, not an object', fix)
    return value


def in_order(messages: list[Message]) -> list[Message]:
    """Messages that go [system] (user assistant)+ and all say something, up to the last answer that is learned.

    Raises:
        RowError: Another order, an empty message, or no answer that is learned.
    """
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            found = f"turn {number + 1} is from {message.role}, where {expected} should speak"
            fix = "let user and assistant speak in turn, user first; merge two messages of the same role"
            raise RowError("E-DATA-026", found, fix)
        check = checked_answer if message.role == "assistant" else checked_prompt
        check(message.content, f"turn {number + 1} ({message.role})")
    if not turns:
        raise RowError("E-DATA-026", "a conversation without turns", "give it a question and an answer, or delete it")
    if len(turns) % 2:
        fix = "cut off the last question, or give it an answer; rows of plain text belong under `format: text`"
        raise RowError("E-DATA-024", "a prompt without an answer: the conversation ends with the user", fix)
    last = max((n for n, m in enumerate(messages, 1) if m.role == "assistant" and m.trained), default=0)
    if not last:
        found = "no answer to learn: each stands in the prompt or has weight: 0"
        raise RowError("E-DATA-024", found, "give the row an answer to learn, or delete it")
    return messages[:last]


def _what_is_wrong(row: dict[str, Any], name: str, wanted: str) -> str:
    if name in row:
        return f'"{name}" is {_type(row[name])}, not {wanted}'
    close = difflib.get_close_matches(name, [str(column) for column in row], n=1)
    return f'no "{name}" in this row' + (f' (there is "{close[0]}")' if close else "")


def _type(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "true or false", str: "text", list: "a list", dict: "an object"}.get(type(value), "a number")
