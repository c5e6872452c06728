"""Decisions of the loop: which evaluation is the best, when it stops, what it says of time and epochs."""

from __future__ import annotations

import pytest

from luthier import api
from luthier.events.types import (
    Architecture,
    CheckpointSaved,
    Evaluated,
    Log,
    Notice,
    RunFinished,
    RunStarted,
    Sampled,
)
from luthier.training import background, engine, milestones
from luthier.training.objective import Counted
from tests.tiny import write_rows
from tests.training.test_resume import config


def train(values, **options):
    return list(api.train(values, **options))


def evaluated(events):
    return [event for event in events if isinstance(event, Evaluated)]


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([float("nan"), 3.0, 2.0], [False, True, True]),
        ([3.0, 2.9, 2.8], [True, True, True]),
        ([3.0, float("inf"), 3.0], [True, False, False]),
    ],
)
def test_the_lowest_finite_loss_is_the_best(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, losses, best):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=6)
    values["evaluation"] = {"eval_steps": 2, "early_stopping_threshold": 0.5, "early_stopping_patience": 9}
    answers = iter(losses)
    monkeypatch.setattr(milestones, "evaluate", lambda *_: ([next(answers)], Counted(1, 1, 1)))
    assert [event.best for event in evaluated(train(values))] == best


def test_patience_counts_gains_smaller_than_the_threshold(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["evaluation"] = {"eval_steps": 1, "early_stopping_threshold": 0.5, "early_stopping_patience": 2}
    answers = iter([5.0, 4.0, 3.9, 3.8, 3.7, 3.6])
    monkeypatch.setattr(milestones, "evaluate", lambda *_: ([next(answers)], Counted(1, 1, 1)))
    events = train(values)
    assert events[-1].step == 4
    assert "early stopping" in events[-1].reason
    again = train(values, resume="auto")
    assert again[-1].step == 4, "a run that was stopped early trains no further"
    assert again[-1].status == "done"


def test_the_first_step_and_the_last_are_logged_and_the_rest_in_intervals(tmp_path, tiny_model_dir, alpaca_file):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["logging"]["logging_steps"] = 5
    events = train(values)
    assert [event.step for event in events if isinstance(event, Log)] == [1, 5, 10, 12]
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.epochs == pytest.approx(events[-1].epoch)


def test_a_run_is_called_as_the_config_says_or_as_its_folder(tmp_path, tiny_model_dir, alpaca_file):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=4)
    names = []
    for more in ({}, {"run_name": "the first: 2 steps, 3 epochs"}):
        values["logging"] |= more
        names += [event.run for event in train(values, overwrite=True) if isinstance(event, RunStarted)]
    assert names == ["run", "the first: 2 steps, 3 epochs"]


def test_what_is_due_after_each_epoch_and_share(tmp_path, tiny_model_dir, alpaca_file):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    values["logging"]["logging_steps"] = "epoch"
    values["evaluation"] = {"eval_steps": "epoch"}
    values["checkpointing"] = {"save_strategy": "steps", "save_steps": 0.5, "save_first_step": False}
    events = train(values)
    steps, an_epoch = events[-1].step, round(events[-1].step / events[-1].epoch)
    ends = sorted({*range(an_epoch, steps, an_epoch), steps})
    assert [event.step for event in evaluated(events)] == ends
    logged = [event.step for event in events if isinstance(event, Log)]
    assert logged == sorted({1, *range(an_epoch, steps + 1, an_epoch), steps})
    kept = {int(folder.name.partition("-")[2]) for folder in (tmp_path / "run").glob("checkpoint-*")}
    assert {-(-steps // 2), steps} <= kept


@pytest.mark.parametrize("first", [True, False])
def test_a_pass_begins_ahead_where_nothing_follows_its_step(tmp_path, tiny_model_dir, alpaca_file, monkeypatch, first):
    said, asked = {}, engine.follows_at_once
    monkeypatch.setattr(engine, "follows_at_once", lambda job: said.setdefault(job.state.step + 1, asked(job)))
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=12)
    values["evaluation"] = {"eval_steps": 4, "sample_prompts": ["Add 1 and 2."], "sample_steps": [6, 7]}
    values["checkpointing"] = {"save_strategy": "steps", "save_steps": 5, "save_minutes": 0, "save_first_step": first}
    follow = {event.step for event in train(values) if isinstance(event, Evaluated | CheckpointSaved | Sampled)}
    assert (
        {step for step, at_once in said.items() if not at_once}
        == follow
        == {4, 5, 6, 7, 8, 10, 12} | ({1} if first else set())
    )


def test_the_runtime_is_that_of_all_attempts(tmp_path, tiny_model_dir, alpaca_file):
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    whole = train(values)[-1].train_runtime
    assert train(values, resume="auto")[-1].train_runtime >= whole * 0.5


def test_a_stop_before_the_first_step_trains_nothing(tmp_path, tiny_model_dir, alpaca_file):
    events = []
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file)
    for event in api.train(values, stop=lambda: any(isinstance(event, Architecture) for event in events)):
        events.append(event)
    assert isinstance(events[-1], RunFinished)
    assert (events[-1].status, events[-1].step) == ("stopped", 0)


def test_resume_without_a_checkpoint_says_that_it_starts(tmp_path, tiny_model_dir, alpaca_file):
    events = train(config(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=4), resume="auto")
    (said,) = [event for event in events if isinstance(event, Notice) and "starting at step 0" in event.text]
    assert said.text.startswith(f"no checkpoint in {tmp_path / 'run'}") and said.severity == "info"


def test_a_fresh_start_beside_a_run_that_has_not_ended_names_it(tmp_path):
    for run in ("half", "done", "run/below"):
        (tmp_path / run / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "done" / "final_model").mkdir()
    said = api._fresh_start(tmp_path / "run")
    assert said.severity == "warning" and f"no checkpoint in {tmp_path / 'run'}:" in said.text
    assert str(tmp_path / "half") in said.text and str(tmp_path / "run" / "below") in said.text
    assert "done" not in said.text and said.change.startswith("training.output_dir: ")


def test_long_preparation_says_how_far_it_is(tmp_path, tiny_model_dir, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, 30_000)
    monkeypatch.setattr(background, "SAY_EVERY_SECONDS", 0.0)
    values = config(tmp_path / "run", tiny_model_dir, rows, max_steps=4)
    notices = [event.text for event in train(values) if isinstance(event, Notice)]
    assert any(text.startswith("tokenizing") and text.endswith("rows") for text in notices)


def test_a_stop_while_the_rows_are_prepared_ends_at_once(tmp_path, tiny_model_dir, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, 30_000)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "run", tiny_model_dir, rows, max_steps=4), stop=lambda: True)


def test_a_stop_at_the_last_step_is_a_finished_run(tmp_path, tiny_model_dir, alpaca_file):
    events = []
    values = config(tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=4)
    values["evaluation"] = {"eval_steps": 0}
    for event in api.train(values, stop=lambda: any(isinstance(e, Log) and e.step == 4 for e in events)):
        events.append(event)
    assert events[-1].status == "done"
    assert (tmp_path / "run" / "final_model").is_dir()
