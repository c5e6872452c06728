"""Answers survive kills, full disks and strangers in their file."""

from __future__ import annotations

import json

import pytest

from luthier.evaluate.answers import Answers

ABOUT = {"weights": {"model.safetensors": "abc"}, "device": "cpu"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "luthier" / "answers"


def test_what_was_added_is_there_again(cache):
    answers = Answers(ABOUT)
    assert answers.path.parent == cache
    answers.add({"a": "one\n\u2028\ud800", "b": [[1.5, 2]]})
    again = Answers(ABOUT)
    assert again["a"] == "one\n\u2028\ud800" and again["b"] == [[1.5, 2]] and "c" not in again
    assert json.loads(answers.path.read_text().splitlines()[0]) == {"about": ABOUT}
    assert "a" not in Answers({**ABOUT, "device": "cuda"})


def test_half_a_line_costs_that_line_only():
    answers = Answers(ABOUT)
    answers.add({"a": "one", "b": "two"})
    answers.path.write_bytes(answers.path.read_bytes()[:-5])
    after = Answers(ABOUT)
    assert "a" in after and "b" not in after
    after.add({"b": "two", "c": "three"})
    assert [name in Answers(ABOUT) for name in "abc"] == [True] * 3


def test_what_is_no_answer_is_passed_over():
    answers = Answers(ABOUT)
    answers.add({"a": "one"})
    with answers.path.open("ab") as file:
        file.write(b'\xff\xfe\n[]\n3\n{"key": "x"}\nnull\n{"key": "d", "value": "four"}\n')
    after = Answers(ABOUT)
    assert after["a"] == "one" and after["d"] == "four" and "x" not in after


def test_a_folder_that_cannot_be_written_costs_no_answer(cache):
    cache.parent.mkdir()
    cache.write_text("a file is in the way")
    answers = Answers(ABOUT)
    answers.add({"a": "one"})
    assert answers["a"] == "one" and "a" not in Answers(ABOUT)


def test_nothing_is_kept_of_a_model_that_is_not_named(cache):
    Answers().add({"a": "one"})
    assert not cache.exists()
