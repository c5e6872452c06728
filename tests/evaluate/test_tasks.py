"""Tasks are read whole, or every wrong line is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from luthier.errors import DataError
from luthier.evaluate import matching
from luthier.evaluate.matching import Expected
from luthier.evaluate.sandbox import Program, Sandbox
from luthier.evaluate.score import Settings, score
from luthier.evaluate.tasks import Task, load_sets, load_tasks
from tests.evaluate.support import Known, write_tasks

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


def test_a_prompt_is_an_instruction(tmp_path):
    path = write_tasks(tmp_path / "tasks.jsonl", {"prompt": "Write double", "tests": GOOD["tests"]})
    assert load_tasks(str(path))[0].instruction == "Write double"


def test_an_answer_is_a_text_or_one_of_several_and_asked_with_a_system_message(tmp_path):
    rows = [
        {"prompt": "Which?", "answer": "this", "system": "Be brief."},
        {"prompt": "How many?", "answer": [1, "1,000.5"], "match": "number", "tests": [], "system": ""},
        {"prompt": "Whose?", "answer": "mine|ours", "match": "regex", "tests": None, "split": "s"},
    ]
    which, many, whose = load_tasks(str(write_tasks(tmp_path / "tasks.jsonl", *rows)))
    assert which == Task("line 1", "", "Which?", (), expected=Expected(("this",)), system="Be brief.")
    assert many == Task("line 2", "", "How many?", (), expected=Expected(("1", "1000.5"), "number"), system="")
    assert whose == Task("line 3", "s", "Whose?", (), expected=Expected(("mine|ours",), "regex"))


def test_a_pattern_that_takes_for_ever_to_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matching, "PATTERN_SECONDS", 0.3)
    slow = "(?i)" + "[\x00-\U0010ffff]" * 600
    rows = [{**GOOD}, *({"instruction": "x", "answer": slow, "match": "regex"} for _ in range(3)), {"tests": 1}]
    one, other = problems_of(write_tasks(tmp_path / "tasks.jsonl", *rows))
    assert one.where.endswith(":2") and "takes more than 0.3 s to read" in one.found and "3)" in one.found
    assert other.where.endswith(":5")


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
        ({"instruction": "x"}, "it has neither tests nor an answer"),
        ({"instruction": "x", "expected": "y"}, "it has expected: call that answer"),
        ({"instruction": "x", "tests": []}, "tests is missing or empty"),
        ({**GOOD, "answer": "x"}, "it has tests and an answer"),
        ({**GOOD, "match": "exact"}, "match is there, and no answer"),
        ({**GOOD, "system": 1}, "system is no text"),
        ({**GOOD, "system": "half \ud800"}, "system has half a character"),
        ({"instruction": "x", "answer": " "}, "answer is empty"),
        ({"instruction": "x", "answer": []}, "answer is empty"),
        ({"instruction": "x", "answer": ["y", ""]}, "answer is empty"),
        ({"instruction": "x", "answer": "", "match": "number"}, "answer is empty"),
        ({"instruction": "x", "answer": 3}, 'answer is a number: add "match": "number"'),
        ({"instruction": "x", "answer": True}, "answer is no text, and no list of texts"),
        ({"instruction": "x", "answer": "half \ud800"}, "answer has half a character"),
        ({"instruction": "x", "answer": "4 or 5", "match": "number"}, "answer is not one number: 4 or 5"),
        ({"instruction": "x", "answer": [4, True], "match": "number"}, "answer is not one number: True"),
        ({"instruction": "x", "answer": "1e999", "match": "number"}, "answer is not one number: 1e999"),
        (
            {"instruction": "x", "answer": "y", "match": "fuzzy"},
            "match is 'fuzzy', not exact, contains, number or regex",
        ),
        ({"instruction": "x", "answer": "(y", "match": "regex"}, "answer is no usable pattern: missing )"),
        ({"instruction": "x", "answer": ["y", "z*"], "match": "regex"}, "it is found in an empty answer too: z*"),
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


def test_what_is_wrong_with_many_lines_is_said_once(tmp_path):
    path = write_tasks(tmp_path / "tasks.jsonl", {"a": 1}, GOOD, *[{"a": 1}] * 3, {**GOOD, "split": 1})
    first, second = problems_of(path)
    assert first.where == f"{path}:1" and first.found.endswith("(and 3 more, the next in line 3)")
    assert second.where == f"{path}:6" and "more" not in second.found


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "empty", "gz"])
def test_a_file_that_holds_no_tasks(tmp_path, kind):
    path = tmp_path / ("tasks.jsonl.gz" if kind == "gz" else "tasks.jsonl")
    if kind == "gz":
        path.write_bytes(gzip.compress(b"{}" * 99)[:-9])
    if kind == "folder":
        path.mkdir()
    if kind in ("binary", "empty"):
        path.write_bytes(b"\xff\xfe\x00" if kind == "binary" else b"\n\n")
    (problem,) = problems_of(path)
    assert problem.code == "E-EVAL-021" and problem.where == str(path)


def test_a_misspelt_set_is_recognised():
    (problem,) = problems_of("quikstart")
    assert problem.code == "E-EVAL-021" and problem.fix == "did you mean quickstart?"


def test_built_in_tasks_are_sound():
    tasks = load_tasks("quickstart")
    assert len(tasks) >= 20 and len({task.task_id for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.split and task.reference and task.entry_point
        assert all(task.entry_point in test for test in task.tests)


# Published sets: rows of our own in their formats -------------------------------------------------------------------

MBPP_ROWS = [
    {"task_id": 2, "text": "Write a function to add.", "code": "def add(a, b):\r\n\treturn a + b",
     "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "", "challenge_test_list": []},
    {"task_id": 3, "text": "Write a function to negate.", "code": "def negate(a):\n    return -a",
     "test_list": ["assert negate(1) == -1"], "test_setup_code": ""},
    {"task_id": 11, "text": "Write a function to sum two numbers. ", "code": "def sum(a, b):\n    return a + b",
     "test_list": ["assert sum(1, 2) == 3", "assert sum(0, 0) == 0"], "test_setup_code": ""},
    {"task_id": 510, "text": "Write a function to find the depth of a tree.",
     "code": "class Node:\n    def __init__(self, left=None):\n        self.left = left\n"
             "def depth(n):\n    return 1 + depth(n.left) if n else 0",
     "test_list": ["assert (depth(root)) == 2"], "test_setup_code": "root = Node(Node())\r\n"},
    {"task_id": 511, "text": "Write a function to halve.", "code": "def halve(a):\n    return a / 2",
     "test_list": ["assert halve(3) == 1.5", "assert '\\d' != halve(1)"], "test_setup_code": ""},
]  # fmt: skip
HUMANEVAL_ROWS = [
    {"task_id": "HumanEval/0", "entry_point": "twice", "prompt": "from typing import List\n\n\ndef twice(x: List) -> "
     'List:\n    """ Give x two times.\n    """\n', "canonical_solution": "    return x + x\n",
     "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1]) == [1, 1]\n"},
    {"task_id": "HumanEval/1", "entry_point": "root", "prompt": "def value(c, x):\n    return c[0] + c[1] * x\n\n\n"
     'def root(c):\n    """ Where value(c, x) is 0. """\n', "canonical_solution": "    return -c[0] / c[1]\n",
     "test": "def check(candidate):\n    for a in range(1, 9):\n        assert abs(value([a, 2], candidate([a, 2]))) < "
             "1e-9\n"},
]  # fmt: skip


@pytest.fixture
def mbpp(tmp_path):
    return write_tasks(tmp_path / "mbpp.jsonl", *MBPP_ROWS)


@pytest.fixture
def humaneval(tmp_path):
    path = tmp_path / "HumanEval.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in HUMANEVAL_ROWS).encode()))
    return path


def test_mbpp_has_the_splits_of_its_paper(mbpp):
    by_split = {split: [t.task_id for t in load_tasks(f"mbpp:{split}={mbpp}")] for split in ("prompt", "test", "all")}
    assert by_split["prompt"] == ["MBPP/2", "MBPP/3"] and by_split["test"] == ["MBPP/11", "MBPP/510"]
    assert len(by_split["all"]) == 5 and load_tasks(f"mbpp={mbpp}") == load_tasks(f"mbpp:test={mbpp}")
    (problem,) = problems_of(f"mbpp:train={mbpp}")
    assert problem.code == "E-EVAL-021" and problem.fix == "splits are: all, prompt, test, validation"


def test_mbpp_is_asked_as_in_its_paper(mbpp):
    task, tree = load_tasks(f"mbpp={mbpp}")
    sentence = (
        "You are an expert Python programmer, and here is your task: Write a function to sum two numbers. Your code "
        "should pass these tests:\n\nassert sum(1, 2) == 3\nassert sum(0, 0) == 0"
    )
    assert task.instruction == sentence and task.entry_point == "sum"
    assert task.completion.prompt.endswith(f"[DONE]\n\n{sentence}\n[BEGIN]\n")
    assert task.completion.stops == ("[DONE]",)
    assert task.completion.prompt.count("[BEGIN]") == 3 and "\r" not in task.completion.prompt
    assert "[BEGIN]\ndef add(a, b):\n\treturn a + b\n[DONE]" in task.completion.prompt
    assert tree.tests == ("root = Node(Node())\n", "assert (depth(root)) == 2") and tree.entry_point == "depth"


def test_humaneval_is_asked_in_both_ways(humaneval):
    twice, root = load_tasks(f"humaneval={humaneval}")
    prompt = HUMANEVAL_ROWS[0]["prompt"]
    assert (twice.completion.prompt, twice.completion.head) == (prompt, prompt) and "\ndef" in twice.completion.stops
    assert f"```python\n{prompt.strip()}\n```" in twice.instruction
    assert twice.preamble == "from typing import List\n\n\n" and root.preamble.startswith("def value(c, x):")


@pytest.mark.parametrize("style", ["template", "completion"])
def test_honest_answers_pass_and_broken_ones_do_not(mbpp, humaneval, style):
    sets = load_sets(f"mbpp:all={mbpp},humaneval={humaneval}")
    assert [one.name for one in sets] == ["mbpp:all", "humaneval"]
    with Sandbox(unsafe=True) as sandbox:
        for one in sets:
            right, wrong = {}, {}
            for task in one.tasks:
                asked = task.instruction if style == "template" else task.completion.prompt
                head = task.completion.head if style == "completion" else task.preamble
                right[asked] = task.reference.removeprefix(head)
                wrong[asked] = right[asked].replace("return", "return None #")
            settings = Settings(style=style)
            assert score(Known(right), one.tasks, sandbox, settings).pass_at_1.share == 1
            assert score(Known(wrong), one.tasks, sandbox, settings).pass_at_1.share == 0


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "mbpp.jsonl").is_file(), reason="mbpp.jsonl and HumanEval.jsonl.gz are not in ../shared"
)
def test_every_published_solution_passes():
    for one in load_sets(f"mbpp:all={DATA / 'mbpp.jsonl'},humaneval={DATA / 'HumanEval.jsonl.gz'}"):
        assert len(one.tasks) in (974, 164)
        with Sandbox(unsafe=True) as sandbox:
            verdicts = sandbox.run([Program(task.reference, task.tests, task.entry_point) for task in one.tasks])
        assert [t.task_id for t, verdict in zip(one.tasks, verdicts, strict=True) if not verdict.passed] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**MBPP_ROWS[2], "task_id": 0}, "task_id is 0, not a number from 1 to 974"),
        ({**MBPP_ROWS[2], "text": ""}, "text is missing or empty"),
        ({**MBPP_ROWS[2], "code": "def"}, "code is no Python"),
        ({**MBPP_ROWS[2], "test_list": []}, "tests is missing or empty"),
    ],
)
def test_a_wrong_row_of_mbpp_is_named(tmp_path, row, words):
    path = write_tasks(tmp_path / "mbpp.jsonl", MBPP_ROWS[0], row)
    (problem,) = problems_of(f"mbpp={path}")
    assert problem.code == "E-EVAL-022" and problem.where == f"{path}:2" and words in problem.found


def test_a_wrong_row_of_humaneval_is_named(tmp_path):
    path = write_tasks(tmp_path / "HumanEval.jsonl", {**HUMANEVAL_ROWS[0], "entry_point": "thrice"})
    (problem,) = problems_of(f"humaneval={path}")
    assert problem.code == "E-EVAL-022" and "prompt does not define thrice" in problem.found


@pytest.mark.parametrize("name", ["mbpp", "humaneval"])
def test_e_eval_024_a_set_that_the_hub_does_not_give(name):
    (problem,) = problems_of(name)
    assert problem.code == "E-EVAL-024" and f"--tasks {name}=FILE" in problem.fix and "https://" in problem.fix


def test_a_file_for_tasks_that_have_none_and_a_request_for_none(tmp_path):
    assert problems_of("quickstart=x.jsonl")[0].fix == "write x.jsonl alone: --tasks x.jsonl"
    with pytest.raises(DataError) as caught:
        load_sets(" , ")
    assert caught.value.problems[0].code == "E-EVAL-021"


def test_each_set_of_a_request_comes_once_with_its_share():
    sets = load_sets("quickstart, quickstart:phrasing,quickstart", 30)
    assert [(one.name, len(one.tasks)) for one in sets] == [("quickstart", 30), ("quickstart:phrasing", 30)]
    assert {task.split for task in sets[1].tasks} == {"phrasing"}


def test_a_set_that_is_named_twice_is_refused():
    with pytest.raises(DataError, match="E-EVAL-021") as caught:
        load_sets("mbpp=a.jsonl,mbpp=b.jsonl")
    assert "mbpp is named twice" in str(caught.value)
