"""Pairs out of a model's own answers: which two, which none, and that training reads what the model was asked."""

from __future__ import annotations

import json

import pytest

import luthier
from luthier import api
from luthier.errors import ModelError
from luthier.evaluate.pairs import pairs_of
from luthier.evaluate.sandbox.types import Verdict
from luthier.evaluate.score import Outcome, Scores, Settings
from luthier.evaluate.tasks import Task, TaskSet
from luthier.generate.load import load
from luthier.generate.system import first_turn
from luthier.ingredients import ingredients
from luthier.machine.probe import probe
from tests.evaluate.support import write_tasks
from tests.generate.support import tiny_config, train_tiny

PASSED = Verdict(True, "passed", "", 0.1)
WRONG = Verdict(False, "wrong answer", "", 0.1)
LATE = Verdict(False, "timeout", "", 9.0)
DRAWN = Settings(samples=8, temperature=0.8)


def scored(answers, settings=DRAWN, **task):
    """A set of tasks with these (text, verdict, cut?) each."""
    tasks = tuple(Task(name, "", f"Write {name}", ("assert f()",), **task) for name in answers)
    outcomes = [Outcome(name, "", text, verdict, bool(task.get("expected")), bool(cut))
                for name, several in answers.items() for text, verdict, *cut in several]  # fmt: skip
    return TaskSet("mine", tasks), Scores(tuple(outcomes), "", settings, 0.0, 0.0)


def texts(pairs):
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in pairs.rows]


def test_the_first_answer_that_passed_and_the_first_that_failed():
    found = pairs_of([scored({
        "both": [("bad 1", WRONG), ("good 1", PASSED), ("bad 2", WRONG), ("good 2", PASSED), ("bad 3", WRONG)],
        "right": [("good", PASSED), ("better", PASSED)],
        "wrong": [("bad", WRONG), ("worse", WRONG)],
    })])  # fmt: skip
    assert texts(found) == [("Write both", "good 1", "bad 1")] and list(found.rows[0]) == [
        "prompt",
        "chosen",
        "rejected",
    ]
    assert (found.tasks, found.paired, found.only_right, found.only_wrong, found.neither) == (3, 1, 1, 1, 0)


@pytest.mark.parametrize(("per_task", "count"), [(1, 1), (2, 2), (9, 2)])
def test_several_pairs_of_a_task_share_no_answer(per_task, count):
    answers = [("g", PASSED), ("b1", WRONG), ("b2", WRONG), ("g", PASSED), ("h", PASSED), ("b1", WRONG), ("b3", WRONG)]
    assert (
        texts(pairs_of([scored({"t": answers})], per_task)) == [("Write t", "g", "b1"), ("Write t", "h", "b2")][:count]
    )


def test_an_answer_that_did_not_end_is_on_neither_side():
    found = pairs_of([scored({
        "a": [("good, and", PASSED, True), ("good", PASSED), ("bad, and", WRONG, True), ("bad", WRONG)],
        "b": [("good, and", PASSED, True), ("bad", WRONG)],
        "c": [("good, and", PASSED, True), ("bad, and", WRONG, True)],
    })])  # fmt: skip
    assert texts(found) == [("Write a", "good", "bad")]
    assert (found.cut, found.unclear, found.only_wrong, found.neither) == (5, 0, 1, 1)


def test_without_a_clear_verdict_it_is_on_neither_side():
    """Out of time; empty; and the same code that passed once and failed once, whatever stands around it."""
    fenced = "Here:\n```python\nreturn now()\n```\nDone."
    found = pairs_of([scored({
        "late": [("good", PASSED), ("while 1: pass", LATE), ("  \n", WRONG)],
        "luck": [("return now()", PASSED), (fenced, WRONG), ("good", PASSED), ("bad", WRONG)],
    })])  # fmt: skip
    assert texts(found) == [("Write luck", "good", "bad")]
    assert (found.unclear, found.only_right) == (4, 1)


def test_the_same_code_is_the_same_answer_and_stays_as_it_was_written():
    found = pairs_of([scored({"t": [("```\na\n```", PASSED), ("a", PASSED), ("b\n", WRONG), ("c", WRONG)]})], 2)
    assert texts(found) == [("Write t", "```\na\n```", "b\n")], "one content passed, so there is one pair"


def test_the_same_row_of_two_sets_is_one():
    same = {"t": [("good", PASSED), ("bad", WRONG)]}
    found = pairs_of([scored(same), scored(same)])
    assert len(found.rows) == 1 and found.paired == 2


def test_e_eval_031_what_can_make_no_pairs():
    for settings, words in ((Settings(), "one answer"), (Settings("completion", 9, 2, 0.8), "go on from")):
        with pytest.raises(ModelError, match="E-EVAL-031") as caught:
            pairs_of([scored({"t": [("good", PASSED), ("bad", WRONG)]}, settings)])
        assert words in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_training_reads_the_prompt_that_was_asked_and_the_answer_with_its_end(
    tiny_model_dir, tmp_path, monkeypatch, system
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = {f"Say {n}": str(n) for n in (1, 2)}
    rows = [{"messages": [*first_turn(text, system), {"role": "assistant", "content": answer}]}
            for text, answer in asked.items()]  # fmt: skip
    run = tmp_path / "run"
    train_tiny(
        run, tiny_model_dir, write_tasks(tmp_path / "rows.jsonl", *rows * 8),
        {"data": {"val_set_size": 0}, "evaluation": {"eval_steps": 0},
         "training": {"max_steps": 14, "learning_rate": 5e-3, "finetuning_type": "full"}},
    )  # fmt: skip
    tasks = [{"prompt": text, "answer": "1"} for text in asked]
    tasks = write_tasks(tmp_path / "tasks.jsonl", *tasks)
    how = {"samples": 12, "temperature": 1.0, "max_new_tokens": 8, "forgetting": "none"}
    evaluation = luthier.score(run, str(tasks), **how)
    outcomes = evaluation.scores[0][1].outcomes
    tuned, pairs = load(run), evaluation.pairs(9)
    assert pairs.rows and pairs.cut == sum(outcome.cut for outcome in outcomes)
    file = write_tasks(tmp_path / "pairs.jsonl", *pairs.rows)
    config = tiny_config(tmp_path / "dpo", run / "final_model", file, {"data": {"val_set_size": 0},
                         "training": {"objective": "dpo"}, "evaluation": {"eval_steps": 0}})  # fmt: skip
    config["data"]["datasets"] = [{"path": str(file), "format": "preference"}]
    loaded = api._loaded(config, ())
    read = ingredients(loaded, api.resolve(loaded, probe(), None, None), None).data.train
    for index, row in enumerate(pairs.rows):
        prompt = tuned.prompt_ids(first_turn(row["prompt"], row.get("system", "")))
        assert row.get("system", "") == system
        for side, tokens in zip(("chosen", "rejected"), read.members(index), strict=True):
            ids = tokens.input_ids.tolist()
            assert ids[: len(prompt)] == prompt
            assert tuned.tokenizer.decode(ids[len(prompt) : -1]) == row[side] and ids[-1] in tuned.stop_ids
    assert json.loads(file.read_text().splitlines()[0]) == pairs.rows[0]
