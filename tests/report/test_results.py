"""Comparisons and scores in a report: as they were measured, and of this run alone."""

from __future__ import annotations

import json

import pytest

from luthier.config.render import plan_as_dict
from luthier.errors import DataError
from luthier.evaluate.compare import compare, corrected, record
from luthier.evaluate.forgetting import Forgetting
from luthier.evaluate.runs import Evaluation
from luthier.evaluate.score import Settings
from luthier.evaluate.tasks import TaskSet
from luthier.events.types import RunStarted
from luthier.report.page import page
from luthier.report.run import read_run
from tests.evaluate.test_compare import TASKS, names, scores
from tests.report.reading import insist_safe, plain, rows
from tests.report.runs import HOSTILE, logs, plan_of, started, write_events

SET = TaskSet("mine", TASKS)
BASE, TUNED = scores(names(0, 1)), scores(names(0, *range(2, 12)))


def write(path, content):
    path.write_text(json.dumps(content, default=str), "utf-8")
    return path


def test_the_statistics_are_those_of_the_comparison(tmp_path):
    folder = write_events(tmp_path / "mine", started(plan_of()), logs(1, 9))
    forgotten = Forgetting("general", 3, 100, 2.0, 2.5, 0.5, 0.25, 0.75)
    one = compare(BASE, TUNED, SET, "runs/mine/final_model", "small", "float32", forgotten)
    other = compare(BASE, BASE, SET, "runs/other", "small", "float32")
    both = corrected([one, other])
    write(folder / "comparison.json", record(both))
    write(folder / "else.json", {"loss": 3})
    write(folder / "list.json", [1, 2])
    (folder / "broken.json").write_text("{")
    html = page(read_run(folder), 0.0)
    insist_safe(html)
    assert plain(html).count(both[0].verdict) == 2, "at the top and in its section"
    assert "runs/other" not in html and "Not measured" not in html
    change = both[0].overall
    p = f"{change.corrected:.3f}"
    assert change.corrected > change.p
    share, points = "{:.1f} ({:.0f} to {:.0f})".format, "{:+.1f} ({:+.0f} to {:+.0f})".format
    sides = [share(100 * side.share, 100 * side.low, 100 * side.high) for side in (change.base, change.tuned)]
    difference = points(100 * change.difference, 100 * change.low, 100 * change.high)
    assert ("all", "20", *sides, difference, "10", "1", p) in rows(html)
    assert [row[0] for row in rows(html) if len(row) == 8] == ["all", "even", "odd"]
    assert "2.000 before, 2.500 after: +0.500 nats a token (95 % CI +0.250 to +0.750)" in plain(html)


def test_scores_of_a_model_alone(tmp_path):
    folder = write_events(tmp_path / "mine", started(plan_of()), logs(1, 9))
    path = write(tmp_path / "s.json", Evaluation("mine", "small", Settings(), ((SET, TUNED),), (1,), None).as_dict())
    html = page(read_run(folder, [path]), 0.0)
    assert ("pass@1", "55.0 (34 to 74)") in rows(html) and ("pass@1, even", "60.0 (31 to 83)") in rows(html)
    assert "It solves 55.0 % on mine; whether it answers better than its base was not measured." in plain(html)
    assert "Not measured: base and tuned model were not compared" in plain(html)


@pytest.mark.parametrize(
    ("rows", "final", "command"),
    [
        ("/opt/luthier/quickstart/rows/train.jsonl", True, "luthier compare PLACE --tasks quickstart --json PLACE/"),
        ("rows.jsonl", True, "luthier compare PLACE --tasks tasks.jsonl --json PLACE/"),
        ("rows.jsonl", False, ""),
    ],
)
def test_the_command_that_is_named_can_work(tmp_path, rows, final, command):
    plan = plan_as_dict(plan_of()) | {"data.datasets": [{"path": rows}]}
    folder = write_events(tmp_path / "mine", RunStarted("mine", 40, 0, 0.7, plan), logs(1, 9))
    if final:
        (folder / "final_model").mkdir()
    html = plain(page(read_run(folder), 0.0))
    assert ("There is no final_model here" in html) is not final
    assert (command.replace("PLACE", str(folder)) or "Not measured") in html
    assert ("luthier compare" in html) is final


def test_another_programs_log_and_a_run_without_a_base_are_sent_to_no_comparison(tmp_path):
    log = tmp_path / "training.log"
    log.write_text("{'loss': 2.4, 'grad_norm': 0.9, 'learning_rate': 0.0002, 'epoch': 0.01}\n" * 3)
    plan = plan_as_dict(plan_of()) | {"model.from_scratch": True}
    folder = write_events(tmp_path / "new", RunStarted("new", 40, 0, 0.7, plan), logs(1, 9))
    (folder / "final_model").mkdir()
    for path, why in ((log, "There is no final_model here"), (folder, "so it has no base of its own")):
        html = plain(page(read_run(path), 0.0))
        assert why in html and "luthier compare" not in html


@pytest.mark.parametrize("content", ["{", "[]", '{"comparisons": [{}]}', '{"comparisons": 3}', "[" * 100_000, "7"])
def test_e_run_007_a_named_file_that_holds_no_results(tmp_path, content):
    folder = write_events(tmp_path / "mine", started(plan_of()), logs(1, 9))
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match="E-RUN-007") as caught:
        read_run(folder, [path])
    assert caught.value.exit_code == 2 and str(path) in str(caught.value)
    with pytest.raises(DataError, match=r"E-RUN-007.*No such file"):
        read_run(folder, [tmp_path / "nowhere.json"])


def test_hostile_results(tmp_path):
    folder = write_events(tmp_path / "mine", started(plan_of()), logs(1, 9))
    content = record([compare(BASE, TUNED, TaskSet(HOSTILE, TASKS), HOSTILE, "small", "float32")])
    content["comparisons"][0]["changes"][0]["split"] = HOSTILE
    html = page(read_run(folder, [write(tmp_path / "c.json", content)]), 0.0)
    assert "<script" not in html and "<b " not in html and "\x1b" not in html and "\u202e" not in html
