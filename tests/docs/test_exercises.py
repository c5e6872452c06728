"""Every "Try it" has a question and a folded answer, with numbers measured by the very commands that it prints."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text("utf-8") for page in sorted((ROOT / "guide" / "concepts").glob("*.md"))}
WITH_EXERCISE = {page: text.partition("## Try it\n")[2] for page, text in PAGES.items() if "## Try it\n" in text}
MEASURED = json.loads((ROOT / "guide/measured.json").read_text("utf-8"))
NUMBER = re.compile(r"\{\{ (\w+)\.(\w+)(?::\S+)? \}\}")


@pytest.fixture
def exercises(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "guide"))
    monkeypatch.chdir(ROOT)
    from measuring import exercises

    return exercises


def test_all_concepts_but_the_one_that_is_an_exercise_have_one():
    assert set(PAGES) - set(WITH_EXERCISE) == {"one-step"}


@pytest.mark.parametrize("page", WITH_EXERCISE)
def test_it_asks_and_answers_with_numbers_that_were_measured(page):
    task, folded, answer = WITH_EXERCISE[page].partition('<details markdown="1">\n<summary>')
    assert folded and ("?" in task or "?" in answer.partition("</summary>\n\n")[0])
    assert answer.endswith("\n\n</details>\n")
    used = NUMBER.findall(answer)
    assert used and all(key in MEASURED[name] for name, key in used)


def test_the_numbers_are_those_of_the_commands_on_the_page(exercises):
    lines = {page: exercises.command_lines(page) for page in PAGES}
    assert {page for page in lines if lines[page]} == set(exercises.ANSWERS)
    for page in exercises.ANSWERS:
        name = f"try_{page.replace('-', '_')}"
        numbers = dict(MEASURED[name])
        assert numbers.pop("commands") == lines[page], f"python guide/measure.py {name}"
        assert numbers and all(math.isfinite(number) for number in numbers.values())
        assert name in {experiment for experiment, _ in NUMBER.findall(WITH_EXERCISE[page])}


def test_every_experiment_can_still_be_run(exercises):
    import measure

    assert set(MEASURED) - {"machine"} <= set(measure.EXPERIMENTS)


def test_what_is_run_is_what_is_printed(exercises):
    for page in exercises.ANSWERS:
        block = exercises.BLOCK.search(PAGES[page])
        assert block and [line for line in block[1].splitlines() if line.startswith("luthier")]
        assert block[0].startswith("## Try it") and "\n## " not in block[0][3:]
