"""The pure parts: replay, statistics, zoom, curves, answers."""

from __future__ import annotations

import io
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from luthier.doctor import Change, Finding, History, findings
from luthier.doctor import fold as fold_history
from luthier.events.types import CheckpointSaved, Evaluated, Resumed, Timing
from luthier.machine.gpu import Gpu, Readings
from luthier.monitor.dashboard import panes, watching
from luthier.monitor.dashboard.canvas import Curve, Picture, draw
from luthier.monitor.dashboard.charts import CHARTS, chart, is_worth_a_place, legend, picture
from luthier.monitor.dashboard.explain import answer
from luthier.monitor.dashboard.metrics import LEARNING, MACHINE, METRICS, fitting, line
from luthier.monitor.dashboard.report import report
from luthier.monitor.dashboard.scene import SMOOTHINGS, SPANS, Scene, Settings, WatchedRun
from luthier.monitor.dashboard.watching import LONGEST_PAUSE, Replay, Timeline, Watch
from luthier.monitor.drawing import count
from luthier.monitor.state import RECENT, Point, RunState, fold
from luthier.monitor.statistics import BANDS, band, shares, smooth, step_times, time_left, trend
from luthier.monitor.view import render
from tests.events.stream import events, finished, forecast, log, started, whole_run
from tests.monitor.dash import RECORDED, Clock, write


def state_of(stream, every=1.0):
    state = RunState()
    for index, event in enumerate(stream):
        state = fold(state, event, 100.0 + every * index)
    return state


def run_of(stream, now=200.0, findings=()):
    return WatchedRun("run", "events.jsonl", "test", state_of(stream), findings, now)


# Statistics


def test_the_trend_is_the_median_slope_of_the_last_two_fifths():
    rng = random.Random(0)
    points = [Point(step, 2 - 0.003 * step + rng.gauss(0, 0.1), 0.0) for step in range(0, 1000, 10)]
    x, y = np.array([p.step for p in points[60:]], float), np.array([p.loss for p in points[60:]])
    slopes = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(40) for j in range(i + 1, 40)]
    found = trend(points)
    assert found.slope == pytest.approx(np.median(slopes))
    assert found.low < -0.003 < found.high < 0
    assert found.mean == pytest.approx(y.mean())
    assert found.spread == pytest.approx(0.1, rel=0.3)
    assert (found.direction, found.steps) == ("falling", 390)


def test_chance_is_no_trend():
    """At 95 % about one level curve in twenty is called a trend; of 200, far fewer than 30."""
    rng = random.Random(1)
    curves = [[Point(step, rng.gauss(1, 0.1), 0.0) for step in range(100)] for _ in range(200)]
    assert sum(trend(points).direction != "level" for points in curves) < 30
    assert trend([Point(1, 1.0, 0.0)] * 9) is None
    assert trend([Point(step, math.nan, 0.0) for step in range(9)]) is None


def test_a_loss_that_fell_and_rises_rises_as_the_doctor_says():
    rng = random.Random(2)
    losses = [max(3 - step / 30, 1 + (step - 60) / 150) + rng.gauss(0, 0.03) for step in range(1, 101)]
    stream = [started(), *(log(step, loss) for step, loss in enumerate(losses, 1))]
    seen = History()
    for event in stream:
        seen = fold_history(seen, event, 0.0)
    run = run_of(stream, findings=findings(seen, 0.0))
    assert "loss-rising" in [finding.rule for finding in run.findings]
    assert words_of(run)["slope"].startswith("rising  +0.2") and words_of(run)["slope"].endswith(" in 39 steps")


def test_the_fall_of_the_beginning_is_neither_in_the_trend_nor_in_the_mean():
    losses = [2.7 * math.exp(-step / 2) for step in range(22)] + [0.0004 + 1e-5 * (step % 3) for step in range(40)]
    run = run_of([started(), *(log(step, loss) for step, loss in enumerate(losses, 1))])
    assert words_of(run)["slope"].startswith("level")
    assert words_of(run)["mean"] == "0.0004  spread 0.0000"
    few = run_of([started(), *(log(step, 2.0 / step) for step in range(1, 9))])
    assert words_of(few)["slope"].endswith(" in 7 steps"), "not what it would be in steps that never were"


def timed(seconds, steps_left=1000):
    """A run whose steps took these seconds, ten steps a log line."""
    total = 10 * len(seconds) + steps_left
    rows = [log(10 * index, total_steps=total) for index in range(1, len(seconds) + 1)]
    state = state_of([started(total_steps=total)])
    for row, step_seconds in zip(rows, seconds, strict=True):
        object.__setattr__(row, "step_seconds", step_seconds)
        object.__setattr__(row, "remaining_seconds", math.nan)
        state = fold(state, row, 200.0)
    return state


def test_the_margin_of_the_time_left_holds_about_95_percent():
    """Simulated: step times from a distribution; how often is the true rest within the margin?"""
    rng = random.Random(2)
    held = 0
    for _ in range(300):
        seconds = [max(0.01, rng.gauss(1.0, 0.3)) for _ in range(30 + 100)]
        left = time_left(timed(seconds[:30]), 200.0)
        held += abs(sum(10 * value for value in seconds[30:]) - left.seconds) <= left.margin
    assert 0.90 <= held / 300 <= 0.99


def test_time_left_counts_down_and_knows_what_it_cannot_know():
    state = timed([1.0] * 20)
    assert time_left(state, 200.0).seconds == pytest.approx(1000.0)
    assert time_left(state, 230.0).seconds == pytest.approx(970.0)
    assert time_left(state, 9e9).seconds == 0
    assert time_left(RunState(), 0.0) is None
    expected = state_of([started(), forecast(remaining_seconds=90.0)])
    assert time_left(expected, expected.updated + 30).seconds == pytest.approx(60.0)
    assert time_left(expected, expected.updated + 91) is None
    assert math.isnan(time_left(timed([1.0] * 3), 200.0).margin)
    assert time_left(timed([math.nan] * 9), 200.0) is None


def test_step_times_are_those_of_this_attempt():
    """It may have fewer devices than the one before."""
    slow = [replace(log(step), step_seconds=4.0, remaining_seconds=math.nan) for step in range(60, 100, 10)]
    before = [started(), *(log(step) for step in range(10, 60, 10)), started(50), Resumed(50, "checkpoint-50")]
    run = run_of(before)
    assert time_left(run.state, run.now) is None and math.isnan(step_times(run.state)[0])
    assert words_of(run)["left"] == "no log line yet"
    run = run_of([*before, *slow])
    assert step_times(run.state) == (4.0, 0.0)
    assert time_left(run.state, run.state.logged_at).seconds == pytest.approx(40.0)


def test_the_time_between_two_attempts_is_no_step_time():
    lines = [replace(log(step), step_seconds=math.nan) for step in range(10, 60, 10)]
    state = state_of([started(), *lines[:3], started(30), *lines[3:]], every=20.0)
    assert [point.step_seconds for point in state.recent[1:]] == pytest.approx([2.0, 2.0, math.nan, 2.0], nan_ok=True)


def test_step_times_come_from_the_times_of_lines_when_the_log_has_none():
    rows = [log(step) for step in range(10, 60, 10)]
    for row in rows:
        object.__setattr__(row, "step_seconds", math.nan)
    state = state_of([started(), *rows], every=20.0)
    assert [point.step_seconds for point in state.recent[1:]] == [2.0] * 4


def test_shares_of_a_step():
    found = dict(shares([Timing(1, 0.0, 1.0, 2.0, 0.5, math.nan), Timing(2, 1.0, 1.0, 2.0, 0.5, 0.0)]))
    assert found == {"data": 0.125, "forward": 0.25, "backward": 0.5, "optimizer": 0.125, "other": 0.0}
    assert shares([]) == shares([Timing(1, 0.0, 0.0, 0.0, 0.0, 0.0)]) == ()


def test_smoothing_is_the_formula_and_nan_leaves_it():
    assert smooth([4.0, 2.0, math.nan, 1.0], 0.1) == pytest.approx([4.0, 3.0, 3.0, 3.0 - 2.0 / 3])
    assert smooth([1.0, 5.0], 1.0) == [1.0, 5.0]


def test_the_bands_are_those_of_the_guide():
    for loss, words in ((2.7, "very bad"), (1.8, "getting better"), (1.2, "good progress"), (0.8, "very good"),
                        (0.4, "excellent"), (0.1, "outstanding")):  # fmt: skip
        assert band(loss)[1].startswith(words)
    assert [low for low, _, _ in BANDS] == sorted((low for low, _, _ in BANDS), reverse=True)
    assert "not a number" in band(math.nan)[1]


@pytest.mark.parametrize("lines", [0, 1, 5, 6])
def test_a_loss_has_words_when_its_trend_has(lines):
    run = run_of([started(), *(log(step, 3.0) for step in range(1, lines + 1))])
    metrics = {metric.key: metric for metric in LEARNING}
    words = metrics["band"].value(run).plain
    assert words == {0: "no loss yet", 6: "very bad, as at the start"}.get(lines, "too early")
    if lines:
        assert words == metrics["slope"].value(run).plain or lines == 6
        assert ("needs six log lines" in metrics["band"].meaning(run)) == (lines < 6)
    assert ("which is above 2.5" in answer("band", run).plain) == (lines == 6)


def words_of(run):
    """Metric -> the longest form of its value."""
    values = {metric.key: metric.value(run) for metric in (*LEARNING, *MACHINE)}
    return {key: (value[0] if isinstance(value, tuple) else value).plain for key, value in values.items()}


def meanings_of(run):
    return {metric.key: metric.meaning(run) for metric in (*LEARNING, *MACHINE)}


def test_the_words_for_a_short_run_are_those_of_where_it_stands_and_the_panels_too():
    """The losses of a real run of 60 steps: over all of them the mean is 1.2, and `good progress`."""
    losses = [2.384, 1.9, 1.604, 1.3, 1.087, 1.0, 0.917, 0.85, 0.791, 0.75, 0.704, 0.715]
    run = run_of([started(), *(log(5 * number, loss) for number, loss in enumerate(losses, 1))])
    values = {metric.key: (metric.value(run), metric.meaning(run)) for metric in LEARNING}
    assert str(values["loss"][0]) == "0.7150  smoothed 0.7150"
    assert values["loss"][1] == f"lower is better; perplexity {math.exp(0.715):.3g}"
    assert str(values["band"][0]) == "very good" and values["band"][1] == "usual words for 0.5 to 1.0"
    told = METRICS["loss"].answer.here(run)
    assert "began at 2.3840 and stands at 0.7150" in told and f"{math.exp(-0.715):.0%}" in told
    assert "This run stands at 0.7150, which is 0.5 to 1.0." in METRICS["band"].answer.here(run)
    console = Console(file=io.StringIO(), width=140, height=40)
    console.print(render(run.state, 200.0, 140, 40))
    panel = console.file.getvalue()
    assert "smoothed 0.7150" in panel and f"perplexity {math.exp(0.715):.3g}:" in panel


def test_numbers_that_are_alike_are_not_told_apart():
    falls = [started(), *(replace(log(step), learning_rate=rate) for step, rate in ((10, 2e-4), (20, 1.9995e-4)))]
    assert words_of(run_of(falls))["learning_rate"].startswith("0.0002  falling")
    assert "falling from" not in words_of(run_of(falls))["learning_rate"]
    falls.append(replace(log(30), learning_rate=1.5e-4))
    assert words_of(run_of(falls))["learning_rate"].startswith("0.00015  falling from 0.0002")


def test_a_loss_above_that_of_the_start_is_not_called_as_at_the_start():
    rose = [started(), log(10, 2.6), *(log(step, 6.0) for step in range(20, 200, 10))]
    assert words_of(run_of(rose))["band"] == "very bad, above the start"


def test_a_run_that_is_done_has_one_number_of_tokens_and_nothing_to_lose():
    run = run_of([started(), log(10, 2.5), CheckpointSaved(10, "c", 1, 1.0), finished()])
    assert run.state.finished.num_tokens > run.state.log.num_tokens
    assert words_of(run)["tokens"] == f"{count(run.state.finished.num_tokens)} seen"
    assert meanings_of(run)["checkpoint"] == "the run is done"


def test_a_loss_that_is_no_number_is_nowhere_a_good_one():
    run = run_of([started(), *(log(step) for step in range(10, 60, 10)), log(60, math.nan)])
    assert words_of(run)["band"].startswith("broken")
    assert "1.5 to 2.5" not in meanings_of(run)["band"] and "perplexity" not in meanings_of(run)["loss"]


def test_what_was_resumed_is_a_checkpoint():
    """Of an attempt whose log begins with it."""
    run = run_of([started(50), Resumed(50, "checkpoint-50"), log(60)])
    assert words_of(run)["checkpoint"] == "step 50  resumed"
    assert "a crash now costs 10 steps" in answer("checkpoint", run).plain
    assert words_of(run_of([started(), log(60)]))["checkpoint"] == "none yet"


def test_a_log_that_does_not_tell_says_nothing_wrong():
    unknown = replace(started(), epochs=math.nan), replace(log(10), epoch=math.nan)
    assert "epoch" not in panes.progress(Scene((run_of(unknown),)), 100).plain
    shown = panes.progress(Scene((run_of([replace(started(), epochs=0.1341161), log(10)]),)), 100).plain
    assert "epoch 0.30/0.13 " in shown
    of_little = [replace(started(), epochs=0.0268), replace(log(10), epoch=0.0263)]
    assert "epoch 0.026/0.027 " in panes.progress(Scene((run_of(of_little),)), 100).plain
    assert "epoch 0.30/3 " in panes.progress(Scene((run_of([started(), log(10)]),)), 100).plain
    untimed = run_of(unknown, now=900.0), run_of([started(), log(10)], now=900.0)
    assert ["gone" in panes.progress(Scene((run,)), 100).plain for run in untimed] == [True, True]
    at_once = replace(untimed[0], state=state_of(unknown, every=0.0))
    assert "gone" not in panes.progress(Scene((at_once,)), 100).plain + meanings_of(at_once)["left"]
    failed = replace(finished("failed", 29), train_runtime=math.nan)
    ended = run_of([replace(started(), total_steps=0), failed])
    assert words_of(ended)["left"] == "failed  after 1 s" and "±" not in meanings_of(ended)["left"]
    assert "1 s in all" in panes.progress(Scene((ended,)), 100).plain
    ended = replace(ended, state=state_of([replace(started(), total_steps=0), failed], every=0.0))
    assert words_of(ended)["left"] == "failed" and "–" not in panes.progress(Scene((ended,)), 100).plain


def test_a_file_that_is_there_is_not_waited_for(tmp_path):
    path = tmp_path / "training.log"
    watch = Watch([path])
    watch.settle()
    assert "waiting for the file" in panes.header(watch.scene(), 200).plain
    for text in ("", "loading\n"):
        path.write_text(text)
        watch.settle()
        assert "no log line yet" in panes.header(watch.scene(), 200).plain


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        write(folder / "events.jsonl", [started(), log(10)])
    watch = Watch(folders)
    watch.settle()
    assert [run.name for run in watch.scene().runs] == [str(folder) for folder in folders]
    alone = Watch(folders[:1])
    alone.settle()
    assert alone.scene().run.name == "run-1a2b"


def test_of_several_gpus_the_busiest_is_told(monkeypatch):
    gpus = tuple(Gpu(index, utilization_percent=busy) for index, busy in enumerate((math.nan, 3.0, 99.0, 0.0)))
    monkeypatch.setattr(watching, "read_gpus", lambda: Readings(gpus))
    assert watching.this_machine().gpu_utilization == 99.0
    monkeypatch.setattr(watching, "read_gpus", lambda: Readings(()))
    assert watching.this_machine() is None


def test_no_number_is_cut():
    run = run_of(list(whole_run(""))[:-1])
    values = {metric.key: metric.value(run) for metric in (*LEARNING, *MACHINE)}
    for key, value in values.items():
        longest = value[0] if isinstance(value, tuple) else value
        words = {*longest.plain.replace(",", "").split(), "limit"}
        for room in range(6, 60):
            shown = fitting(value, room).plain
            assert set(shown.replace(",", "").split()) <= words, key
            assert cell_len(shown) <= room or "  " not in shown.rstrip(), key
    assert fitting(values["learning_rate"], 18).plain == "0.0002  steady"
    assert fitting(values["gradient"], 17).plain == "0.9123  below 1"
    assert fitting(values["eval"], 22).plain == "1.1000  best 1.0500"


# Zoom


@given(st.integers(1, 200_000), st.lists(st.sampled_from([1, -1]), max_size=20))
def test_zoom_stays_within_the_run(steps, moves):
    shown = Settings()
    for move in moves:
        shown = shown.zoomed(move, steps)
        assert shown.span is None or (shown.span in SPANS and shown.span < steps)


def test_zooming_in_and_out_comes_back():
    assert Settings().zoomed(1, 1200).span == 1000
    assert Settings().zoomed(1, 1200).zoomed(1, 1200).span == 500
    assert Settings().zoomed(1, 1200).zoomed(-1, 1200) == Settings()


def test_a_close_look_has_every_line_also_of_a_long_run():
    run = run_of(log(step, float(step), 6000) for step in range(1, 6001))
    assert run.state.stride > 1
    assert [point.step for point in run.points(200)] == list(range(5801, 6001))
    assert len(run.points(5000)) < 5000 and run.points(5000)[0].step > 1000
    assert len(run.state.recent) == RECENT


def test_smoothing_of_a_thinned_history_is_that_of_the_whole():
    run = run_of(log(step, 2 + math.sin(step / 900), 6000) for step in range(1, 6001))
    smoothed = picture("loss", Scene((run,), settings=Settings(smoothing=len(SMOOTHINGS) - 1))).curves[1].points
    whole = smooth([2 + math.sin(step / 900) for step in range(1, 6001)], SMOOTHINGS[-1])
    assert max(abs(value - whole[int(step) - 1]) for step, value in smoothed[500:]) < 0.02


# Curves

values = st.floats() | st.floats(-10, 10)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 10**6), values), max_size=40), st.integers(0, 120), st.integers(0, 30),
       st.booleans(), st.booleans(), values)  # fmt: skip
def test_any_curve_fits_any_rectangle(points, width, height, logarithmic, from_zero, rule):
    points = sorted(((float(x), y) for x, y in points), key=lambda point: point[0])
    drawn = draw(Picture((Curve(points, "red"), Curve(points, "blue", "◆", "1")), logarithmic, rule, from_zero),
                 width, height)  # fmt: skip
    lines = drawn.plain.split("\n")
    assert len(lines) == max(height, 1) and all(cell_len(line) <= max(width, 0) for line in lines)


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e300])
def test_the_smallest_and_largest_numbers_fit_a_logarithmic_axis(value):
    assert draw(Picture((Curve([(0.0, value)], ""),), logarithmic=True), 40, 8).plain


def test_a_curve_goes_where_its_values_are():
    drawn = draw(Picture((Curve([(float(x), float(x)) for x in range(100)], ""),)), 50, 11).plain.split("\n")
    dots = [[i for i, char in enumerate(row) if "\u2800" < char <= "\u28ff"] for row in drawn[:-1]]
    filled = [index for index, row in enumerate(dots) if row]
    assert filled == list(range(filled[0], filled[-1] + 1)) and len(filled) >= 9
    assert [min(dots[row]) for row in filled] == sorted((min(dots[row]) for row in filled), reverse=True)
    middle = next(row for row in range(11) if drawn[row].startswith(" 50┤"))
    assert min(dots[middle]) <= 4 + 45 // 2 + 1 <= max(dots[middle]) + 1
    assert drawn[-1].strip().startswith("└0") and "50" in drawn[-1]


def test_a_spike_among_many_values_is_seen():
    points = [(float(x), 100.0 if x == 5_003 else 1.0) for x in range(10_000)]
    top = draw(Picture((Curve(points, ""),)), 60, 10).plain.split("\n")[0]
    assert any("\u2800" < char <= "\u28ff" for char in top)


def test_a_gap_stays_a_gap():
    points = [(float(x), math.nan if 40 <= x < 60 else 1.0 + x % 2) for x in range(100)]
    rows = draw(Picture((Curve(points, ""),)), 105, 8).plain.split("\n")[:-1]
    assert all(row[50:62].strip() == "" for row in rows)


def test_ends_and_rule_are_marked():
    flat = Curve([(0.0, 2.0), (10.0, 2.0)], "", end="2")
    drawn = draw(Picture((flat, Curve([(5.0, 1.0)], "", mark="◆")), rule=1.5), 40, 12).plain
    assert drawn.count("2\n") >= 1 and drawn.count("◆") == 1 and "╌" * 20 in drawn


@pytest.mark.parametrize("key", CHARTS)
@pytest.mark.parametrize("shown", [Settings(), Settings(0, 50, True)])
def test_every_chart_fits(key, shown):
    for stream in ([], [started()], whole_run()):
        scene = Scene((run_of(stream), run_of(stream)), settings=shown)
        lines = chart(key, scene, 39, 9).plain.split("\n")
        assert len(lines) <= 9 and all(cell_len(text) <= 39 for text in lines)


@pytest.mark.parametrize("width", [25, 39, 80])
def test_no_title_of_a_chart_is_cut(width):
    stream = whole_run()
    for key, limit in ((key, limit) for key in CHARTS for limit in (Settings(), Settings(3, 50, True))):
        title = chart(key, Scene((run_of(stream),), settings=limit), width, 9).plain.split("\n")[0]
        assert title.startswith(CHARTS[key].title) and "…" not in title


def test_a_chart_without_a_number_of_its_own_gives_up_its_place():
    unknown = {"grad_norm": math.nan, "tokens_per_second": math.nan, "step_seconds": math.nan, "memory_gib": math.nan}
    lines = [replace(log(step), **unknown) for step in (10, 20)]
    foreign = Scene((run_of([replace(started(), program="", plan={}), *lines]),))
    kept = {key for key in CHARTS if is_worth_a_place(key, foreign)}
    assert kept == {"loss", "learning_rate", "step"}, "seconds a step are those between two log lines"
    assert all(is_worth_a_place(key, Scene((run_of([started()]),))) for key in CHARTS if not CHARTS[key].pairs), (
        "nothing is known yet"
    )
    assert is_worth_a_place("gradient", Scene((*foreign.runs, run_of(whole_run())))), "one of several has it"
    narrow = replace(Scene((run_of([*whole_run(), log(5000)]),)), settings=Settings(span=20))
    assert is_worth_a_place("eval", narrow), "a closer look hides no chart"


# Words


def test_a_foreign_log_has_no_checkpoints_to_tell_of():
    foreign = run_of([replace(started(), program="Axolotl", plan={}), log(10)])
    assert words_of(foreign)["checkpoint"] == "not in this log"
    assert (
        "does not tell" in meanings_of(foreign)["checkpoint"]
        and "costs all of it" not in answer("checkpoint", foreign).plain
    )
    told = run_of([replace(started(), program="", plan={}), log(10), CheckpointSaved(10, "c", 0, math.nan)])
    assert words_of(told)["checkpoint"].startswith("step 10")


@pytest.mark.parametrize(
    ("loss", "evaluated", "words"),
    [
        (0.03, None, "outstanding; overfitting?"),
        (0.03, 0.039, "outstanding, and it carries over: eval 0.039"),
        (0.03, 0.9, "learned by heart: eval 0.9 beside 0.03"),
        (0.2, 0.45, "outstanding; less so on held-out rows: eval 0.45"),
        (0.4, 0.9, "learned by heart: eval 0.9 beside 0.4"),
        (0.4, 0.5, "excellent: well trained"),
        (1.2, 3.0, "good progress"),
        (0.03, math.nan, "outstanding; overfitting?"),
    ],
)
def test_held_out_rows_answer_whether_a_low_loss_is_overfitting(loss, evaluated, words):
    stream = [started(), *(log(step, loss) for step in range(10, 80, 10))]
    if evaluated is not None:
        stream.append(Evaluated(70, 1.0, evaluated, 5000, 3.0, True))
    run = run_of(stream)
    assert words_of(run)["band"] == words
    assert f"In words: {words}." in METRICS["band"].answer.here(run)


@pytest.mark.parametrize("width", [65, 76])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_no_meaning_is_cut(width, scale):
    """65 cells, with a frame, are what the wide screen has for them at its narrowest."""
    rng = random.Random(0)
    lines = [replace(log(1000 * step, scale * rng.uniform(1, 2)), learning_rate=scale) for step in range(1, 90)]
    run = replace(run_of([replace(started(), total_steps=10**6), *lines], now=1e6), local=None)
    for metric in (*LEARNING, *MACHINE):
        meaning = line(metric, run, width - 3, 2, False).plain.split("\n")[1]
        assert meaning.strip() and "…" not in meaning, meaning
    shown = report(Scene((run,)), 120).plain
    assert not [row for row in shown.split("\n") if row.endswith("…")]


@settings(deadline=None, max_examples=60)
@given(st.lists(events, max_size=10), st.integers(1, 160), st.integers(1, 12))
def test_any_state_can_be_shown(stream, width, height):
    scene = Scene((run_of(stream), run_of(stream)))
    for text in (panes.header(scene, width), panes.progress(scene, width), legend(scene, width),
                 panes.digest(scene, width, height), panes.findings(scene, width), panes.samples(scene, width),
                 panes.last_sample(scene, width, height), panes.about(scene, width), report(scene, width),
                 *(line(metric, scene.run, width, 2, True) for metric in (*LEARNING, *MACHINE))):  # fmt: skip
        assert all(cell_len(row) <= width for row in text.plain.split("\n"))
    for key in METRICS:
        assert answer(key, scene.run).plain


def test_every_number_and_chart_has_an_answer():
    assert set(CHARTS) <= set(METRICS)
    for key in METRICS:
        assert answer(key, run_of([])).plain.count("\n\n") == 4


def test_answers_have_the_numbers_of_the_run():
    run = run_of(list(whole_run(""))[:-1])
    assert "0.4722" in answer("best", run).plain
    assert "100% of the highest so far" in answer("learning_rate", run).plain
    assert "2.31 GiB, 29% of the 8.0 GiB" in answer("memory", run).plain
    assert "a crash now costs 0 steps" in answer("checkpoint", run).plain


@pytest.mark.parametrize(
    ("seconds", "said"),
    [([0.25, 0.5], ["rank 0         0.25 s    1.5 GiB", "rank 1          0.5 s    2.5 GiB"]),
     ([], ["rank 0          1.5 GiB", "rank 1          2.5 GiB"])],
)  # fmt: skip
def test_ranks_that_share_the_model_have_memory_and_no_seconds_of_their_own(seconds, said):
    timing = Timing(10, 0, 1, 1, 0, 0, 0, seconds, [1.5, 2.5])
    text = panes.about(Scene((run_of([started(), timing]),)), 90).plain
    assert all(line in text for line in said), text
    assert ("Memory by rank" in text) == (not seconds)


def test_the_worst_finding_gets_the_room():
    change = (Change("training.learning_rate", "0.002", "0.0005"),)
    found = (Finding("a", "critical", 5, "The loss rises", "1.0, 2.0", "why", change, "high"),
             Finding("b", "info", None, "Small thing", "none", "why", (), "low"))  # fmt: skip
    scene = Scene((run_of([started(), log(10)], findings=found),))
    assert panes.digest(scene, 80, 2).plain == (
        "!! The loss rises  1.0, 2.0\n   change  training.learning_rate: 0.0005   # was 0.002"
    )
    assert "Small thing" in panes.digest(scene, 80, 3).plain
    assert "confidence high" in panes.findings(scene, 80).plain


# Replay


def replayed(clock, speed=50.0, path=RECORDED):
    return Watch([path], speed, clock=clock)


def test_a_replay_is_driven_by_the_clock_alone():
    def steps(step_seconds):
        clock = Clock()
        watch, seen = replayed(clock), {}
        for tick in range(1, int(8 / step_seconds) + 1):
            clock.seconds = tick * step_seconds
            watch.advance()
            if clock.seconds == int(clock.seconds):
                run = watch.scene().run
                seen[clock.seconds] = (repr(run.state), run.findings, run.now)
        return seen

    assert steps(0.25) == steps(1.0)


def test_a_replay_ends_where_the_run_ended():
    clock = Clock()
    watch = replayed(clock)
    assert watch.scene().run.state.step == 0
    clock.seconds = 1e6
    watch.advance()
    live = Watch([RECORDED], now=lambda: 0.0)
    live.settle()
    ended, now = watch.scene().run.state, live.scene().run.state
    assert (ended.status, ended.step, ended.recent) == (now.status, now.step, now.recent)


def test_speed_and_pause():
    clock = Clock()
    timeline = Timeline(50.0, clock)
    clock.seconds = 2.0
    assert timeline.elapsed() == 100.0
    timeline.pause(True)
    clock.seconds = 7.0
    assert timeline.elapsed() == 100.0
    timeline.pause(False)
    clock.seconds = 8.0
    assert timeline.elapsed() == 150.0


def test_the_night_between_two_attempts_is_short(tmp_path):
    path = write(tmp_path / "events.jsonl", [started(), log(10)])
    write(path, [started(10), log(20)], start=90_000.0)
    clock = Clock()
    watch = replayed(clock, 1.0, path)
    clock.seconds = 1.0 + LONGEST_PAUSE - 1
    watch.advance()
    assert watch.scene().run.state.step == 10
    clock.seconds = 1.0 + LONGEST_PAUSE + 1
    watch.advance()
    assert watch.scene().run.state.step == 20


def test_an_empty_log_can_be_replayed(tmp_path):
    path = tmp_path / "events.jsonl"
    path.touch()
    watch = replayed(Clock(5.0), 1.0, path)
    assert not watch.advance() and watch.scene().run.state.step == 0
    assert Replay.__doc__


def test_the_meanings_in_the_report_stand_in_one_column_or_not_at_all():
    rates = [replace(log(step), learning_rate=0.001 / step) for step in range(10, 60, 10)]
    timing = Timing(50, 0.01, 0.2, 0.15, 0.03, 0.01)
    run = run_of([started(), *rates, timing])
    for width in (40, 80, 100, 120):
        rows = {row[:15].strip(): row for row in report(Scene((run,)), width).plain.split("\n")}
        if width == 40:
            assert rows["learn rate"] == "  learn rate    2e-05  falling" and "…" not in "".join(rows.values())
        else:
            assert rows["learn rate"].startswith(f"{'  learn rate    2e-05  falling from 0.0001':<50}how far one step")
            assert rows["spent on"].endswith("optimizer 8%  data 2%  other 2%")


def test_the_report_is_text_with_findings_and_no_line_is_too_long():
    watch = Watch([RECORDED], now=lambda: 0.0)
    watch.settle()
    text = report(watch.scene(), 100).plain
    assert all(cell_len(row) <= 100 for row in text.split("\n"))
    for words in ("by_heart", "done", "trend", "eval loss", "change  "):
        assert words in text, words
