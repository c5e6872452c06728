"""What a row is once its format is read: messages to be rendered by a template, or segments that are final text.

Not covered: tool calls, images, more than one speaker on a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn.

    Attributes:
        role: Who speaks.
        content: What is said.
        context: What an instruction is applied to (alpaca's `input`); the template decides how it is attached.
        trained: Whether an assistant's turn is learned; false for the answers inside a given prompt.
        never: Not even where prompts are learned too (`weight: 0`).
    """

    role: Role
    content: str
    context: str = ""
    trained: bool = True
    never: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of final text: whether its tokens are trained as an answer's, and whether never as a prompt's either."""

    text: str
    trained: bool
    never: bool = False


Content = list[Message] | list[Segment]


@dataclass(frozen=True, slots=True)
class Preferred:
    """Two conversations that begin alike and differ in their answers: the preferred one, and the other."""

    chosen: list[Message]
    rejected: list[Message]
