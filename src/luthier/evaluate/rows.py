"""A file of rows, each answered by a run: what is done with it once it is good enough.

    rows --> questions --Tuned.write_many--> answers, kept as they come --> {"place", "row", "answer", "ended"}

Rows are read as those of a training are, by the same formats; an answer that a row has is passed over. They are asked
as the run was trained. What was stopped goes on: answers are kept as those of an evaluation (`answers`), and a run
whose answers are all known is not loaded.

Not covered: several answers to a row; a file's answers while they are written (the kept ones are in the cache folder).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.config.schema import DatasetSource
from luthier.data.formats import (
    alpaca,
    in_your_words,
    messages,
    prompt_completion,
    question_column,
    renamed,
    require_renamed,
    sharegpt,
)
from luthier.data.formats.conversation import ROLES
from luthier.data.formats.fields import checked_prompt, text_field
from luthier.data.messages import Content, Message, Segment
from luthier.data.problems import Problems, RowError, refuse
from luthier.data.sources import Row, open_source
from luthier.data.template import as_turns
from luthier.evaluate.answers import Answers, Say, hashed
from luthier.evaluate.candidate import Asked, Candidate
from luthier.generate.choosing import Sampling
from luthier.generate.load import Tuned
from luthier.generate.system import check_system

_ANSWER = "-"
"""Stands where a row would have its answer: the formats read whole rows only."""


@dataclass(frozen=True)
class Question:
    """A row of a file.

    Attributes:
        place: `questions.jsonl:17`.
        row: As it is there.
        turns: Messages that end with the user.
    """

    place: str
    row: Row
    turns: list[Message]


@dataclass(frozen=True)
class Answered:
    """What came of all rows.

    Attributes:
        rows: In the order of the file, in plain values: `place`, `row`, `answer` and why it `ended`: `stop`, `length`,
            or `no room` where the prompt left none (there is no answer then).
        remembered: How many answers were known from before.
    """

    rows: list[dict[str, Any]] = field(repr=False)
    remembered: int

    def in_words(self, max_new_tokens: int) -> str:
        """`300 rows answered, 12 of them before; 3 were cut at 256 tokens`."""
        cut, none = (sum(row["ended"] == ended for row in self.rows) for ended in ("length", "no room"))
        words = f"{len(self.rows) - none:,} rows answered"
        words += f", {self.remembered:,} of them before" if self.remembered else ""
        words += f"; {cut:,} cut at {max_new_tokens:,} tokens or the context's end" if cut else ""
        return words + (f"; {none:,} too long for the model's context, without an answer" if none else "")


def read_questions(path: str, columns: Mapping[str, str] | None = None) -> list[Question]:
    """The rows of a file, a folder or a dataset of the hub, and what each of them asks.

    Args:
        path: Relative paths start from the folder that Luthier was started in.
        columns: Renames columns to what the formats expect: {expected: yours}.

    Raises:
        DataError: It cannot be read, or rows ask nothing; the first ones of each kind are named.
    """
    names, problems = dict(columns or {}), Problems()
    source = open_source(DatasetSource(path=path), "train", Path())
    found: list[Question] = []
    for place, row in source.rows(problems):
        if not found and not problems:
            _require_columns(row, names, path)
        try:
            found.append(Question(place, row, _turns(renamed(row, names))))
        except RowError as error:
            problems.add(error.code, in_your_words(error.found, names), error.fix, place)
    problems.raise_if_any()
    if not found:
        raise refuse("E-DATA-008", "it holds no rows", "give a file with a question in each row", path)
    return found


def _require_columns(row: Row, names: Mapping[str, str], path: str) -> None:
    require_renamed(names, row, path, "--columns")
    if not any(column in renamed(row, dict(names)) for column in _READ):
        found = f"no column asks anything: none of {', '.join(_READ)}; found: {', '.join(row)}"
        meant = question_column(frozenset(row)) or "YOUR_COLUMN"
        raise refuse("E-DATA-022", found, f"write --columns instruction={meant}", path)


def _with_answer(turns: Any) -> Any:
    """A list of messages that ends with an answer; anything else as it is, for who refuses it in words."""
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return turns
    role, text = ("from", "value") if "from" in turns[-1] else ("role", "content")
    said = turns[-1].get(role)
    is_answer = isinstance(said, str) and ROLES.get(said) == "assistant"
    return [*turns[: len(turns) - is_answer], {role: "assistant", text: _ANSWER}]


def _of_prompt(row: Row) -> Content:
    known = [{"role": "assistant", "content": _ANSWER}] if isinstance(row["prompt"], list) else _ANSWER
    return prompt_completion.read(row | {"completion": known})


def _of_text(row: Row) -> Content:
    return [Segment(checked_prompt(text_field(row, "text"), '"text"'), trained=False)]


_READ: dict[str, Callable[[Row], Content]] = {
    "messages": lambda row: messages.read(row | {"messages": _with_answer(row["messages"])}),
    "conversations": lambda row: sharegpt.read(row | {"conversations": _with_answer(row["conversations"])}),
    "instruction": lambda row: alpaca.read(row | {"output": _ANSWER}),
    "prompt": _of_prompt,
    "text": _of_text,
}
"""How a row with such a column is read; the first that is there counts."""


def _turns(row: Row) -> list[Message]:
    """What is asked: all before the answer."""
    read = next((read for column, read in _READ.items() if column in row), None)
    if read is None:
        raise RowError("E-DATA-022", f"no column asks anything; found: {', '.join(row)}", "ask in all rows alike")
    content = read(row)
    turns = [item for item in content if isinstance(item, Message)]
    if turns:
        return turns[:-1]
    text = next(item.text for item in content if isinstance(item, Segment))
    return [Message("user", text)]


def answer_rows(
    model: str,
    questions: Sequence[Question],
    sampling: Sampling,
    *,
    system: str | None = None,
    base: str | None = None,
    fresh: bool = False,
    say: Say = lambda what, done, total: None,
) -> Answered:
    """Ask a finished run all questions, each for itself, many at once.

    Args:
        model: Output folder of a run.
        questions: Of `read_questions`.
        sampling: How answers are written; a row's draws depend on its seed, its question and its number.
        system: Put before questions that have none of their own, empty for none; None: that of the training.
        base: Where the base model is, when it is not where it was in training.
        fresh: Ask again what was answered before.
        say: Told how far it is.

    Raises:
        ModelError: The run cannot be loaded, or its template has no place for a system message.
    """
    candidate = Candidate(model, base, lambda: say(f"{model}: loading", 0, 0))
    candidate.check_trained_on()
    opening = candidate.system if system is None else system
    asked = [_with_system(question.turns, opening) for question in questions]
    keys = [_key(turns, sampling, number) for number, turns in enumerate(asked)]
    writer = Asked(candidate)
    answers = Answers(writer.about, fresh)
    remembered, keep = answers.keeping(keys, say)
    missing = {key: turns for key, turns in zip(keys, asked, strict=True) if key not in answers}
    if missing:
        with writer.ready() as tuned:
            check_system(tuned, opening)
            _write(tuned, missing, sampling, keep)
    told = zip(questions, keys, strict=True)
    return Answered([_plain(question, *answers[key]) for question, key in told], remembered)


def _with_system(turns: list[Message], system: str) -> list[Message]:
    return [Message("system", system), *turns] if system and turns[0].role != "system" else turns


def _key(turns: Sequence[Message], sampling: Sampling, number: int) -> str:
    """Hash of what an answer depends on besides the model."""
    said = [(turn.role, turn.content, turn.context) for turn in turns]
    drawn = [] if sampling.greedy else [sampling.temperature, sampling.top_p, sampling.seed, number]
    return hashed(["row", said, sampling.max_new_tokens, list(sampling.stop), drawn])


def _write(
    tuned: Tuned, asked: Mapping[str, Sequence[Message]], sampling: Sampling, keep: Callable[[str, Any], None]
) -> None:
    prompts: dict[str, list[int]] = {}
    for key, turns in asked.items():
        conversation = as_turns(turns, tuned.tokenizer.chat_template)
        if tuned.fits(conversation):
            prompts[key] = tuned.prompt_ids(conversation)
        else:
            keep(key, (None, True))
    keys, seeds = list(prompts), [int(key[:15], 16) for key in prompts]
    tuned.write_many(list(prompts.values()), sampling, seeds, lambda n, text, cut: keep(keys[n], (text, cut)))


def _plain(question: Question, answer: str | None, cut: bool) -> dict[str, Any]:
    ended = "no room" if answer is None else "length" if cut else "stop"
    return {"place": question.place, "row": question.row, "answer": answer, "ended": ended}
