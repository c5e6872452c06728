"""Rows of prompt, chosen and rejected: the shapes that are read, those that are refused, and for which objective."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config.schema import DatasetSource
from luthier.data.formats import FORMATS, choose_format, guess, renamed
from luthier.data.messages import Message, Preferred
from luthier.data.problems import RowError
from luthier.errors import DataError
from tests.data.support import turn

READ = FORMATS["preference"].read
SYSTEM, USER = Message("system", "S"), Message("user", "Q")
GOOD, BAD = Message("assistant", "A"), Message("assistant", "B")
SAID = Message("assistant", "A0", trained=False)
Q, A, B, A0 = turn("user", "Q"), turn("assistant", "A"), turn("assistant", "B"), turn("assistant", "A0")
PLAIN = Preferred([USER, GOOD], [USER, BAD])
LATER = Preferred([USER, SAID, USER, GOOD], [USER, SAID, USER, BAD])


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, PLAIN),
        ({"prompt": [Q], "chosen": "A", "rejected": "B"}, PLAIN),
        ({"prompt": [Q], "chosen": [A], "rejected": [B]}, PLAIN),
        ({"prompt": "Q", "chosen": [A], "rejected": [B]}, PLAIN),
        ({"prompt": [Q], "chosen": A, "rejected": B}, PLAIN),
        ({"chosen": [Q, A], "rejected": [Q, B]}, PLAIN),
        ({"prompt": None, "chosen": [Q, A], "rejected": [Q, B]}, PLAIN),
        ({"prompt": "Q", "chosen": [Q, A], "rejected": [Q, B], "messages": [Q, A]}, PLAIN),
        ({"prompt": [Q], "chosen": [Q, A], "rejected": [Q, B]}, PLAIN),
        ({"prompt": [Q, A0, Q], "chosen": [A], "rejected": [B]}, LATER),
        ({"chosen": [Q, A0, Q, A], "rejected": [Q, A0, Q, B]}, LATER),
        ({"prompt": [Q, A0], "chosen": [Q, A], "rejected": [Q, B]}, LATER),
        ({"chosen": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "rejected": [Q, B]}, PLAIN),
        (
            {"prompt": "Q", "chosen": "A", "rejected": "B", "system": "S"},
            Preferred([SYSTEM, USER, GOOD], [SYSTEM, USER, BAD]),
        ),
        (
            {"chosen": [turn("system", "S"), Q, A], "rejected": [turn("system", "S"), Q, B], "system": "other"},
            Preferred([SYSTEM, USER, GOOD], [SYSTEM, USER, BAD]),
        ),
        (
            {"chosen": [Q, A, Q, A], "rejected": [Q, B, turn("user", "Why?"), B]},  # they part at the first answer
            Preferred([USER, GOOD, USER, GOOD], [USER, BAD, Message("user", "Why?"), BAD]),
        ),
    ],
)
def test_reads(row: dict[str, Any], pair: Preferred) -> None:
    assert READ(row) == pair


@pytest.mark.parametrize(
    ("code", "row", "says"),
    [
        ("E-DATA-037", {"prompt": "Q", "chosen": "A", "rejected": "A"}, "the same"),
        ("E-DATA-037", {"prompt": [Q], "chosen": [A], "rejected": [A]}, "the same"),
        ("E-DATA-037", {"chosen": [Q, A], "rejected": [Q, A]}, "the same"),
        ("E-DATA-038", {"chosen": [Q, A], "rejected": [turn("user", "R"), B]}, "turn 1, which is from user"),
        ("E-DATA-038", {"chosen": [Q, A, Q, A], "rejected": [Q, A, turn("user", "R"), B]}, "turn 3, which is from"),
        ("E-DATA-038", {"chosen": [Q, A, Q, A], "rejected": [Q, A]}, "rejected ends at turn 2"),
        ("E-DATA-024", {"prompt": [Q], "chosen": [], "rejected": [B]}, '"chosen" is empty'),
        ("E-DATA-024", {"prompt": "Q", "chosen": "A", "rejected": " "}, '"rejected" is empty'),
        ("E-DATA-024", {"prompt": "Q", "chosen": "", "rejected": "B"}, '"chosen" is empty'),
        ("E-DATA-024", {"chosen": [Q, A], "rejected": [Q, turn("assistant", "")]}, "is empty"),
        ("E-DATA-024", {"prompt": [Q], "chosen": [A], "rejected": [B | {"weight": 0}]}, "no answer to learn"),
        ("E-DATA-027", {"prompt": " ", "chosen": "A", "rejected": "B"}, '"prompt" is empty'),
        ("E-DATA-023", {"prompt": None, "chosen": "A", "rejected": "B"}, '"prompt" is null'),
        ("E-DATA-023", {"chosen": [A], "rejected": [B]}, 'no "prompt"'),
        ("E-DATA-023", {"prompt": "Q", "chosen": "A", "rejected": [B]}, '"rejected" is a list, not text'),
        ("E-DATA-023", {"prompt": "Q", "chosen": [A], "rejected": "B"}, '"rejected" is text, not a list'),
        ("E-DATA-023", {"prompt": "Q", "chosen": 7, "rejected": "B"}, '"chosen" is a number'),
        ("E-DATA-025", {"chosen": [Q, A], "rejected": [Q, turn("tool", "x")]}, "tool call"),
        ("E-DATA-026", {"prompt": [Q, A0], "chosen": [A], "rejected": [B]}, "where user should speak"),
    ],
)
def test_refuses(code: str, row: dict[str, Any], says: str) -> None:
    with pytest.raises(RowError) as refusal:
        READ(row)
    assert refusal.value.code == code and says in refusal.value.found and refusal.value.fix


def chosen(row: dict[str, Any], format: Any = "auto", columns: dict[str, str] | None = None) -> str:
    """Name of the format under DPO."""
    return choose_format(DatasetSource(path="x", format=format, columns=columns or {}), row, "x:1", "dpo").NAME


def refused(row: dict[str, Any], format: Any = "auto", objective: Any = "dpo") -> Any:
    with pytest.raises(DataError) as error:
        choose_format(DatasetSource(path="x", format=format), row, "x:1", objective)
    (problem,) = error.value.problems
    assert problem.where == "x:1"
    return problem


def test_pairs_are_found_whatever_else_a_row_holds() -> None:
    row = {"prompt": "Q", "chosen": [Q, A], "rejected": [Q, B], "messages": [Q, A], "score_chosen": 9}
    assert chosen(row) == chosen(row, "preference") == "preference"
    mine = {"q": "Q", "good": "A", "bad": "B"}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    assert chosen(mine, columns=columns) == "preference"
    assert READ(renamed(mine, columns)) == PLAIN


@pytest.mark.parametrize("format", ["auto", "alpaca"])
@pytest.mark.parametrize(
    "row", [{"instruction": "Q", "output": "A"}, {"prompt": "Q", "completion": "A", "label": True}]
)
def test_e_data_029_rows_of_answers_are_no_pairs(row: dict[str, Any], format: Any) -> None:
    problem = refused(row, format)
    assert problem.code == "E-DATA-029" and problem.fix.startswith("write `training.objective: sft`")


def test_e_data_029_a_format_of_answers_is_named_for_pairs() -> None:
    problem = refused({"prompt": "Q", "chosen": "A", "rejected": "B"}, "alpaca")
    assert problem.code == "E-DATA-029" and problem.fix.endswith("or `format: preference`")


def test_e_data_039_two_texts_without_a_prompt() -> None:
    problem = refused({"chosen": "Human: Q Assistant: A", "rejected": "Human: Q Assistant: B"})
    assert problem.code == "E-DATA-039" and "where it ends" in problem.found and "prompt, chosen" in problem.fix


def test_answers_without_a_beginning_need_a_prompt() -> None:
    said = [{"from": "human", "value": "Q"}]
    row = {"conversations": said, "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}}
    problem = refused(row)
    assert (problem.code, problem.fix) == ("E-DATA-022", "write `columns: {prompt: conversations}`")
    columns = {"prompt": "conversations"}
    assert chosen(row, columns=columns) == "preference" and READ(renamed(row, columns)) == PLAIN
    problem = refused({"chosen": [A], "rejected": [B]})
    assert problem.code == "E-DATA-039" and "a column prompt" in problem.fix
    assert refused(renamed(row, columns), objective="sft").fix.endswith("and `format: messages`")


def test_e_data_022_a_prompt_by_another_name_and_a_column_that_is_missing() -> None:
    problem = refused({"question": "Q", "chosen": "A", "rejected": "B"})
    assert (problem.code, problem.fix) == ("E-DATA-022", "write `columns: {prompt: question}`")
    problem = refused({"prompt": "Q", "chosen": "A", "reject": "B"}, "preference")
    assert (problem.code, problem.fix) == ("E-DATA-022", "write `columns: {rejected: reject}`")


@pytest.mark.parametrize("format", ["auto", "preference", "sharegpt"])
def test_e_data_028_names_both_ways_out_where_answers_are_learned(format: Any) -> None:
    problem = refused({"prompt": "Q", "chosen": "A", "rejected": "B"}, format, "sft")
    assert problem.code == "E-DATA-028"
    assert (
        "`training.objective: dpo`" in problem.fix and "columns: {instruction: prompt, output: chosen}" in problem.fix
    )


def test_e_data_028_two_texts_are_to_be_parted_first() -> None:
    problem = refused({"chosen": "Q A", "rejected": "Q B"}, objective="sft")
    assert "part them into prompt, chosen and rejected" in problem.fix and "`format: text`" in problem.fix
    assert refused({"instruction": "Q", "output": "A"}, "preference", "sft").fix == "write `training.objective: dpo`"


def test_a_first_config_takes_pairs_for_pairs() -> None:
    for columns, names, mapping in (
        ("prompt chosen rejected", ["preference"], {}),
        ("chosen rejected messages", ["preference", "messages"], {}),
        ("question chosen rejected", ["preference"], {"prompt": "question"}),
    ):
        formats, meant = guess(frozenset(columns.split()))
        assert ([format.NAME for format in formats], meant) == (names, mapping)
