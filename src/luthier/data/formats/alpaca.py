"""alpaca: `instruction`, `output`, optional `input` (what the instruction is applied to) and `system`.

Source: https://github.com/tatsu-lab/stanford_alpaca#data-release
"""

from __future__ import annotations

from typing import Any

from luthier.data.formats.fields import answer, checked_prompt, optional_text, text_field
from luthier.data.messages import Content, Message

NAME = "alpaca"
REQUIRED = ("instruction", "output")


def matches(columns: frozenset[str]) -> bool:
    """Both required columns are there."""
    return columns.issuperset(REQUIRED)


def read(row: dict[str, Any]) -> Content:
    """One question and one answer.

    Raises:
        RowError: A field is missing, of the wrong type or empty.
    """
    instruction, context = text_field(row, "instruction"), optional_text(row, "input")
    if not instruction.strip():
        instruction, context = checked_prompt(context, '"instruction"'), ""
    question = Message("user", instruction, context if context.strip() else "")
    system = optional_text(row, "system")
    opening = [Message("system", system)] if system.strip() else []
    return [*opening, question, Message("assistant", answer(row, "output"))]
