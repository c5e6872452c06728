"""Answers that are texts: what counts as right, and that no pattern can hold anything up."""

from __future__ import annotations

import sys
import time

import pytest

from luthier.errors import RunError
from luthier.evaluate import matching
from luthier.evaluate.matching import Expected, judge, last_number, only_number, search


@pytest.mark.parametrize(
    ("match", "texts", "answer", "right"),
    [
        ("exact", ["positive"], "  Positive\n", True),
        ("exact", ["New  York"], "new york", True),
        ("exact", ["４２"], "42", True),
        ("exact", ["positive", "good"], "good", True),
        ("exact", ["positive"], "positive.", False),
        ("exact", ["positive"], "", False),
        ("contains", ["new york"], "It is New\nYork.", True),
        ("contains", ["no"], "I know", True),
        ("contains", ["Paris", "Rome"], "London", False),
        ("number", ["42"], "6 times 7 is 42.", True),
        ("number", ["42"], "42, as 6 times 7", False),
        ("number", ["1000000"], "1,000,000.5", True),
        ("number", ["1000000"], "1,000,002", False),
        ("number", ["0"], "-0.0", True),
        ("number", ["3", "4"], "4", True),
        ("number", ["3"], "three", False),
        ("regex", [r"\bno\b"], "I know", False),
        ("regex", [r"\bno\b"], "No", False),
        ("regex", [r"(?i)\bno\b"], "well, No.", True),
        ("regex", [r"^\d{4}-\d\d-\d\d$"], "2024-05-06\n", True),
        ("regex", ["a", "b"], "cb", True),
    ],
)
def test_what_is_right(match, texts, answer, right):
    (verdict,) = judge([(Expected(tuple(texts), match), answer)])
    assert (verdict.passed, verdict.cause) == (right, "passed" if right else "wrong answer")
    assert right or all(text in verdict.detail for text in texts)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,234.5 eggs", 1234.5), ("10-5", 5), ("x=-5", -5), ("a - 5", 5), ("\u22125", -5), ("v.5", 0.5), ("1,2345", 2345),
     ("50%", 50), ("2E-5.", 2e-5), ("5 m\u00b2", 5), ("(3)-2", 2), ("none", None)],
)  # fmt: skip
def test_the_last_number(text, number):
    assert last_number(text) == number


def test_only_one_number_is_a_number():
    assert [only_number(text) for text in ("4", " 1,000", "4 5", "nan", "1e999", "")] == ["4", "1000", "", "", "", ""]


def test_a_pattern_without_end_is_ended_and_its_neighbours_are_judged(monkeypatch):
    monkeypatch.setattr(matching, "PATTERN_SECONDS", 0.5)
    endless = Expected((r"(a+)+$",), "regex")
    started = time.monotonic()
    verdicts = judge([
        (Expected(("b",), "regex"), "abc"), (endless, "a" * 60 + "b"), (Expected(("x",)), "x"), (endless, "aaa"),
        (endless, "a" * 60 + "b"),
    ])  # fmt: skip
    assert [verdict.cause for verdict in verdicts] == ["passed", "timeout", "passed", "passed", "timeout"]
    assert "takes more than 0.5 s on this answer" in verdicts[1].detail and time.monotonic() - started < 20


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on memory")
def test_a_pattern_that_eats_memory_is_a_verdict(monkeypatch):
    monkeypatch.setattr(matching, "_MEMORY_MIB", 64)
    (verdict,) = judge([(Expected(("(?:(a)|b)*c",), "regex"), "ab" * 1_000_000)])
    assert verdict.cause == "memory" and not verdict.passed


@pytest.mark.parametrize("child", ["import sys; sys.exit('no memory')", "import os; os.abort()"])
def test_e_eval_030_no_process_for_patterns(monkeypatch, child):
    monkeypatch.setattr(matching, "_CHILD", child)
    with pytest.raises(RunError, match="E-EVAL-030"):
        search([(("a",), "a")])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunError, match="E-EVAL-030"):
        search([(("a",), "a")])
    assert search([]) == []
