"""The fold: pure, bounded, the same live and afterwards, and unmoved by whatever a log may hold."""

from __future__ import annotations

import math
import pickle
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.doctor import History, findings, fold, unjudged
from luthier.doctor.history import LONGEST, RECENT
from luthier.doctor.outlook import unsettled
from luthier.doctor.report import as_json, as_text, lacking
from luthier.doctor.statistics import noise, trend
from luthier.events.types import Resumed, RunStarted
from tests.doctor.runs_of import NAN, architecture, curve, evaluated, log, machine, seen, started, steps
from tests.events.stream import events, whole_run


@given(st.lists(st.tuples(events, st.floats()), max_size=40), st.floats())
@settings(deadline=None)
def test_no_sequence_of_events_breaks_the_doctor(told, now):
    run = History()
    for event, when in told:
        run = fold(run, event, when)
    found = findings(run, now)
    assert len({finding.rule for finding in found}) == len(found)
    missing = unjudged(run)
    assert as_text(found, unsettled(run, missing), run.step) and lacking(missing)
    assert len(as_json(found)) == len(found)


@given(st.lists(st.builds(log, st.integers(0, 10**6), st.floats(0, 1e9) | st.just(0.0)), min_size=8, max_size=60))
@settings(deadline=None)
def test_no_curve_breaks_a_rule(lines):
    run = seen(started(), architecture(), lines, [machine(1, gpu_utilization=0.0)] * 6, evaluated(5, NAN))
    assert all(finding.evidence for finding in findings(run, 10.0**9))


def test_a_finding_appears_changes_and_clears_without_a_trace():
    run = seen(started(), architecture(), whole_run())
    before = pickle.dumps(run)
    once, again = findings(run, 5000.0), findings(run, 5000.0)
    assert once == again
    assert pickle.dumps(run) == before


def test_the_history_of_a_long_run_is_bounded_and_keeps_its_ends():
    run = seen(started(100_000), curve(range(1, 30_001)))
    assert len(run.whole) <= LONGEST and len(run.recent) == RECENT
    assert run.beginning[0].step == 1 and run.recent[-1].step == 30_000
    assert run.whole[0].step == 1 and run.whole[-1].step > 29_000
    gaps = {b.step - a.step for a, b in zip(run.whole, run.whole[1:], strict=False)}
    assert gaps == {run.curve.stride}
    assert len(pickle.dumps(run)) < 200_000


def test_a_diagnosis_takes_milliseconds():
    run = seen(started(), architecture(), curve(range(1, 2001)), [evaluated(s, 1.0) for s in range(100)])
    begun = time.process_time()
    for _ in range(5):
        findings(run, 10_000.0)
    assert (time.process_time() - begun) / 5 < 0.1


def test_a_resumed_run_forgets_what_it_took_back():
    wild = curve(range(210, 400, 10), lambda step: 9.0)
    back = replace(started(), first_step=200), Resumed(200, "checkpoint-200")
    run = seen(started(), curve(steps(last=200)), wild, *back, curve(range(210, 400, 10)))
    assert findings(run, run.updated) == ()
    assert max(line.loss for line in run.whole) < 2


def test_a_new_run_in_the_same_log_starts_from_nothing():
    run = seen(started(), curve(steps(), lambda step: 9.0), started(), curve(steps(last=50)))
    assert run.curve.seen == 6
    assert findings(run, run.updated) == ()


def test_what_cannot_be_judged_says_what_is_missing():
    missing = unjudged(seen(RunStarted("x", 0, 0, NAN, {}), curve(steps(last=20))))
    assert missing["loss-stuck"] == "3 of 8 log lines"
    assert missing["overfitting"] == "0 of 3 evaluations"
    assert missing["always-clipped"].startswith("3 of 12") or "max_grad_norm" in missing["always-clipped"]
    assert "diverged" not in unjudged(seen(started(), curve(steps())))


@pytest.mark.parametrize("sigma", [0.01, 0.3])
def test_noise_is_the_standard_deviation_around_a_line(sigma):
    lines = curve(range(1, 2000), lambda step: 1 + step / 100, noise=0.0)
    logs = curve(range(1, 2000), lambda step: 1.0, noise=sigma)
    assert noise([line.loss for line in lines]) == pytest.approx(0, abs=1e-9)
    assert noise([line.loss + line.step / 50 for line in logs]) == pytest.approx(sigma, rel=0.1)


def test_the_interval_of_a_trend_holds_the_slope_and_shrinks():
    def interval(count):
        return trend([(line.step, line.loss) for line in curve(range(count), lambda step: 2 - step / 1000, noise=0.02)])

    few, many = interval(20), interval(400)
    for found in (few, many):
        assert found.low <= -0.001 <= found.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert math.isinf(interval(5).low), "five points tell no slope"
