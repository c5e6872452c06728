"""Rows of files, each answered: what they ask, and that they are asked as the training asked."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data.messages import Message
from luthier.data.template import load_template
from luthier.errors import DataError, ModelError
from luthier.evaluate.answers import Answers
from luthier.evaluate.rows import answer_rows, read_questions
from luthier.generate.choosing import Sampling
from luthier.generate.load import Tuned, load
from tests.evaluate.support import write_tasks
from tests.generate.support import train_tiny

GREEDY = Sampling(8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Answers are asked anew in each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("rows") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


def said(*turns):
    return [Message(role, text) for role, text in turns]


def asked(row, **columns):
    """What a row of a file asks."""
    path = Path("rows.jsonl")
    path.write_text(json.dumps(row) + "\n", "utf-8")
    (question,) = read_questions(str(path), columns)
    assert question.row == row and question.place == "rows.jsonl:1"
    return question.turns


USER, ANSWER = {"role": "user", "content": "Add"}, {"role": "assistant", "content": "known"}
ROWS = {
    "alpaca": ({"instruction": "Add", "input": "1, 2", "output": "3"}, [Message("user", "Add", "1, 2")]),
    "alpaca without an answer": ({"instruction": "Add"}, said(("user", "Add"))),
    "alpaca with an empty answer": ({"instruction": "Add", "output": ""}, said(("user", "Add"))),
    "a system message": ({"instruction": "Add", "system": "Be brief"}, said(("system", "Be brief"), ("user", "Add"))),
    "messages": ({"messages": [USER, ANSWER]}, said(("user", "Add"))),
    "messages without an answer": ({"messages": [USER]}, said(("user", "Add"))),
    "a conversation": (
        {"messages": [USER, ANSWER, USER]}, said(("user", "Add"), ("assistant", "known"), ("user", "Add")),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Add"}, {"from": "gpt", "value": "3"}]}, said(("user", "Add")),
    ),
    "a prompt": ({"prompt": "Add", "chosen": "a", "rejected": "b"}, said(("user", "Add"))),
    "a prompt of messages": ({"prompt": [USER]}, said(("user", "Add"))),
    "a text": ({"text": "Once upon"}, said(("user", "Once upon"))),
    "several columns": ({"prompt": "not this", "instruction": "Add"}, said(("user", "Add"))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_what_a_row_asks(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row, turns = ROWS[kind]
    found = asked(row)
    assert [(turn.role, turn.content, turn.context) for turn in found] == [
        (turn.role, turn.content, turn.context) for turn in turns
    ]


def test_columns_are_renamed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert asked({"question": "Add", "label": 1}, instruction="question") == said(("user", "Add"))


@pytest.mark.parametrize(
    ("row", "columns", "code", "words"),
    [
        ({"question": "Add"}, {}, "E-DATA-022", "write --columns instruction=question"),
        ({"id": 7, "Question": "Add"}, {}, "E-DATA-022", "write --columns instruction=Question"),
        ({"id": 7}, {}, "E-DATA-022", "write --columns instruction=YOUR_COLUMN"),
        ({"question": " "}, {"instruction": "question"}, "E-DATA-027", '"question" is empty'),
        ({"question": "Add"}, {"instruction": "text"}, "E-DATA-022", '"text" to instruction'),
        ({"instruction": " "}, {}, "E-DATA-027", "is empty"),
        ({"instruction": 7}, {}, "E-DATA-023", "instruction"),
        ({"messages": "Add"}, {}, "E-DATA-023", "messages"),
        ({"messages": []}, {}, "E-DATA-02", ""),
        ({"messages": [{"role": "robot", "content": "x"}]}, {}, "E-DATA-025", "robot"),
        ({"messages": [ANSWER]}, {}, "E-DATA-02", ""),
        ({"text": ""}, {}, "E-DATA-027", "is empty"),
    ],
)
def test_a_row_that_asks_nothing_is_named(tmp_path, monkeypatch, row, columns, code, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        asked(row, **columns)
    (problem,) = caught.value.problems
    assert problem.code.startswith(code) and words in problem.found + problem.fix
    assert "rows.jsonl" in problem.where


def test_each_kind_of_mistake_is_named_with_its_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": "Add"}, {"instruction": ""}, {"other": 1}, {"instruction": None}]
    write_tasks(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(DataError) as caught:
        read_questions("rows.jsonl")
    assert [problem.where for problem in caught.value.problems] == [f"rows.jsonl:{n}" for n in (2, 3, 4)]
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(DataError, match="empty"):
        read_questions("none.jsonl")


def test_rows_are_asked_as_the_training_asked(run, tmp_path, monkeypatch):
    """Token by token, an input included; and a file of another kind says the same."""
    tuned = load(run)
    template = load_template("alpaca", tuned.tokenizer, tmp_path)
    rows = [{"instruction": "Add", "input": "1, 2"}, {"instruction": "Reverse", "input": ""}]
    write_tasks(tmp_path / "rows.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = [
        template.prompt_ids(tuned.tokenizer, [Message("user", row["instruction"], row["input"])]) for row in rows
    ]
    prompts = []
    once = Tuned.write_many
    monkeypatch.setattr(
        Tuned, "write_many", lambda self, asked, *how: (prompts.append(asked), once(self, asked, *how))[1]
    )
    found = answer_rows(str(run), read_questions(str(tmp_path / "rows.jsonl")), GREEDY)
    assert prompts == [expected]
    assert [row["answer"] for row in found.rows] == tuned.write_many(expected, GREEDY)
    again = answer_rows(str(run), read_questions(str(tmp_path / "rows.parquet")), GREEDY)
    assert len(prompts) == 2, "the second is the test's own: all were known"
    assert again.remembered == 2 and [row["answer"] for row in again.rows] == [row["answer"] for row in found.rows]
    assert [row["row"] for row in again.rows] == rows


def test_what_was_stopped_goes_on(run, tmp_path, monkeypatch):
    questions = read_questions(str(write(tmp_path, *({"prompt": f"Write {n}"} for n in range(9)))))
    straight = answer_rows(str(run), questions, GREEDY, fresh=True)
    once, kept = Answers.add, []

    def killed(self, new):
        if len(kept) == 4:
            raise KeyboardInterrupt
        kept.extend(new)
        once(self, new)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Answers, "add", killed)
        answer_rows(str(run), questions, Sampling(8, stop=("\n\n\n",)))
    told = []
    resumed = answer_rows(
        str(run), questions, Sampling(8, stop=("\n\n\n",)), say=lambda what, done, total: told.append((done, total))
    )
    assert resumed.remembered == 4
    assert [row["answer"] for row in resumed.rows] == [row["answer"] for row in straight.rows]
    assert [done for done, total in told if total] == [4, 5, 6, 7, 8, 9]


def write(folder, *rows):
    write_tasks(folder / "rows.jsonl", *rows)
    return folder / "rows.jsonl"


def test_draws_are_repeated_by_the_seed_and_each_row_draws_for_itself(run, tmp_path):
    questions = read_questions(str(write(tmp_path, *({"prompt": "Add"} for _ in range(4)))))

    def drawn(seed):
        found = answer_rows(str(run), questions, Sampling(8, 2.0, seed=seed), fresh=True)
        return [row["answer"] for row in found.rows]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 1
    greedy = answer_rows(str(run), questions, GREEDY)
    assert len({row["answer"] for row in greedy.rows}) == 1


def test_a_row_that_is_too_long_costs_the_others_nothing(run, tmp_path):
    questions = read_questions(str(write(tmp_path, {"prompt": "Add"}, {"prompt": "word " * 2000}, {"prompt": "Sub"})))
    for remembered in (0, 3):
        found = answer_rows(str(run), questions, GREEDY)
        assert [row["ended"] for row in found.rows] == ["length", "no room", "length"]
        assert found.rows[1]["answer"] is None and found.remembered == remembered
    words = found.in_words(8)
    assert words.startswith("2 rows answered, 3 of them before; 2 cut at 8 tokens") and "1 too long" in words


def test_a_system_message_stands_before_questions_without_one(run, tmp_path):
    own = {"messages": [{"role": "system", "content": "Mine"}, USER]}
    questions = read_questions(str(write(tmp_path, own, {"messages": [USER]})))
    plain, brief = (
        answer_rows(str(run), questions, GREEDY, system=system).rows for system in ("", "Answer in one word")
    )
    assert plain[0]["answer"] == brief[0]["answer"]
    tuned = load(run)
    prompt = tuned.prompt_ids([{"role": "system", "content": "Answer in one word"}, USER])
    assert brief[1]["answer"] == tuned.write_many([prompt], GREEDY)[0]


def test_what_is_no_run_is_refused(tmp_path):
    questions = read_questions(str(write(tmp_path, {"prompt": "Add"})))
    with pytest.raises(ModelError):
        answer_rows(str(tmp_path / "nowhere"), questions, GREEDY)
