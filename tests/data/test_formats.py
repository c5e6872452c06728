"""Shapes of rows: what each format reads, how it is detected, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.config.schema import DatasetSource
from luthier.data.formats import FORMATS, choose_format, detect, renamed
from luthier.data.messages import Message, Segment
from luthier.data.problems import RowError
from luthier.errors import DataError

USER, ASSISTANT = Message("user", "Q"), Message("assistant", "A")


def weighted(*weights: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "Q", "weight": None}
    answers = [{"role": "assistant", "content": "A", "weight": weight} for weight in weights]
    return {"messages": [turn for answer in answers for turn in (question, answer)]}


@pytest.mark.parametrize(
    ("name", "row", "content"),
    [
        ("alpaca", {"instruction": "Q", "output": "A"}, [USER, ASSISTANT]),
        ("alpaca", {"instruction": "Q", "input": None, "output": "A"}, [USER, ASSISTANT]),
        ("alpaca", {"instruction": "Q", "input": "x", "output": "A"}, [Message("user", "Q", "x"), ASSISTANT]),
        ("alpaca", {"instruction": "", "input": "Q", "output": "A"}, [USER, ASSISTANT]),
        ("alpaca", {"instruction": "Q", "output": "A", "system": "S"}, [Message("system", "S"), USER, ASSISTANT]),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            [USER, ASSISTANT],
        ),
        (
            "sharegpt",
            {"conversation": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "system": "S"},
            [Message("system", "S"), USER, ASSISTANT],
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            [USER, ASSISTANT],
        ),
        ("prompt-completion", {"prompt": "Q", "completion": " A"}, [Segment("Q", False), Segment(" A", True)]),
        (
            "prompt-completion",
            {
                "prompt": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "content": "A"},
                    {"role": "user", "content": "Q"},
                ],
                "completion": [{"role": "assistant", "content": "A"}],
            },
            [USER, Message("assistant", "A", trained=False), USER, ASSISTANT],
        ),
        (
            "messages",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "?"}]},
                    {"role": "assistant", "content": "A"},
                ]
            },
            [Message("user", "Q?"), ASSISTANT],
        ),
        ("text", {"text": "once"}, [Segment("once", True)]),
        ("messages", weighted(0, 1), [USER, Message("assistant", "A", trained=False, never=True), USER, ASSISTANT]),
        ("messages", weighted(None, 1.0), [USER, ASSISTANT, USER, ASSISTANT]),
        ("messages", weighted(1, 0), [USER, ASSISTANT]),
    ],
)
def test_reads(name: str, row: dict[str, Any], content: list[Any]) -> None:
    assert FORMATS[name].read(row) == content


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("code", "name", "row"),
    [
        ("E-DATA-023", "alpaca", {"instruction": "Q", "output": None}),
        ("E-DATA-023", "alpaca", {"instruction": 7, "output": "A"}),
        ("E-DATA-023", "alpaca", {"instruction": "Q", "outptu": "A"}),
        ("E-DATA-023", "alpaca", {"instruction": "Q", "input": ["x"], "output": "A"}),
        ("E-DATA-023", "messages", {"messages": "hello"}),
        ("E-DATA-023", "messages", {"messages": ["hello"]}),
        ("E-DATA-023", "messages", {"messages": [{"role": "user", "content": None}]}),
        ("E-DATA-023", "prompt-completion", {"prompt": "Q", "completion": [{"role": "assistant", "content": "A"}]}),
        ("E-DATA-024", "alpaca", {"instruction": "Q", "output": " \n"}),
        ("E-DATA-024", "prompt-completion", {"prompt": "Q", "completion": ""}),
        ("E-DATA-024", "text", {"text": "\u3000"}),
        ("E-DATA-024", "messages", turns("user")),
        ("E-DATA-024", "messages", turns("user", "assistant", "user")),
        ("E-DATA-024", "messages", weighted(0, 0)),
        ("E-DATA-023", "messages", weighted(0.5)),
        ("E-DATA-023", "messages", weighted("1")),
        (
            "E-DATA-024",
            "prompt-completion",
            {
                "prompt": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
                "completion": [],
            },
        ),
        ("E-DATA-025", "messages", turns("user", "robot")),
        ("E-DATA-025", "messages", turns("user", "tool")),
        ("E-DATA-025", "messages", {"messages": [{"content": "x"}]}),
        ("E-DATA-025", "messages", {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}),
        ("E-DATA-025", "sharegpt", {"conversations": [{"from": "observation", "value": "x"}]}),
        ("E-DATA-026", "messages", {"messages": []}),
        ("E-DATA-026", "messages", turns("assistant", "user")),
        ("E-DATA-026", "messages", turns("user", "user", "assistant")),
        ("E-DATA-026", "messages", turns("user", "assistant", "system", "assistant")),
        ("E-DATA-027", "alpaca", {"instruction": "", "output": "A"}),
        ("E-DATA-027", "prompt-completion", {"prompt": " ", "completion": "A"}),
    ],
)
def test_refuses(code: str, name: str, row: dict[str, Any]) -> None:
    with pytest.raises(RowError) as refusal:
        FORMATS[name].read(row)
    assert refusal.value.code == code
    assert refusal.value.found
    assert refusal.value.fix


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("instruction output", "alpaca"),
        ("instruction input output text", "alpaca"),
        ("instruction input output prompt", "alpaca"),
        ("conversations id", "sharegpt"),
        ("conversation", "sharegpt"),
        ("messages prompt", "messages"),
        ("prompt completion", "prompt-completion"),
        ("text source", "text"),
    ],
)
def test_detects(columns: str, name: str) -> None:
    found = detect(frozenset(columns.split()))
    assert found is FORMATS[name]


def test_detection_names_what_it_needs() -> None:
    with pytest.raises(DataError, match="E-DATA-020") as error:
        detect(frozenset({"question", "answer"}), "rows.jsonl:1")
    (problem,) = error.value.problems
    assert "answer, question" in problem.found
    assert "instruction, output" in problem.found
    assert problem.fix == "write `format: alpaca` and `columns: {instruction: question, output: answer}`"
    with pytest.raises(DataError, match=r"columns: \{messages: mesages\}"):
        detect(frozenset({"mesages"}))


def test_text_beside_an_answer_is_not_plain_text() -> None:
    with pytest.raises(DataError, match=r"columns: \{instruction: text, output: code\}"):
        detect(frozenset({"text", "code", "test_list"}))


def test_several_formats_fit() -> None:
    with pytest.raises(DataError, match="E-DATA-021") as error:
        detect(frozenset({"messages", "instruction", "output"}))
    assert "alpaca and messages" in error.value.problems[0].found


def test_missing_columns() -> None:
    with pytest.raises(DataError, match="E-DATA-022") as error:
        choose_format(DatasetSource(path="x", format="alpaca"), {"instruction": "Q", "outputs": "A"}, "x:1")
    assert error.value.problems[0].fix == "write `columns: {output: outputs}`"
    with pytest.raises(DataError, match="E-DATA-022") as error:
        choose_format(DatasetSource(path="x", columns={"output": "cod"}), {"text": "Q", "code": "A"}, "x:1")
    assert error.value.problems[0].fix == "write `columns: {output: code}`"


@pytest.mark.parametrize(
    ("format", "given", "row", "mapping"),
    [
        ("alpaca", {}, "question answer", "instruction: question, output: answer"),
        ("alpaca", {"instruction": "question"}, "question answer", "instruction: question, output: answer"),
        ("alpaca", {"instruction": "question", "output": "anwser"}, "question answer",
         "instruction: question, output: answer"),
        ("alpaca", {}, "instructon input output", "instruction: instructon"),
        ("alpaca", {}, "input reply", "instruction: input, output: YOUR_COLUMN"),
        ("prompt-completion", {}, "query response", "prompt: query, completion: response"),
    ],
)  # fmt: skip
def test_the_mapping_that_is_proposed_is_whole(format: Any, given: Any, row: str, mapping: str) -> None:
    with pytest.raises(DataError, match="E-DATA-022") as error:
        choose_format(DatasetSource(path="x", format=format, columns=given), dict.fromkeys(row.split(), "x"), "x:1")
    assert error.value.problems[0].fix == f"write `columns: {{{mapping}}}`"


def test_renaming_takes_the_name_and_keeps_the_rest() -> None:
    row = {"text": "Q", "code": "A", "id": 1}
    assert renamed(row, {"instruction": "text", "output": "code"}) == {"instruction": "Q", "output": "A", "id": 1}
    assert renamed({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ('[{"role": "user", "content": "Q"}]', "looks like a list"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "a part of type image_url"),
        ([{"role": "user", "content": [{"type": "text"}]}], 'no "text" in this row'),
    ],
)
def test_e_data_023_messages_in_another_form(messages: Any, says: str) -> None:
    with pytest.raises(RowError, match=says) as error:
        FORMATS["messages"].read({"messages": messages})
    assert error.value.code == "E-DATA-023"


CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
PREFERENCES = [
    ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "alpaca", {"instruction": "prompt", "output": "chosen"}),
    ({"question": "Q", "chosen": "A", "rejected": "B", "id": 1}, "alpaca",
     {"instruction": "question", "output": "chosen"}),
    ({"chosen": CHAT, "rejected": CHAT}, "messages", {"messages": "chosen"}),
    ({"prompt": "Q", "chosen": CHAT, "rejected": CHAT}, "messages", {"messages": "chosen"}),
    ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}, "prompt-completion",
     {"prompt": "prompt", "completion": "chosen"}),
    ({"chosen": "Q A", "rejected": "Q B"}, "text", {"text": "chosen"}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "format", "columns"), PREFERENCES)
@pytest.mark.parametrize("given", ["auto", "sharegpt"])
def test_e_data_028_preference_rows_are_named_and_what_is_advised_reads_the_good_answers(row, format, columns, given):
    with pytest.raises(DataError) as error:
        choose_format(DatasetSource(path="x", format=given), row, "x:1")
    (problem,) = error.value.problems
    assert problem.code == "E-DATA-028" and problem.where == "x:1" and "DPO, ORPO, KTO" in problem.found
    said = ", ".join(f"{expected}: {yours}" for expected, yours in columns.items())
    assert problem.fix.endswith(f"write `format: {format}` and `columns: {{{said}}}`")
    source = DatasetSource(path="x", format=format, columns=columns)
    content = str(choose_format(source, row, "x:1").read(renamed(row, columns)))
    assert "A" in content and "B" not in content


def test_e_data_028_answers_with_a_label_are_not_learned_whatever_it_says():
    row = {"prompt": "Q", "completion": "A", "label": False}
    with pytest.raises(DataError, match="E-DATA-028"):
        choose_format(DatasetSource(path="x"), row, "x:1")
    assert choose_format(DatasetSource(path="x", format="prompt-completion"), row, "x:1").NAME == "prompt-completion"
    assert choose_format(DatasetSource(path="x"), row | {"label": "news"}, "x:1").NAME == "prompt-completion"


def test_rows_that_hold_a_conversation_besides_are_read_as_that():
    row = {"messages": CHAT, "chosen": CHAT, "rejected": CHAT}
    assert choose_format(DatasetSource(path="x"), row, "x:1").NAME == "messages"
