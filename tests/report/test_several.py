"""Several runs beside each other: one curve each, what came out, what differs."""

from __future__ import annotations

import re

import pytest

from luthier.report.run import read_run
from luthier.report.several import several
from tests.report.reading import curve, figure, insist_safe, rows
from tests.report.runs import HOSTILE, evaluated, finished, logs, plan_of, started, write_events


def test_curves_outcomes_and_differences(tmp_path):
    one, two = plan_of(), plan_of(learning_rate=5e-4, output_dir="elsewhere")
    first = write_events(tmp_path / "one", started(one), logs(1, 40), evaluated(20, 1.5), finished())
    second = write_events(tmp_path / "two", started(two), logs(1, 20, start=2.0))
    html = several([read_run(first), read_run(second)])
    insist_safe(html)
    drawn = figure(html, "training loss, its trend")
    assert [len(curve(drawn, kind)) for kind in ("c0", "c1")] == [20, 10]
    assert curve(drawn, "c0")[0] == pytest.approx(logs(1, 1)[0].loss, abs=0.01)
    told = rows(html)
    assert ("training.learning_rate", "0.001", "5e-4") in told
    assert not any(row[0].startswith(("training.output_dir", "machine.")) for row in told)
    outcome = {row[0]: row[1:] for row in told if len(row) == 7}
    assert outcome["one"][:2] == ("done", "40") and outcome["one"][3] == "1.5000 (step 20)"
    assert outcome["two"][:2] == ("training", "19") and outcome["two"][3] == ""
    assert outcome["one"][-1] == "not measured"


def test_alike_names_and_plans_and_hostile_ones(tmp_path):
    folders = [write_events(tmp_path / parent / "<i>x", started(plan_of()), logs(1, 9)) for parent in ("a", "b")]
    runs = [read_run(folder) for folder in folders]
    html = several(runs)
    insist_safe(html)
    assert "<i>" not in html and "Nothing, as far as their records tell." in html
    assert all(f"{parent}/&lt;i&gt;x" in html for parent in ("a", "b"))
    hostile = write_events(tmp_path / "h", started(plan_of(output_dir="x"), name=HOSTILE), logs(1, 9))
    assert "<script" not in several([read_run(hostile), *runs])


def test_many_runs_are_told_apart_by_the_table(tmp_path):
    runs = [read_run(write_events(tmp_path / f"run-{n:02}", started(plan_of()), logs(1, 9))) for n in range(14)]
    html = several(runs)
    insist_safe(html)
    drawn = figure(html, "training loss, its trend")
    assert "run-00" not in drawn and len(set(re.findall(r'<polyline class="line (.*?)"', drawn))) == 14
    keys = re.findall(r'<svg class="key".*?class="line (.*?)".*?</svg> (.*?)</td>', html)
    assert [name for _, name in keys] == [f"run-{n:02}" for n in range(14)]
