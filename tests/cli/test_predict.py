"""`luthier predict`: a file of rows in, a file of answers out."""

from __future__ import annotations

import csv
import datetime
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.evaluate.answers import Answers
from luthier.generate.load import load
from tests.cli.support import run_here
from tests.generate.support import train_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
QUESTIONS = ["Reverse a string", "Add two numbers", "Käse €"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("predict") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with `questions.csv`; answers are asked anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with (tmp_path / "questions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "label"], *([text, n] for n, text in enumerate(QUESTIONS))])
    return tmp_path


def predict(capsys, *arguments):
    return run_here(capsys, "predict", *arguments, "--max-new-tokens", 12)


def test_each_row_is_written_with_its_answer(capsys, run, here):
    result = predict(capsys, run, "questions.csv", "--columns", "instruction=question", "--to", "answers.jsonl")
    assert result.code == 0 and result.out.startswith("3 rows answered") and "answers.jsonl" in result.out
    rows = [json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()]
    expected = load(run).generate_many(QUESTIONS, 12)
    assert [row["answer"] for row in rows] == expected
    assert [row["row"] for row in rows] == [
        {"question": text, "label": str(number)} for number, text in enumerate(QUESTIONS)
    ]
    assert [row["place"] for row in rows] == ["questions.csv:2", "questions.csv:3", "questions.csv:4"]
    again = predict(capsys, run, "questions.csv", "--columns", "instruction=question", "--to", "answers.jsonl")
    assert "3 rows answered, 3 of them before" in again.out and "loading" not in again.err
    fresh = predict(capsys, run, "questions.csv", "--columns", "instruction=question", "--to", "a.jsonl", "--fresh")
    assert "before" not in fresh.out and (here / "a.jsonl").read_text() == (here / "answers.jsonl").read_text()


def test_what_json_has_no_word_for_is_written_all_the_same(capsys, run, here):
    """A row's other columns can be anything."""
    row = {"prompt": "Add", "day": datetime.date(2026, 11, 27), "score": math.nan}
    pq.write_table(pa.Table.from_pylist([row]), here / "rows.parquet")
    result = predict(capsys, run, "rows.parquet", "--to", "answers.jsonl")
    assert result.code == 0, result.err
    (line,) = (here / "answers.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["row"] == {"prompt": "Add", "day": "2026-11-27", "score": None}


def test_a_ctrl_c_keeps_the_answers_so_far_and_an_older_file(capsys, run, here, monkeypatch):
    (here / "answers.jsonl").write_text("old\n")
    once = Answers.add

    def stopped(self, new):
        once(self, new)
        raise KeyboardInterrupt

    command = (run, "questions.csv", "--columns", "instruction=question", "--to", "answers.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(Answers, "add", stopped)
        result = predict(capsys, *command)
    assert result.code == 75 and "the same command goes on" in result.err
    assert (here / "answers.jsonl").read_text() == "old\n"
    assert "3 rows answered, 1 of them before" in predict(capsys, *command).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["questions.csv", "--to", "a.jsonl"], "E-DATA-022"),
        (["questions.csv", "--columns", "question", "--to", "a.jsonl"], "instruction=question"),
        (["qestions.csv", "--to", "a.jsonl"], "did you mean"),
        (["questions.csv", "--columns", "instruction=question", "--to", "nowhere/a.jsonl"], "E-ENV-002"),
        (["questions.csv", "--columns", "instruction=question", "--to", "a.csv"], "name it a.jsonl"),
        (["questions.csv", "--columns", "instruction=question"], "--to"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run_is_loaded(capsys, run, here, arguments, words):
    result = predict(capsys, run, *arguments)
    assert result.code == 2 and words in result.err and "loading" not in result.err
    assert not (here / "a.jsonl").exists()


def test_the_rows_are_not_written_over(capsys, run, here):
    before = (here / "questions.csv").read_bytes()
    result = predict(capsys, run, "questions.csv", "--columns", "instruction=question", "--to", "./questions.csv")
    assert result.code == 2 and "E-ENV-002" in result.err and "questions.csv is what this command reads" in result.err
    assert (here / "questions.csv").read_bytes() == before
