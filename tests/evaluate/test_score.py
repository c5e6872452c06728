"""Counting: what is code, what passed, in which split, with which cause."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import psutil
import pytest

from luthier.evaluate.answers import Answers
from luthier.evaluate.extract import code_of
from luthier.evaluate.sandbox import Sandbox
from luthier.evaluate.score import Settings, as_dict, score
from luthier.evaluate.statistics import wilson
from luthier.evaluate.tasks import Completion, Task
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


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are counted otherwise")
@pytest.mark.parametrize(("cores", "free_mib", "workers"), [(1, 9999, 2), (4, 9999, 4), (64, 9999, 8), (64, 1600, 3)])
def test_as_many_programs_run_at_once_as_have_a_core_and_memory(sandbox, monkeypatch, cores, free_mib, workers):
    class Heard:
        tier, seen = "", set()

        def run(self, programs, workers=0):
            self.seen.add(workers)
            return sandbox.run(programs, 2)

    memory = psutil.virtual_memory()._replace(available=free_mib << 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    score(Known(RIGHT), TASKS, Heard())
    assert Heard.seen == {workers}


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
    scores = score(writer, [DOUBLE], sandbox, Settings(samples=4, temperature=0.8))
    assert [o.verdict.passed for o in scores.outcomes] == [True, False, False, True]
    assert scores.pass_at_1.share == 0.5
    assert scores.pass_at(2).share == pytest.approx(5 / 6)
    assert scores.pass_at(3).share == 1


def test_progress_is_told_to_the_end(sandbox):
    heard = []
    many = [replace(DOUBLE, task_id=f"d{i}") for i in range(20)]  # one question, so one answer, run 20 times
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
    assert content["prompt_style"] == "template" and content["settings"]["samples"] == 1


# How a model is asked -------------------------------------------------------------------------------------------------

LIST = Task(
    "list", "", "Complete twice", ("assert twice([1]) == [1, 1]",), "twice", preamble="from typing import List\n\n",
    completion=Completion("from typing import List\n\ndef twice(x: List) -> List:\n", ("\ndef",), "from typing import "
                          "List\n\ndef twice(x: List) -> List:\n"),
)  # fmt: skip


def test_in_a_template_what_the_question_gives_stands_above_the_answer(sandbox):
    answer = "```python\ndef twice(x: List) -> List:\n    return x + x\n```"
    assert score(Known({"Complete twice": answer}), [LIST], sandbox).pass_at_1.share == 1
    bare = replace(LIST, preamble="")
    assert score(Known({"Complete twice": answer}), [bare], sandbox).causes == {"exception": 1}


def test_a_completion_goes_on_with_the_prompts_code(sandbox):
    writer = Known({LIST.completion.prompt: "    return x + x\n"})
    scores = score(writer, [LIST], sandbox, Settings(style="completion"))
    assert scores.pass_at_1.share == 1 and as_dict(scores)["prompt_style"] == "completion"


def test_a_task_without_a_completion_of_its_own_is_asked_under_a_docstring(sandbox):
    writer = Known({'"""\nWrite double\n"""\n': RIGHT["Write double"]})
    assert score(writer, [DOUBLE], sandbox, Settings(style="completion")).pass_at_1.share == 1


# What is known from before --------------------------------------------------------------------------------------------


class Dying(Known):
    """Is killed when it has answered so many questions."""

    def __init__(self, answers, lives):
        super().__init__(answers)
        self.lives = lives

    def generate_many(self, instructions, max_new_tokens, temperature, seed, heard):
        def killed(*told):
            heard(*told)
            if len(self.asked) == self.lives:
                raise KeyboardInterrupt

        return super().generate_many(instructions, max_new_tokens, temperature, seed, killed)


MANY = [replace(DOUBLE, task_id=f"d{i}", instruction=f"Write double {i}") for i in range(80)]
DOUBLES = {task.instruction: RIGHT["Write double"] for task in MANY}


@pytest.mark.parametrize("samples", [1, 2])
def test_what_was_stopped_goes_on_and_nothing_is_asked_twice(sandbox, monkeypatch, tmp_path, samples):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = Settings(samples=samples, temperature=0.5 * (samples > 1))
    first = Dying(DOUBLES, 32)
    with pytest.raises(KeyboardInterrupt):
        score(first, MANY, sandbox, settings, answers=Answers({"model": 1}))
    assert len(first.asked) == 32
    second = Known(DOUBLES)
    scores = score(second, MANY, sandbox, settings, answers=Answers({"model": 1}))
    assert scores.pass_at_1.tasks == 80 and scores.remembered == 32 and len(second.asked) == 80 * samples - 32
    third = Known({})
    again = score(third, MANY, sandbox, settings, answers=Answers({"model": 1}))
    assert third.asked == [] and again.remembered == 80 * samples
    assert [o.answer for o in again.outcomes] == [o.answer for o in scores.outcomes]
    assert len(Answers({"model": 2})._known) == 0 == len(Answers({"model": 1}, fresh=True)._known)


def test_other_settings_are_other_answers(sandbox, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for settings in (
        Settings(),
        Settings(max_new_tokens=9),
        Settings(temperature=0.5),
        Settings(temperature=0.5, seed=1),
    ):
        writer = Known(RIGHT)
        score(writer, [DOUBLE], sandbox, settings, answers=Answers({"model": 1}))
        assert writer.asked == ["Write double"], settings


def test_each_draw_has_a_seed_of_its_own(sandbox):
    """Two answers to one task from the same seed would be one answer counted twice."""
    seeds = []

    class Seeded(Known):
        def generate_many(self, instructions, max_new_tokens, temperature, seed, heard):
            seeds.extend(seed)
            return super().generate_many(instructions, max_new_tokens, temperature, seed, heard)

    score(Seeded(RIGHT), TASKS, sandbox, Settings(samples=5, temperature=0.5))
    assert len(set(seeds)) == len(seeds) == 5 * len(TASKS)
    once = list(seeds)
    score(Seeded(RIGHT), TASKS, sandbox, Settings(samples=5, temperature=0.5))
    assert seeds == once * 2
