"""`luthier compare` as users run it, on models that really learned to answer right, or wrong."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.cli.support import process, run_here
from tests.evaluate.support import write_tasks
from tests.generate.support import train_tiny

NUMBERS = range(1, 9)
# bitsandbytes and tensorboard warn at import; the test of a whole process proves that a user sees none of it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Answers are asked anew in each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def lesson(path, wrong):
    """Rows that teach the answer to each task, right or off by one."""
    return write_tasks(
        path,
        *(
            {"instruction": f"Write f{n}", "input": "", "output": f"def f{n}():\n    return {n + wrong}"}
            for n in NUMBERS
        ),
    )


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_model_dir):
    """A folder with `right` (full fine-tuning of a model that knows nothing) and `wrong` (an adapter on `right`)."""
    folder = tmp_path_factory.mktemp("taught")
    shared = {"data": {"val_set_size": 0}, "evaluation": {"eval_steps": 0}}
    training = {"max_steps": 60, "learning_rate": 5e-3}
    right, wrong = lesson(folder / "right.jsonl", 0), lesson(folder / "wrong.jsonl", 1)
    full = {**training, "finetuning_type": "full"}
    train_tiny(folder / "right", tiny_model_dir, right, {**shared, "training": full})
    base = folder / "right" / "final_model"
    train_tiny(folder / "wrong", base, wrong, {**shared, "training": {**training, "learning_rate": 2e-2}})
    write_tasks(
        folder / "tasks.jsonl",
        *(
            {"task_id": f"f{n}", "split": "low" if n < 5 else "high", "instruction": f"Write f{n}",
             "tests": [f"assert f{n}() == {n}"]}
            for n in NUMBERS
        ),
    )  # fmt: skip
    return folder


def compare(capsys, folder, *arguments):
    tasks = ("--tasks", folder / "tasks.jsonl", "--max-new-tokens", 24, "--unsafe-local-execution")
    return run_here(capsys, "compare", *arguments, *tasks)


def test_a_run_that_cannot_be_loaded_costs_no_other(capsys, taught, tmp_path):
    broken = shutil.copytree(taught / "right", tmp_path / "broken")
    (broken / "final_model" / "tokenizer.json").write_text("{")
    result = compare(capsys, taught, taught / "right", broken, "--json", tmp_path / "c.json")
    assert result.code == 2 and "E-MODEL-012" in result.err
    assert len(json.loads((tmp_path / "c.json").read_text())["comparisons"]) == 1
    assert "raised pass@1" in result.out


def test_a_run_that_learned_is_better_and_one_that_unlearned_is_worse(capsys, taught, tmp_path):
    result = compare(capsys, taught, taught / "right", taught / "wrong", "--json", tmp_path / "c.json", "--samples", 1)
    assert result.code == 3, "one of them is significantly worse than its base"
    content = json.loads((tmp_path / "c.json").read_text())
    better, worse = content["comparisons"]
    rates = [(one["base"]["pass_at_1"]["share"], one["tuned"]["pass_at_1"]["share"]) for one in (better, worse)]
    assert rates == [(0.0, 1.0), (1.0, 0.0)]
    assert better["tuned"]["outcomes"][2]["answer"] == "def f3():\n    return 3"
    assert worse["tuned"]["causes"] == {"wrong answer": 8}
    assert worse["changes"][0]["lost"] == [f"f{n}" for n in NUMBERS]
    assert [change["split"] for change in worse["changes"]] == ["all", "low", "high"]
    assert worse["changes"][0]["p"] == pytest.approx(2 / 2**8)
    out = " ".join(result.out.split())
    for words in ("raised pass@1 from 0.0%", "lowered pass@1 from 100.0%", "exact McNemar p = 0.008"):
        assert words in out
    assert f"{taught / 'right'}: answers 8 of 8" in result.err
    assert "Traceback" not in result.out + result.err

    for words in ("with Holm's correction for 2 comparisons p = 0.016", "general loss rose from"):
        assert words in out


def test_a_base_for_all_and_several_sets_and_a_page(capsys, taught, tmp_path):
    right, page = taught / "right" / "final_model", tmp_path / "c.html"
    plain = shutil.copytree(right, tmp_path / "plain", ignore=shutil.ignore_patterns("luthier.json"))
    tasks = f"{taught / 'tasks.jsonl'},quickstart"
    words = ("--limit", 8, "--max-new-tokens", 24, "--unsafe-local-execution", "--html", page, "--forgetting", "none")
    result = run_here(capsys, "compare", plain, taught / "wrong", "--tasks", tasks, *words)
    assert result.code == 3 and result.out.count(f"beside its base {plain}") == 2
    verdicts = " ".join(result.out.split())
    assert "lowered pass@1" in verdicts and "no effect of fine-tuning on pass@1 was shown" in verdicts
    assert "general" not in verdicts and "comparisons p = 0.016" in verdicts
    html = page.read_text()
    assert html.count('<p class="verdict') == 2 and "def f3():\n    return 4" in html and "<script" not in html


def test_what_was_answered_is_not_asked_again(capsys, taught):
    first = compare(capsys, taught, taught / "right")
    again = compare(capsys, taught, taught / "right")
    assert first.err.count(": loading") == 1 and ": loading" not in again.err
    assert again.out.count("written earlier") == 2 and "8 of 8" in again.err
    assert compare(capsys, taught, taught / "right", "--fresh").err.count(": loading") == 1


def test_better_alone_ends_well_and_a_limit_asks_less(capsys, taught):
    result = compare(capsys, taught, taught / "right", "--limit", 4)
    assert result.code == 0
    lines = result.out[result.out.index("On 4 tasks") :].splitlines()
    verdict = " ".join(lines)
    assert "too few to show any effect of fine-tuning on pass@1" in verdict and "at least 6 tasks" in verdict
    assert len(lines) > 1 and max(map(len, lines)) <= 120, "wrapped in a pipe, too"


def test_tasks_that_nobody_named_are_said_and_how_to_name_them(capsys, taught):
    words = ("--limit", 2, "--max-new-tokens", 4, "--unsafe-local-execution", "--forgetting", "none")
    unnamed = run_here(capsys, "compare", taught / "right", *words)
    assert unnamed.code == 0
    assert unnamed.err.startswith("tasks: 2 of quickstart, which ask for Python functions; none were named. --tasks ")
    assert "none were named" in run_here(capsys, "evaluate", taught / "right", *words).err
    named = run_here(capsys, "compare", taught / "right", "--tasks", "quickstart", *words)
    assert named.code == 0 and "named" not in named.err


def test_runs_on_one_base_share_its_answers(capsys, taught):
    result = compare(capsys, taught, taught / "right", taught / "right" / "final_model", "--limit", 2)
    assert result.code == 0
    assert result.err.count("base of ") == result.err.count(f"base of {taught / 'right'}:") > 0
    assert result.out.count("beside its base") == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere"], "E-MODEL-012"),
        (["RIGHT", "nowhere"], "E-MODEL-012"),
        (["RIGHT", "--tasks", "quikstart"], "E-EVAL-021"),
        (["RIGHT", "--json", "nowhere/c.json"], "E-ENV-002"),
        (["RIGHT", "--base", "nowhere"], "E-MODEL-001"),
        (["nowhere", "RIGHT"], "E-MODEL-001"),
        (["RIGHT", "--html", "nowhere/c.html"], "E-ENV-002"),
        (["RIGHT", "--tasks", "humaneval"], "E-EVAL-024"),
        (["RIGHT", "--forgetting", "nowhere"], "E-EVAL-028"),
    ],
)
def test_wrong_requests(capsys, monkeypatch, taught, tmp_path, arguments, code):
    monkeypatch.chdir(tmp_path)
    words = [str(taught / "right") if word == "RIGHT" else word for word in arguments]
    result = run_here(capsys, "compare", "--unsafe-local-execution", *words)
    assert result.code == 2 and code in result.err and "Traceback" not in result.err
    assert result.out == "" and ": answers" not in result.err, "found before anything is asked"
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_base_needs_to_be_told_one(capsys, taught, tmp_path, tiny_model_dir):
    folder = shutil.copytree(taught / "right" / "final_model", tmp_path / "scratch")
    written = json.loads((folder / "luthier.json").read_text())
    (folder / "luthier.json").write_text(json.dumps({**written, "base": None}))
    result = compare(capsys, taught, folder, "--limit", 2)
    assert result.code == 2 and "E-EVAL-023" in result.err
    assert compare(capsys, taught, folder, "--limit", 2, "--base", tiny_model_dir).code == 0


@pytest.mark.slow
def test_as_a_process_nothing_of_the_libraries_shows(taught, tmp_path):
    tasks = ("--tasks", taught / "tasks.jsonl", "--limit", 3, "--max-new-tokens", 24, "--unsafe-local-execution")
    result = process("compare", taught / "right", *tasks, cwd=tmp_path)
    assert result.code == 0
    stages = {"loading", "base", "answers", "runs"}
    assert all(stages & set(line.replace(":", " ").split()) for line in result.err.splitlines()), result.err
    for words in ("Warning", "it/s", "transformers", "\x1b"):
        assert words not in result.out + result.err
    assert list(tmp_path.iterdir()) == []
