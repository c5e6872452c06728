"""A report of a run on pairs of answers says what was trained, and draws margins; so does the card of its model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from luthier.report.page import page
from luthier.report.run import read_run
from luthier.report.several import several
from luthier.report.words import came_out, done
from luthier.training.card import card
from luthier.training.state import TrainState
from tests.report.reading import curve, figure, insist_safe, rows
from tests.report.runs import evaluated, finished, logs, plan_of, started, write_events


def pairs(step):
    part = step / 40
    return {
        "reward_chosen": part,
        "reward_rejected": -part,
        "reward_margin": 2 * part,
        "reward_accuracy": 0.5 + part / 2,
    }


def run_on_pairs(folder):
    plan = plan_of(objective="dpo")
    lines = [replace(line, loss=math.log1p(math.exp(-line.step / 20)), **pairs(line.step)) for line in logs(1, 40)]
    seen = [replace(evaluated(step, 0.7 - step / 200), **pairs(step)) for step in (20, 40)]
    return write_events(folder, started(plan), lines, seen, finished())


def test_the_page_of_a_run_on_pairs(tmp_path):
    run = read_run(run_on_pairs(tmp_path / "run"))
    assert "fine-tuned to prefer (DPO with beta 0.1, against itself as it was before step 1)" in done(run)
    assert "on pairs of rows.jsonl: 40 steps of 16 pairs" in done(run)
    assert "The loss on held-out pairs (chance: 0.6931) was 0.6000 at step 20 and 0.5000" in came_out(run)
    assert "in 100% of them the chosen answer was then ahead" in came_out(run)
    html = page(run, 1.8e9)
    insist_safe(html)
    assert "nats a token" not in html and "held-out rows" not in html
    assert curve(figure(html, "loss of pairs (chance: 0.693)"), "c1")[-1] == pytest.approx(0.5, abs=0.01)
    assert len(curve(figure(html, "margin: reward of chosen less rejected"), "c0")) == 20
    assert len(curve(figure(html, "pairs with the chosen answer ahead"), "c1")) == 2
    assert ("40", "0.67", "0.5000", "2.0000", "100%", "900", "best so far") in rows(html)


def test_losses_of_two_kinds_are_not_compared(tmp_path):
    one = read_run(run_on_pairs(tmp_path / "one"))
    other = read_run(write_events(tmp_path / "two", started(plan_of()), logs(1, 20)))
    words = "are no numbers of one kind"
    assert words in several([one, other]) and words not in several([one, one]) and words not in several([other, other])


def test_the_card_says_how_it_was_trained():
    plan = plan_of(objective="dpo")
    text = card(plan, TrainState())
    assert "tags: [luthier, lora, dpo]" in text and "16 pairs;" in text
    assert "- method: direct preference optimization (DPO, arXiv 2305.18290) with beta 0.1; the reference is" in text
    plain = card(plan_of(), TrainState())
    assert "dpo]" not in plain and "method:" not in plain and "16 examples;" in plain
