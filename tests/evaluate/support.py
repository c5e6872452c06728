"""Writers that answer from a table, and tasks: for tests of counting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from luthier.evaluate.tasks import Task
from luthier.generate.load import Heard
from luthier.generate.system import Conversation

DOUBLE = Task("double", "phrasing", "Write double", ("assert double(2) == 4",), "double")
HALVE = Task("halve", "phrasing", "Write halve", ("assert halve(4) == 2",), "halve")
TRIPLE = Task("triple", "composition", "Write triple", ("assert triple(2) == 6", "assert triple(0) == 0"), "triple")
TASKS = (DOUBLE, HALVE, TRIPLE)
RIGHT = {
    "Write double": "def double(x):\n    return 2 * x",
    "Write halve": "Here it is:\n```python\ndef halve(x):\n    return x / 2\n```\nEnjoy!",
    "Write triple": "def triple(x):\n    return 3 * x",
}


class Known:
    """Answers from a table; several answers to one instruction come in turn."""

    def __init__(self, answers: dict[str, str | Sequence[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def generate_many(
        self,
        conversations: Sequence[Conversation],
        max_new_tokens: int,
        temperature: float,
        seed: Sequence[int],
        heard: Heard,
    ) -> list[str]:
        texts = []
        for number, conversation in enumerate(conversations):
            instruction = conversation if isinstance(conversation, str) else conversation[-1]["content"]
            answer = self.answers[instruction]
            texts.append(answer if isinstance(answer, str) else answer[self.asked.count(instruction) % len(answer)])
            self.asked.append(instruction)
            heard(number, texts[-1], False)
        return texts

    def complete_many(
        self,
        texts: Sequence[str],
        stops: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        seed: Sequence[int],
        heard: Heard,
    ) -> list[str]:
        return self.generate_many(texts, max_new_tokens, temperature, seed, heard)


def write_tasks(path: Path, *rows: object) -> Path:
    """A JSON lines file."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path
