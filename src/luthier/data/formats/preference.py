"""preference: `prompt`, `chosen` and `rejected`: two answers to one prompt, the better one first; optional `system`.

    prompt: text        chosen, rejected: texts            a user's question and an assistant's answers
    prompt: messages    chosen, rejected: texts, or the assistant's closing messages (of one, the list may be left out)
    (no prompt)         chosen, rejected: whole conversations, the same up to where an assistant's turns differ

Texts go through the prompt template, as questions and answers do elsewhere here: so a model is asked as it was trained.
(TRL takes three texts as they stand; a template that adds nothing does the same.) Conversations that bring their
beginning are believed, and a `prompt` of text beside them is not read, as in TRL.

Not covered: two texts without a prompt (where it ends is anybody's guess), answers with a label (KTO).

Source: TRL, "Dataset formats and types".
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Any

from luthier.data.formats.conversation import ROLES, read_turns
from luthier.data.formats.fields import answer, checked_prompt, in_order, optional_text, text_field
from luthier.data.messages import Message, Preferred
from luthier.data.problems import RowError

NAME = "preference"
REQUIRED = ("prompt", "chosen", "rejected")

_PAIR = frozenset({"chosen", "rejected"})
_LABELLED = frozenset({"prompt", "completion", "label"})
_QUESTIONS = ("prompt", "question", "instruction", "query", "input")
_BEGINNINGS = ("conversations", "conversation", "messages")
_KIND = "which are for preference training (DPO, ORPO, KTO)"


def matches(columns: frozenset[str]) -> bool:
    """Both answers are there; conversations bring their prompt."""
    return columns >= _PAIR


def read(row: dict[str, Any]) -> Preferred:
    """The two conversations; of both only what stands behind the prompt is learned.

    Raises:
        RowError: A field is missing, empty or of another type than its partner, the answers are the same, or they
            are none to the same prompt.
    """
    row = row | {name: [row[name]] for name in _PAIR if isinstance(row.get(name), dict)}
    if isinstance(row.get("chosen"), list):
        opening, (chosen, rejected) = _conversations(row)
    else:
        opening = _prompt(row)
        chosen, rejected = ([Message("assistant", answer(row, name))] for name in ("chosen", "rejected"))
    if chosen == rejected:
        found = "chosen and rejected are the same"
        raise RowError("E-DATA-037", found, "give the row two different answers, or delete it")
    system = optional_text(row, "system")
    if system.strip() and not (opening and opening[0].role == "system"):
        opening = [Message("system", system), *opening]
    return Preferred(in_order([*opening, *chosen]), in_order([*opening, *rejected]))


def _prompt(row: dict[str, Any]) -> list[Message]:
    if isinstance(row.get("prompt"), list):
        return read_turns(row, "prompt", trained=False)
    return [Message("user", checked_prompt(text_field(row, "prompt"), '"prompt"'))]


def _conversations(row: dict[str, Any]) -> tuple[list[Message], list[list[Message]]]:
    """What comes before the two answers, and the answers."""
    sides = [read_turns(row, "chosen"), read_turns(row, "rejected")]
    pairs = zip(*sides, strict=False)
    common = next((at for at, (one, other) in enumerate(pairs) if not _same(one, other)), min(map(len, sides)))
    answers = [side[common:] for side in sides]
    shared = [replace(turn, trained=False) if turn.role == "assistant" else turn for turn in sides[0][:common]]
    if any(answers):  # else they are the same
        _check(answers, common)
    if not shared:
        return _prompt(row), answers
    opening = _prompt(row) if isinstance(row.get("prompt"), list) else []
    if len(opening) <= common and all(map(_same, opening, shared)):
        return shared, answers
    return [*opening, *shared], answers


def _same(one: Message, other: Message) -> bool:
    return (one.role, one.content) == (other.role, other.content)


def _check(answers: list[list[Message]], common: int) -> None:
    """Both sides have to go on with an answer where they part."""
    fix = "let chosen and rejected differ from an answer of the assistant on, or delete the row"
    named = dict(zip(("chosen", "rejected"), answers, strict=True))
    for name, side in named.items():
        if not side and not common:
            raise RowError("E-DATA-024", f'"{name}" is empty', "give the row an answer, or delete it")
        if not side:
            raise RowError("E-DATA-038", f"{name} ends at turn {common}, where the other one goes on", fix)
    for name, side in named.items():
        if side[0].role != "assistant":
            found = f"chosen and rejected differ in turn {common + 1}, which is from {side[0].role} in {name}"
            raise RowError("E-DATA-038", found, fix)


def pair(row: dict[str, Any]) -> tuple[str, str] | None:
    """What was found and what to write, for a pair of answers in a run that learns answers; None for any other row."""
    if not row.keys() >= _PAIR:
        return None
    question = question_of(row)
    listed = ", ".join(name for name in (question, "chosen", "rejected") if name)
    only = f"to train on the chosen answers write {_chosen(row, question)}"
    dpo = "for DPO write `training.objective: dpo`"
    if is_implicit(row):
        dpo = "for DPO (`training.objective: dpo`) part them into prompt, chosen and rejected"
    return f"rows of {listed}, {_KIND}, and this run learns answers (training.objective: sft)", f"{dpo}; {only}"


def labelled(row: dict[str, Any]) -> tuple[str, str] | None:
    """The same for a row of an answer and whether it is a good one, which would be learned in either case."""
    if not (row.keys() >= _LABELLED and isinstance(row["label"], bool)):
        return None
    fix = "to train on the good answers keep the rows with label: true, and write `format: prompt-completion`"
    return f"rows of prompt, completion and a label true or false, {_KIND}; of these there is DPO here", fix


def question_of(row: Container[str]) -> str:
    """The column that holds the prompt, whatever it is called; empty for none."""
    return next((name for name in _QUESTIONS if name in row), "")


def lacks_prompt(row: dict[str, Any]) -> bool:
    """Whether its answers bring no beginning of their own, and there is no column `prompt`."""
    chosen = row["chosen"]
    first = next(iter(chosen), None) if isinstance(chosen, list) else chosen
    closes = isinstance(first, dict) and ROLES.get(str(first.get("role", first.get("from")))) == "assistant"
    return "prompt" not in row and (isinstance(chosen, str) or closes)


def beginning_of(row: dict[str, Any]) -> str:
    """The column that probably holds the prompt of such a row; empty for none."""
    names = _QUESTIONS if isinstance(row["chosen"], str) else (*_BEGINNINGS, *_QUESTIONS)
    return next((name for name in names if name in row), "")


def is_implicit(row: dict[str, Any]) -> bool:
    """Whether it is two texts that hold their prompt in themselves."""
    return isinstance(row["chosen"], str) and not question_of(row)


def _chosen(row: dict[str, Any], question: str) -> str:
    if isinstance(row["chosen"], dict):
        return "rows of messages that end with them, and `format: messages`"
    if isinstance(row["chosen"], list):
        if question and isinstance(row[question], list):
            return f"`format: prompt-completion` and `columns: {{prompt: {question}, completion: chosen}}`"
        return "`format: messages` and `columns: {messages: chosen}`"
    if question:
        return f"`format: alpaca` and `columns: {{instruction: {question}, output: chosen}}`"
    return "`format: text` and `columns: {text: chosen}`"
