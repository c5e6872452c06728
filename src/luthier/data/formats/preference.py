"""Rows for preference training, which Luthier does not do: what they are, and what trains on their good answers.

    prompt, chosen, rejected      two answers, the better one first (DPO, ORPO)
    prompt, completion, label     one answer, and whether it is a good one (KTO)

Source: TRL, "Dataset formats and types".
"""

from __future__ import annotations

from typing import Any

_PAIR = frozenset({"chosen", "rejected"})
_LABELLED = frozenset({"prompt", "completion", "label"})
_QUESTIONS = ("prompt", "question", "instruction", "query", "input")
_NOT_HERE = "which are for preference training (DPO, ORPO, KTO), and Luthier does none"


def pair(row: dict[str, Any]) -> tuple[str, str] | None:
    """What was found and what to write, for a row of a better and a worse answer; None for any other."""
    if not row.keys() >= _PAIR:
        return None
    question = next((name for name in _QUESTIONS if name in row), "")
    listed = ", ".join(name for name in (question, "chosen", "rejected") if name)
    return f"rows of {listed}, {_NOT_HERE}", f"to train on the chosen answers write {_chosen(row, question)}"


def labelled(row: dict[str, Any]) -> tuple[str, str] | None:
    """The same for a row of an answer and whether it is a good one, which would be learned in either case."""
    if not (row.keys() >= _LABELLED and isinstance(row["label"], bool)):
        return None
    fix = "to train on the good answers keep the rows with label: true, and write `format: prompt-completion`"
    return f"rows of prompt, completion and a label true or false, {_NOT_HERE}", fix


def _chosen(row: dict[str, Any], question: str) -> str:
    if isinstance(row["chosen"], list):
        if question and isinstance(row[question], list):
            return f"`format: prompt-completion` and `columns: {{prompt: {question}, completion: chosen}}`"
        return "`format: messages` and `columns: {messages: chosen}`"
    if question:
        return f"`format: alpaca` and `columns: {{instruction: {question}, output: chosen}}`"
    return "`format: text` and `columns: {text: chosen}`"
