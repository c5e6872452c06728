"""Tasks are read whole, or every wrong line is named."""

from __future__ import annotations

import pytest

from luthier.errors import DataError
from luthier.evaluate.tasks import SETS, Task, load_tasks
from tests.evaluate.support import write_tasks

GOOD = {"instruction": "Write double", "tests": ["assert double(2) == 4"]}


def problems_of(path):
    with pytest.raises(DataError) as caught:
        load_tasks(str(path))
    return caught.value.problems


def test_a_file_with_everything_and_one_with_the_least(tmp_path):
    row = {**GOOD, "task_id": "d", "split": "phrasing", "entry_point": "double", "output": "def double(x): ..."}
    path = write_tasks(tmp_path / "tasks.jsonl", row, "", GOOD)
    assert load_tasks(str(path)) == (
        Task("d", "phrasing", "Write double", ("assert double(2) == 4",), "double", "def double(x): ..."),
        Task("line 3", "", "Write double", ("assert double(2) == 4",)),
    )


def test_line_separators_inside_a_text_end_no_line(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('\ufeff{"instruction": "a\u2028b\x85c", "tests": ["assert f()"]}\r\n', "utf-8")
    assert load_tasks(str(path))[0].instruction == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ({"tests": ["assert f()"]}, "instruction is missing or empty"),
        ({"instruction": 3, "tests": ["assert f()"]}, "instruction is no text"),
        ({"instruction": "x"}, "tests is missing or empty"),
        ({"instruction": "x", "tests": []}, "tests is missing or empty"),
        ({"instruction": "x", "tests": "assert f()"}, "tests is no list"),
        ({"instruction": "x", "tests": [1]}, "a test is no text"),
        ({"instruction": "x", "tests": ["assert f("]}, "a test is no Python: assert f("),
        ({"instruction": "x", "tests": ["print(f())"]}, "a test asserts nothing: print(f())"),
        ({"instruction": "x", "tests": ["assert f()\nreturn"]}, "a test returns outside of a function: assert f()"),
        ({"instruction": "x", "tests": ["def check(f):\n    assert f()"]}, "no test would run"),
        ({**GOOD, "instruction": "half \ud800"}, "instruction has half a character"),
        ({**GOOD, "input": "x = 1"}, "it has an input"),
        ({**GOOD, "split": 1}, "split is no text"),
        ({**GOOD, "task_id": "first"}, 'task_id "first" is already that of line 1'),
        ("[" * 100_000, ""),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, words):
    path = write_tasks(tmp_path / "tasks.jsonl", {**GOOD, "task_id": "first"}, GOOD, row)
    (problem,) = problems_of(path)
    assert problem.code == "E-EVAL-022"
    assert problem.where == f"{path}:3" and words in problem.found


def test_all_wrong_lines_are_named_at_once(tmp_path):
    path = write_tasks(tmp_path / "tasks.jsonl", "{", GOOD, "[]")
    assert [problem.where for problem in problems_of(path)] == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "empty"])
def test_a_file_that_holds_no_tasks(tmp_path, kind):
    path = tmp_path / "tasks.jsonl"
    if kind == "folder":
        path.mkdir()
    if kind in ("binary", "empty"):
        path.write_bytes(b"\xff\xfe\x00" if kind == "binary" else b"\n\n")
    (problem,) = problems_of(path)
    assert problem.code == "E-EVAL-021" and problem.where == str(path)


def test_a_misspelt_set_is_recognised():
    (problem,) = problems_of("quikstart")
    assert problem.code == "E-EVAL-021" and problem.fix == "did you mean quickstart?"


@pytest.mark.parametrize("name", SETS)
def test_built_in_tasks_are_sound(name):
    tasks = load_tasks(name)
    assert len(tasks) >= 20 and len({task.task_id for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.split and task.reference and task.entry_point
        assert all(task.entry_point in test for test in task.tests)
