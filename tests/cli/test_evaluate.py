"""`luthier evaluate` as users run it: on a run, on a plain model, stopped in the middle, and asked for too much."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from luthier.evaluate.answers import Answers
from luthier.evaluate.sandbox import Sandbox
from tests.cli.support import process, run_here
from tests.evaluate.support import write_tasks
from tests.generate.support import train_tiny

NUMBERS = range(1, 9)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_model_dir):
    """A run that learned the answers to all tasks of `tasks.jsonl`."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [{"instruction": f"Write f{n}", "input": "", "output": f"def f{n}():\n    return {n}"} for n in NUMBERS]
    tasks = [{"instruction": f"Write f{n}", "tests": [f"assert f{n}() == {n}"], "split": "ab"[n % 2]} for n in NUMBERS]
    train_tiny(
        folder / "run",
        tiny_model_dir,
        write_tasks(folder / "rows.jsonl", *rows),
        {"data": {"val_set_size": 0}, "evaluation": {"eval_steps": 0},
         "training": {"max_steps": 60, "learning_rate": 5e-3, "finetuning_type": "full"}},
    )  # fmt: skip
    write_tasks(folder / "tasks.jsonl", *tasks)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Answers are asked anew in each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def evaluate(capsys, taught, model, *arguments):
    tasks = ("--tasks", taught / "tasks.jsonl", "--max-new-tokens", 24, "--unsafe-local-execution")
    return run_here(capsys, "evaluate", model, *tasks, *arguments)


def test_a_run_that_learned_solves_what_it_learned(capsys, taught, tmp_path):
    result = evaluate(capsys, taught, taught / "run", "--json", tmp_path / "e.json")
    assert result.code == 0
    assert re.search(rf"^{re.escape(str(taught / 'tasks.jsonl'))} +8 +100.0 \(68 to 100\)$", result.out, re.M)
    assert re.search(r"^  b +4 +100.0", result.out, re.M) and "8 passed; 100% are Python" in result.out
    assert "in its chat template, greedy, one answer a task" in result.out and "loss rose from" in result.out
    content = json.loads((tmp_path / "e.json").read_text())
    (scores,) = content["scores"].values()
    assert content["prompt_style"] == "template" and content["forgetting"]["low"] > 0
    assert scores["pass_at"]["1"]["share"] == 1 and scores["outcomes"][1]["answer"] == "def f2():\n    return 2"
    assert content["tasks"][0]["count"] == 8


def test_tasks_of_text_answers_need_no_sandbox(capsys, taught, tmp_path, monkeypatch):
    monkeypatch.setattr(Sandbox, "__enter__", lambda self: pytest.fail("a sandbox was started"))
    rows = [
        {"prompt": "Write f1", "answer": "DEF f1():  return 1", "split": "a"},
        {"prompt": "Write f2", "answer": [7, 2], "match": "number", "split": "b"},
        {"prompt": "Write f3", "answer": r"return \d$", "match": "regex", "split": "b"},
        {"prompt": "Write f4", "answer": "return 5", "match": "contains", "split": "b"},
    ]
    tasks = ("--tasks", write_tasks(tmp_path / "texts.jsonl", *rows), "--max-new-tokens", 24)
    result = run_here(capsys, "evaluate", taught / "run", *tasks, "--json", tmp_path / "e.json")
    assert result.code == 0, result.err
    assert re.search(r"^ +b +3 +66.7 ", result.out, re.M) and "Python" not in result.out
    assert "3 passed, 1 wrong answer; written in" in result.out and "none was needed: nothing was run" in result.out
    content = json.loads((tmp_path / "e.json").read_text())
    (scores,) = content["scores"].values()
    assert scores["valid_syntax"] is None and scores["sandbox"] == ""
    assert scores["outcomes"][3]["detail"] == "expected return 5"
    assert content["tasks"][0]["asked"][1]["expected"] == {"texts": ["7", "2"], "match": "number"}
    pages = ("--html", tmp_path / "c.html", "--json", tmp_path / "c.json", "--show", 4)
    result = run_here(capsys, "compare", taught / "run", *tasks, *pages)
    assert result.code == 0 and "judged by comparing its text" in result.out and "Python" not in result.out
    assert "contains: return 5" in (tmp_path / "c.html").read_text()


def test_a_plain_model_is_asked_with_texts_to_go_on_from(capsys, taught, tiny_model_dir):
    result = evaluate(capsys, taught, tiny_model_dir, "--limit", 4)
    assert result.code == 0 and "as text to go on from" in result.out
    assert re.search(r" 4 +0.0 \(0 to 49\)", result.out) and re.search(
        r"^general  loss [\d.]+ nats a token$", result.out, re.M
    )


def test_a_model_trained_in_full_needs_no_base_to_be_measured(capsys, taught, tmp_path):
    moved = shutil.copytree(taught / "run" / "final_model", tmp_path / "moved")
    written = json.loads((moved / "luthier.json").read_text())
    (moved / "luthier.json").write_text(json.dumps({**written, "base": str(tmp_path / "gone")}))
    result = evaluate(capsys, taught, moved, "--limit", 2)
    assert result.code == 0 and re.search(r"^general  loss [\d.]+ nats a token$", result.out, re.M)


def test_several_answers_and_several_ks(capsys, taught, tmp_path):
    drawn = ("--samples", 4, "--temperature", 0.1, "--k", "1,4", "--json", tmp_path / "e.json")
    result = evaluate(capsys, taught, taught / "run", *drawn)
    assert result.code == 0 and re.search(r"pass@1 \(95 % CI\) +pass@4 \(95 % CI\)", result.out)
    (scores,) = json.loads((tmp_path / "e.json").read_text())["scores"].values()
    assert len(scores["outcomes"]) == 32 and scores["pass_at"]["4"]["share"] >= scores["pass_at"]["1"]["share"] > 0.5
    assert "temperature 0.1, 4 answers a task" in result.out


def test_pairs_of_its_own_answers(capsys, taught, tmp_path):
    drawn = ("--samples", 8, "--temperature", 1.5, "--pairs", tmp_path / "pairs.jsonl")
    result = evaluate(capsys, taught, taught / "run", *drawn, "--json", tmp_path / "e.json")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    (scores,) = json.loads((tmp_path / "e.json").read_text())["scores"].values()
    passed = {(o["answer"], o["passed"]) for o in scores["outcomes"] if not o["cut"]}
    assert rows and all({(row["chosen"], True), (row["rejected"], False)} <= passed for row in rows)
    assert re.search(rf"^pairs +{len(rows)} pairs? of {len(rows)} of 8 tasks", result.out, re.M)
    words = ("says nothing any more about a model", "objective: dpo", "format: preference", tmp_path / "pairs.jsonl")
    assert all(str(word) in result.out for word in words)
    assert str(taught / "run" / "final_model") in result.out and "luthier merge" not in result.out, "trained in full"


def test_no_pair_is_an_error_and_no_file(capsys, taught, tmp_path):
    drawn = ("--samples", 2, "--temperature", 0.01, "--pairs", tmp_path / "pairs.jsonl")
    result = evaluate(capsys, taught, taught / "run", *drawn)
    assert result.code == 2 and "E-EVAL-031" in result.err and "8 had only right answers" in result.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("drawn", [(), ("--samples", 2, "--temperature", 1.5)])
def test_killed_in_the_middle_it_goes_on_and_the_answers_are_the_same(
    capsys, taught, monkeypatch, tmp_path, cache, drawn
):
    straight = evaluate(capsys, taught, taught / "run", *drawn, "--json", tmp_path / "straight.json")
    for file in cache.rglob("*.jsonl"):
        file.unlink()
    once, kept = Answers.add, []

    def killed(self, new):
        if len(kept) == 3:
            raise KeyboardInterrupt
        kept.extend(new)
        once(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "add", killed)
        stopped = evaluate(capsys, taught, taught / "run", *drawn)
    assert stopped.code == 75 and "the same command goes on" in stopped.err and stopped.out == ""
    result = evaluate(capsys, taught, taught / "run", *drawn, "--json", tmp_path / "resumed.json")
    assert result.code == straight.code == 0 and "3 written earlier, the rest in " in result.out
    answers = [
        [outcome["answer"] for scores in json.loads((tmp_path / name).read_text())["scores"].values()
         for outcome in scores["outcomes"]] for name in ("straight.json", "resumed.json")
    ]  # fmt: skip
    assert answers[0] == answers[1]
    again = evaluate(capsys, taught, taught / "run", *drawn)
    assert "written earlier, run in" in again.out and ": loading" not in again.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere"], "E-MODEL-001"),
        (["MODEL", "--prompt", "template"], "E-EVAL-027"),
        (["MODEL", "--samples", "2"], "E-EVAL-026"),
        (["MODEL", "--k", "10"], "E-EVAL-026"),
        (["MODEL", "--tasks", "mbpp:tset=nowhere"], "E-EVAL-021"),
        (["MODEL", "--tasks", "mbpp"], "E-EVAL-024"),
        (["MODEL", "--json", "nowhere/e.json"], "E-ENV-002"),
        (["MODEL", "--k", "0"], "numbers from 1 on"),
        (["MODEL", "--pairs", "nowhere/p.jsonl"], "E-ENV-002"),
        (["MODEL", "--pairs", "p.jsonl"], "E-EVAL-031"),
        (["MODEL", "--pairs", "p.jsonl", "--samples", "8"], "E-EVAL-026"),
        (["MODEL", "--pairs", "p.jsonl", "--samples", "8", "--temperature", "1"], "E-EVAL-031"),
    ],
)
def test_wrong_requests(capsys, monkeypatch, tiny_model_dir, tmp_path, arguments, code):
    monkeypatch.chdir(tmp_path)
    words = [str(tiny_model_dir) if word == "MODEL" else word for word in arguments]
    result = run_here(capsys, "evaluate", "--unsafe-local-execution", *words)
    assert result.code == 2 and code in result.err and "Traceback" not in result.err
    assert result.out == "" and ": answers" not in result.err, "found before anything is asked"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "compare"])
@pytest.mark.parametrize("tasks", ["t.jsonl", "quickstart, t.jsonl", "mbpp=t.jsonl"])
def test_the_tasks_are_not_written_over(capsys, monkeypatch, tiny_model_dir, tmp_path, command, tasks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"prompt": "1 + 1", "answer": 2}\n')
    result = run_here(capsys, command, tiny_model_dir, "--tasks", tasks, "--json", "t.jsonl")
    assert result.code == 2 and "E-ENV-002" in result.err and "t.jsonl is what this command reads" in result.err
    assert (tmp_path / "t.jsonl").read_text().startswith('{"prompt"')


@pytest.mark.slow
def test_as_a_process_nothing_of_the_libraries_shows(taught, tmp_path, cache):
    tasks = ("--tasks", taught / "tasks.jsonl", "--max-new-tokens", 24, "--unsafe-local-execution")
    result = process("evaluate", taught / "run", *tasks, cwd=tmp_path, XDG_CACHE_HOME=str(cache))
    assert result.code == 0
    assert all(line.startswith(f"{taught / 'run'}: ") for line in result.err.splitlines()), result.err
    for words in ("Warning", "it/s", "transformers", "\x1b"):
        assert words not in result.out + result.err
    assert list(tmp_path.iterdir()) == []
