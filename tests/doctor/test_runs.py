"""The labelled runs (recipes/sick_runs): what the doctor names in them is what scores.json and the guide say."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from luthier.doctor import History, findings, fold
from luthier.events.types import Evaluated, Log, Resumed, RunFinished, RunStarted

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sick_runs"
RUNS = ROOT / "tests" / "doctor" / "runs"


@pytest.fixture(scope="module")
def score():
    sys.path.insert(0, str(RECIPE))
    try:
        import score

        yield score
    finally:
        sys.path.remove(str(RECIPE))
        for name in ("score", "labels"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def told():
    """Every finding at every moment of every run."""
    return []


@pytest.fixture(scope="module")
def results(score, told):
    examine = score.findings

    def kept(*about):
        found = examine(*about)
        told.extend(found)
        return found

    score.findings = kept
    try:
        return [score.scored(path) for path in sorted(RUNS.glob("*/*.jsonl.gz"))]
    finally:
        score.findings = examine


def test_every_finding_of_every_run_says_what_to_do(results, told):
    assert len(told) > 1000 and len({finding.rule for finding in told}) >= 15
    assert {finding.rule for finding in told if not (finding.change or finding.fix)} == set()


@pytest.mark.parametrize("every", [10, 20, 40])
@pytest.mark.parametrize("known", [True, False], ids=["with its plan", "another program's"])
def test_no_healthy_run_is_called_sick_when_its_log_lines_are_few(score, every, known):
    """The same runs, logged more seldom: each line the mean of those it stands for, as Trainers print it."""
    looked_at = 0
    for path in sorted((RUNS / "healthy").glob("*.jsonl.gz")):
        run, waiting, blank = History(), [], False
        for event, when in score.events(path):
            if isinstance(event, RunStarted):
                waiting, blank = [], event.plan["model.from_scratch"]  # which only its plan tells
                event = event if known else replace(event, plan={}, program="", total_steps=0)
            if isinstance(event, Log):
                waiting.append(event)
                if event.step % every and event.step - waiting[0].step < every:
                    continue
                event = replace(event, loss=fmean(line.loss for line in waiting))
                waiting = []
            elif not isinstance(event, RunStarted | Evaluated | Resumed | RunFinished):
                continue
            run = fold(run, event, when)
            found = [one for one in findings(run, when) if known or not (blank and one.rule == "first-loss-off")]
            assert found == [], (path.name, run.step)
            looked_at += 1
    assert looked_at > 100


def test_the_set_is_large_real_and_small_on_disk(results):
    healthy = [result for result in results if result.label == "healthy"]
    assert len(results) >= 80 and len(healthy) >= 36 and len({result.label for result in results}) >= 15
    assert sum(path.stat().st_size for path in RUNS.rglob("*") if path.is_file()) < 1_500_000


def test_no_healthy_run_raises_a_finding_at_any_moment(results):
    assert {(r.name, r.seed): r.fired for r in results if r.label == "healthy" and r.fired} == {}


def test_nine_of_ten_sick_runs_are_named(results):
    sick = [result for result in results if result.label != "healthy"]
    assert sum(result.named for result in sick) >= 0.9 * len(sick)


def test_the_scores_that_the_guide_shows_are_those_measured(score, results):
    assert score.summary(results) == json.loads((RUNS / "scores.json").read_text("utf-8"))


def test_a_doctor_that_says_nothing_names_no_sick_run(score, monkeypatch):
    """The score can fail: without findings every sick run is missed."""
    monkeypatch.setattr(score, "findings", lambda *_: ())
    path = sorted(RUNS.glob("learning-rate-too-high/*.jsonl.gz"))[0]
    assert not score.scored(path).named


def test_nothing_in_the_set_names_the_machine_it_was_made_on(score):
    for path in sorted(RUNS.glob("*/*.jsonl.gz"))[::9]:
        text = "".join(str(event) for event, _ in score.events(path))
        assert "/tmp/" not in text and "/home/" not in text and "/root/" not in text, path.name
