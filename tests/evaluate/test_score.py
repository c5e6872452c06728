"""Counting: what is code, what passed, in which split, with which cause."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from luthier.evaluate.extract import code_of
from luthier.evaluate.sandbox import Sandbox
from luthier.evaluate.score import as_dict, score
from luthier.evaluate.statistics import wilson
from tests.evaluate.support import DOUBLE, RIGHT, TASKS, Known

# What is code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("Sure:\n```python\ndef f():\n    return 1\n```\nIt returns 1.", "def f():\n    return 1"),
        ("```\na = 1\n```\n```\nb = 2\n```", "a = 1"),
        ("```python\na = 1", "a = 1"),
        ("````\na = '''\n```\n'''\n````", "a = '''\n```\n'''"),
        ("   ```py\r\na = 1\r\n   ```\r\n", "a = 1"),
        ("    ```\na = 1", "    ```\na = 1"),
        ("Use `f`:\n```inline``` code", "Use `f`:\n```inline``` code"),
        ("```\na = 1\n```python\nb = 2", "a = 1\n```python\nb = 2"),
        ("The code is\ndef f(): pass", "The code is\ndef f(): pass"),
        ("", ""),
        ("```", ""),
    ],
)
def test_the_rule(answer, code):
    assert code_of(answer) == code


@pytest.fixture(scope="module")
def sandbox():
    """The real one; where nothing can hold a program it runs these, which are ours, all the same."""
    with Sandbox(unsafe=True) as entered:
        yield entered


# Counting -------------------------------------------------------------------------------------------------------------


def test_right_answers_pass_and_the_numbers_are_counts(sandbox):
    scores = score(Known({**RIGHT, "Write triple": "def triple(x):\n    return 2 * x"}), TASKS, sandbox)
    assert [(o.task_id, o.split, o.verdict.passed) for o in scores.outcomes] == [
        ("double", "phrasing", True), ("halve", "phrasing", True), ("triple", "composition", False),
    ]  # fmt: skip
    rate = scores.pass_at_1
    assert (rate.share, rate.tasks, (rate.low, rate.high)) == (2 / 3, 3, wilson(2, 3))
    assert scores.splits == ("phrasing", "composition")
    assert scores.pass_at(split="phrasing").share == 1 and scores.pass_at(split="composition").share == 0
    assert scores.causes == {"passed": 2, "wrong answer": 1}
    assert scores.valid_syntax == 1
    assert scores.tier == sandbox.tier
    assert scores.writing_seconds >= 0 and scores.running_seconds > 0


def test_what_is_no_python_is_counted_as_that(sandbox):
    scores = score(Known({**RIGHT, "Write halve": "I cannot.", "Write triple": "x"}), TASKS, sandbox)
    assert scores.causes == {"passed": 1, "syntax": 1, "exception": 1}
    assert scores.valid_syntax == pytest.approx(2 / 3)


def test_several_answers_estimate_pass_at_k(sandbox):
    """2 of 4 answers are right: one of two drawn is, except when both are of the two wrong ones (1 in 6)."""
    right, wrong = RIGHT["Write double"], "def double(x):\n    return x"
    writer = Known({"Write double": [right, wrong, wrong, right]})
    scores = score(writer, [DOUBLE], sandbox, answers=4, temperature=0.8)
    assert [o.verdict.passed for o in scores.outcomes] == [True, False, False, True]
    assert scores.pass_at_1.share == 0.5
    assert scores.pass_at(2).share == pytest.approx(5 / 6)
    assert scores.pass_at(3).share == 1


def test_progress_is_told_to_the_end(sandbox):
    heard = []
    many = [replace(DOUBLE, task_id=f"d{i}") for i in range(20)]
    score(Known(RIGHT), many, sandbox, progress=lambda *told: heard.append(told))
    assert [t for t in heard if t[0] == "answers"][-1] == ("answers", 20, 20)
    runs = [done for what, done, total in heard if what == "runs" and total == 20]
    assert runs == sorted(runs) and runs[-1] == 20 and len(runs) > 1


def test_everything_goes_into_json(sandbox):
    scores = score(Known(RIGHT), TASKS, sandbox)
    content = json.loads(json.dumps(as_dict(scores), allow_nan=False))
    assert content["pass_at_1"] == {"share": 1.0, "low": wilson(3, 3)[0], "high": 1.0, "tasks": 3}
    assert content["by_split"]["composition"]["tasks"] == 1
    assert content["outcomes"][0]["answer"] == RIGHT["Write double"]
    assert content["outcomes"][0]["cause"] == "passed"
