"""A run that learns from pairs of answers is told in rewards and chance, never in perplexity."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from luthier.events.types import Evaluated
from luthier.monitor.dashboard import charts
from luthier.monitor.dashboard.charts import CHARTS, is_worth_a_place, picture
from luthier.monitor.dashboard.explain import answer, here
from luthier.monitor.dashboard.metrics import LEARNING, MACHINE, METRICS, line
from luthier.monitor.dashboard.report import report
from luthier.monitor.dashboard.scene import Scene, WatchedRun
from luthier.monitor.dashboard.watching import Watch
from luthier.monitor.state import RunState, fold
from luthier.monitor.statistics import PAIR_BANDS, band, in_words
from luthier.monitor.view import render, summary
from tests.events.stream import finished, log, started
from tests.monitor.dash import tour, write

WRONG = ("perplexity", "0 = certain", "token certain", "every right token", "very good", "outstanding")
"""What is said of a loss of tokens."""


def pairs(step, part):
    chosen, rejected = 0.4 * part, -1.6 * part
    return replace(
        log(step, math.log1p(math.exp(rejected - chosen))),
        reward_chosen=chosen, reward_rejected=rejected, reward_margin=chosen - rejected,
        reward_accuracy=0.5 + 0.45 * part,
    )  # fmt: skip


LINES = [pairs(step, step / 100) for step in range(10, 101, 10)]
HELD_OUT = Evaluated(100, 3.0, 0.35, 5000, 3.0, True, 0.1, -0.9, 1.0, 0.8125)
KNOWN = replace(started(), plan={**started().plan, "training.objective": "dpo", "dpo.beta": 0.1})
FOREIGN = replace(started(), plan={}, program="")


def run_of(*stream):
    state = RunState()
    for index, event in enumerate(stream):
        state = fold(state, event, 100.0 + index)
    return WatchedRun("run", "events.jsonl", "test", state, (), 200.0)


@pytest.fixture(params=[KNOWN, FOREIGN], ids=["ours", "another program's"])
def run(request):
    return run_of(request.param, *LINES, HELD_OUT)


def panel(state, width=140):
    console = Console(file=io.StringIO(), width=width, height=40)
    console.print(render(state, 200.0, width, 40))
    return console.file.getvalue()


def test_its_plan_or_its_rewards_tell_what_it_is(run):
    assert run.state.on_pairs
    assert run_of(KNOWN).state.on_pairs, "before its first line, too"
    assert not run_of(started(), *(log(step) for step in range(10, 60, 10))).state.on_pairs
    assert not run_of(FOREIGN, log(10)).state.on_pairs


def test_no_view_says_of_it_what_is_true_of_tokens(run):
    said = [panel(run.state), report(Scene((run,)), 120).plain, *(answer(key, run).plain for key in METRICS)]
    said += [line(metric, run, 90, 2, False).plain for metric in (*LEARNING, *MACHINE) if metric.shown(run)]
    assert [word for word in WRONG if any(word in text for text in said)] == []


def test_the_panel_has_margin_and_accuracy(run):
    shown = panel(run.state)
    assert "lower is better; 0.693 = chance" in shown and "on pairs it never trains on" in shown
    assert "95%  held out 81%" in shown and "2  held out 1" in shown
    narrow = panel(run.state, 40)
    assert all(cell_len(row) <= 40 for row in narrow.split("\n"))
    done = [text.plain for text in summary(fold(run.state, finished(), 300.0), 80)]
    assert any("accuracy" in text and "held out 81%" in text for text in done)


def test_the_dashboard_has_them_in_the_place_of_what_matters_less(run):
    keys = [metric.key for metric in LEARNING if metric.shown(run)]
    assert keys == ["loss", "eval", "band", "accuracy", "margin", "slope", "learning_rate", "gradient"]
    assert len(keys) == len([metric for metric in LEARNING if metric.shown(run_of(started(), log(10)))])
    texts = {metric.key: line(metric, run, 76, 2, False).plain for metric in LEARNING}
    assert "95%  held out 81%" in texts["accuracy"] and "50% is chance" in texts["accuracy"]
    assert "chosen +0.4, rejected −1.6" in texts["margin"]
    assert "usual words for 0.1 to 0.3" in texts["band"] and "tells pairs well apart" in texts["band"]
    assert not [text for text in texts.values() if "…" in text]


def test_its_charts_are_margin_and_accuracy_with_those_of_held_out_pairs(run):
    scene, other = Scene((run,)), Scene((run_of(started(), *(log(step) for step in (10, 20))),))
    assert charts.aside(scene) == ("margin", "accuracy", "learning_rate") and "margin" not in charts.aside(other)
    assert is_worth_a_place("margin", scene) and is_worth_a_place("accuracy", scene)
    assert not is_worth_a_place("margin", other)
    assert picture("accuracy", scene).curves[-1].points == [(100.0, 0.8125)]
    assert picture("margin", scene).curves[0].points[-1] == (100.0, 2.0)
    assert "◆ eval" in charts.chart("margin", scene, 60, 10).plain
    assert {key for key, chart in CHARTS.items() if chart.pairs} == {"margin", "accuracy"}


def test_answers_tell_its_own_numbers(run):
    assert "log 2 = 0.693" in answer("loss", run).plain and "Chance is 0.6931." in answer("loss", run).plain
    assert "pairs that are held out" in answer("eval", run).plain
    assert "This run stands at 0.1530, which is 0.1 to 0.3." in answer("band", run).plain
    assert "95% of the pairs since the line before; held out 81%" in answer("accuracy", run).plain
    assert "Here it is 0.4, at step 100." in here("rewards/chosen", run)
    ratio = "a chosen answer is 54.6 times as probable as before step 1 (beta is 0.1)"
    assert (ratio in answer("margin", run).plain) == bool(run.state.plan), "e^(0.4 / 0.1), where beta is known"


@pytest.mark.parametrize(
    ("loss", "evaluated", "words"),
    [
        (0.9, None, "worse than chance"),
        (0.6931, 0.6931, "chance, as at the start"),
        (0.6, None, "begins to tell them apart"),
        (0.4, 0.5, "tells most pairs apart"),
        (0.2, 0.69, "learned by heart: eval 0.69 beside 0.2"),
        (0.05, None, "all told apart; by heart?"),
        (0.05, 0.2, "all told apart, and it carries over: eval 0.2"),
        (0.05, 0.55, "all told apart; less so held-out ones: eval 0.55"),
        (math.nan, 0.5, "broken: the loss is not a number"),
    ],
)
def test_a_loss_of_pairs_in_words(loss, evaluated, words):
    forms = in_words(loss, evaluated, pairs=True)
    assert forms[0] == words and list(forms) == sorted(forms, key=len, reverse=True)
    assert len(forms[-1]) <= 27 or math.isnan(loss), "the room that 80 columns leave"
    assert [low for low, _, _ in PAIR_BANDS] == sorted((low for low, _, _ in PAIR_BANDS), reverse=True)
    assert band(0.69)[1] == "very good", "of tokens it is something else"


def test_the_screen_at_its_smallest(tmp_path):
    watch = Watch([write(tmp_path / "events.jsonl", [KNOWN, *LINES, HELD_OUT])])
    watch.advance()
    seen = tour(watch, {"overview": (), "charts": ("2",)})
    overview = seen["overview"]
    assert all(words in overview for words in ("accuracy   95%  held out 81%", "margin     2  held out 1"))
    assert "  best  " not in overview and "  mean  " not in overview and "q Quit" in overview
    assert "margin of pairs" in seen["charts"] and "pairs told apart" in seen["charts"]
