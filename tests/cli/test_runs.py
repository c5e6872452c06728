"""The runs of a folder beside each other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from luthier.evaluate.compare import compare, record
from luthier.evaluate.tasks import TaskSet
from luthier.report.overview import entries, show
from tests.cli.support import run_here
from tests.evaluate.test_compare import TASKS, names, scores
from tests.report.runs import HOSTILE, evaluated, finished, logs, plan_of, started, write_events

BEGAN = 1_767_225_600.0
SET = TaskSet("mine", TASKS)


def two_runs(folder):
    """One that is done and was compared; one that says nothing more."""
    one, two = plan_of(), plan_of(learning_rate=5e-4, output_dir="elsewhere")
    ended = (evaluated(20, 1.5), evaluated(40, 1.75, best=False), finished())
    first = write_events(folder / "a", started(one), logs(1, 40), *ended)
    write_events(folder / "b" / "c", started(two), logs(1, 20))
    better = compare(scores(names(0, 1)), scores(names(0, *range(2, 12))), SET, "runs/a", "small", "float32")
    (first / "comparison.json").write_text(json.dumps(record([better]), default=str), "utf-8")
    write_events(folder / ".trash" / "d", started(one), logs(1, 20))
    return folder


def test_a_row_for_each_run_and_what_differs(tmp_path):
    done, open_end = entries(two_runs(tmp_path), now=BEGAN + 60)
    assert [done.run, open_end.run] == [str(tmp_path / "a"), str(tmp_path / "b" / "c")], "the latest first"
    assert (done.status, done.step, done.last_eval_loss, done.best_eval_loss, done.best_step) == (
        "done", 40, 1.75, 1.5, 20,
    )  # fmt: skip
    assert (open_end.status, open_end.step, open_end.last_eval_loss) == ("training", 19, None)
    assert (done.base, done.measured, open_end.measured) == ("small/model", "mine 10% → 55%", "")
    assert done.differs == {"training.learning_rate": "0.001"}, "places and derived numbers aside"
    assert open_end.differs == {"training.learning_rate": "5e-4"}
    assert entries(tmp_path, now=BEGAN + 1e6)[1].status == "silent"
    (alone,) = entries(tmp_path / "b", now=BEGAN)
    assert alone.differs == {}


def test_the_screen(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(two_runs(tmp_path))
    result = run_here(capsys, "runs")
    assert result.code == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[1][:8] == ["a", "done", "40", "of", "40", "1.7500", "1.5000", "(20)"] and lines[1][-4:] == [
        "mine", "10%", "→", "55%",
    ]  # fmt: skip
    assert lines[2][:3] == ["b/c", "silent", "19"]
    assert ["a", "learning_rate=0.001"] in lines and ["b/c", "learning_rate=5e-4"] in lines
    told = json.loads(run_here(capsys, "runs", "b", "--json").out)
    assert [(one["run"], one["step"]) for one in told] == [("b/c", 19)]


def test_keys_that_were_tried_stand_before_those_of_one_odd_run(capsys, tmp_path, monkeypatch):
    odd = {"max_grad_norm": 4.0, "num_train_epochs": 9, "learning_rate": 1e-5, "warmup_steps": 2, "max_steps": 7}
    for name, changes in {"one": {"seed": 1}, "two": {"seed": 2}, "three": {"seed": 3}, "odd": odd}.items():
        write_events(tmp_path / name, started(plan_of(**changes)), logs(1, 20))
    monkeypatch.chdir(tmp_path)
    lines = [line.split() for line in run_here(capsys, "runs").out.splitlines()]
    assert all([name, f"seed={seed},"] in [line[:2] for line in lines] for name, seed in (("one", 1), ("three", 3)))


def test_in_a_pipe_no_line_ends_in_blanks(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(two_runs(tmp_path))
    lines = run_here(capsys, "runs").out.splitlines()
    assert len(lines) > 6 and [line for line in lines if line != line.rstrip()] == []


def test_a_base_that_is_the_same_for_all_is_said_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(two_runs(tmp_path))
    out = run_here(capsys, "runs").out
    assert "  base" not in out.splitlines()[0] and out.count("model") == 1 and "base of all runs: model" in out
    alone = run_here(capsys, "runs", "b").out
    assert alone.splitlines()[0].endswith("  base") and "of all" not in alone
    begun = started(plan_of())
    other = replace(begun, plan={**begun.plan, "model.model_name_or_path": "large/other"})
    write_events(tmp_path / "e", other, logs(1, 9), finished(9))
    out = run_here(capsys, "runs").out
    assert "  base" in out.splitlines()[0] and "  other" in out and "of all" not in out


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_breaks_names_and_no_number(tmp_path, width):
    folder = two_runs(tmp_path / ("long" * 10))
    with (tmp_path / "out").open("w") as file:
        show(Console(file=file, width=width, force_terminal=True, color_system=None), entries(folder, BEGAN))
    text = (tmp_path / "out").read_text()
    assert "40 of 40 " in text and "1.5000 (20) " in text and max(map(len, text.splitlines())) <= width


def test_no_run_is_no_failure(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, "runs")
    assert result.code == 0 and result.out == "no run here yet; make one: luthier quickstart, or luthier train CONFIG\n"
    assert run_here(capsys, "runs", "--json").out == "[]\n"
    result = run_here(capsys, "runs", "nowhere")
    assert result.code == 2 and "E-RUN-005" in result.err and "Traceback" not in result.err


def test_what_a_log_holds_cannot_reach_the_terminal(capsys, tmp_path):
    write_events(tmp_path / "x", started(plan_of(), name=HOSTILE), logs(1, 9), evaluated(9, float("nan")), finished(9))
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "events.jsonl").write_bytes(b"\xff\x00 no log at all\n")
    result = run_here(capsys, "runs", tmp_path)
    assert result.code == 0 and "\x1b" not in result.out
    (told,) = json.loads(run_here(capsys, "runs", tmp_path, "--json").out)
    assert told["last_eval_loss"] is None
