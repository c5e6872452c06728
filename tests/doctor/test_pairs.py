"""The doctor of runs that learn from pairs of answers: rules of their own, and those that do not apply to them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from luthier.doctor import applying, unjudged
from luthier.doctor.outlook import unsettled
from luthier.events.types import RunStarted
from tests.doctor.runs_of import NAN, changed, evaluated, found, log, seen, started, steps

RATE, BETA = "training.learning_rate", "dpo.beta"
PLAN = {"training.objective": "dpo", RATE: 1e-5, BETA: 0.1}
FOREIGN = RunStarted("x", 400, 0, NAN, {}, program="")
CHANCE = math.log(2)


def pairs(step, chosen, rejected, accuracy, loss=None):
    """A log line of pairs; without a loss that of pairs with this very margin."""
    loss = math.log1p(math.exp(rejected - chosen)) if loss is None else loss
    rewards = {"reward_chosen": chosen, "reward_rejected": rejected, "reward_margin": chosen - rejected}
    return log(step, loss, learning_rate=1e-5, reward_accuracy=accuracy, **rewards)


def held_out(step, loss, accuracy, chosen=0.0):
    return replace(evaluated(step, loss), reward_accuracy=accuracy, reward_chosen=chosen, reward_margin=0.5)


def learning(at=None, chosen=0.2, rejected=-1.5, noise=0.05):
    """The usual course: margins grow, quickly at first, and the loss goes from 0.693 to 0.2."""
    rng = random.Random(3)
    lines = []
    for step in at or steps():
        part = 1 - math.exp(-(step - 1) / 100)
        a, b = chosen * part + rng.gauss(0, noise) * (step > 1), rejected * part + rng.gauss(0, noise) * (step > 1)
        lines.append(pairs(step, a, b, 0.5 + 0.45 * part))
    return lines


GOOD = [held_out(step, 0.6 - step / 1000, 0.6 + step / 2000) for step in (100, 200, 300, 400)]


@pytest.mark.parametrize("start", [started(**PLAN), FOREIGN], ids=["ours", "another program's"])
def test_a_healthy_run_is_healthy_at_every_moment(start):
    lines = learning()
    for end in range(1, len(lines) + 1):
        assert found(start, lines[:end]) == {}, end
    assert found(start, lines, GOOD) == {}
    assert unsettled(seen(start, lines), unjudged(seen(start, lines))) == ""


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_names_nothing(seed):
    """Four pairs a step: some are told apart by far, and one that is not moves the mean."""
    rng = random.Random(seed)
    lines = []
    for step in range(1, 161):
        mean = 3 * (1 - math.exp(-(step - 1) / 40))
        margins = [rng.gauss(mean, 0.6 * mean) for _ in range(4)]
        loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / 4
        lines.append(pairs(step, 0.0, -sum(margins) / 4, sum(margin > 0 for margin in margins) / 4, loss))
    for end in range(1, 161, 9):
        assert found(started(**PLAN), lines[:end]) == {}, end


def test_rules_about_a_loss_of_tokens_do_not_apply():
    of_tokens = {"first-loss-off", "loss-high", "loss-stuck", "memorised", "nothing-trained"}
    own = {"margins-flat", "chosen-displaced", "pairs-by-heart"}
    of_pairs = {rule.name for rule in applying(seen(started(**PLAN), learning()))}
    assert not of_tokens & of_pairs and own <= of_pairs
    assert not own & {rule.name for rule in applying(seen(started()))}
    assert own <= {rule.name for rule in applying(seen(FOREIGN, learning()))}, "its rewards tell"


def test_a_loss_near_0_is_no_sickness_of_pairs():
    """Of tokens 0.0 three times is a mask that hides all, and below 0.3 in the third epoch rows known by heart."""
    lines = [*learning(), *(pairs(step, 2.0, -9.0, 1.0, 0.0) for step in range(410, 900, 10))]
    assert found(started(**PLAN), lines) == {}


def test_a_line_with_a_pair_that_is_not_told_apart_yet_is_no_spike():
    def with_one(loss):
        return [pairs(step, 2.0, -4.0, 1.0, loss if step == 300 else 0.01) for step in steps(last=600)]

    assert found(started(**PLAN), with_one(0.6)) == {} and "loss-spikes" in found(started(), curve_of(with_one(0.6)))
    told = found(started(**PLAN), with_one(1.5))["loss-spikes"]
    assert "is the better answer the chosen one?" in told.fix


def curve_of(lines):
    """The same losses, of tokens."""
    return [log(line.step, line.loss) for line in lines]


def flat(at=None, noise=0.002):
    rng = random.Random(1)
    return [pairs(step, rng.gauss(0, noise), rng.gauss(0, noise), 0.5) for step in at or steps()]


def test_margins_that_stay_at_0():
    finding = found(started(**PLAN), flat())["margins-flat"]
    assert finding.severity == "warning" and "chance is 0 and 0.693" in finding.evidence
    assert changed(finding) == {RATE: ("1e-05", "3e-05")} and "chosen answer clearly the better" in finding.fix
    assert set(found(FOREIGN, flat())) == {"margins-flat"}
    assert found(started(**PLAN), flat(steps(last=40))) == {}, "too early to say"
    slow = [pairs(step, 0.0, -step / 8000, 0.6) for step in steps(last=120)]
    assert found(started(**PLAN), slow) == {}, "0.015 so far, and 0.125 by the end"
    assert found(started(total_steps=400, **PLAN), slow).keys() == {"margins-flat"}, "that end comes too soon"


def test_a_rate_that_is_far_too_low_is_told_once_and_with_the_rate_that_is_usual():
    lines = [replace(line, learning_rate=1e-9) for line in flat()]
    told = found(started(**{**PLAN, RATE: 1e-9}), lines)
    assert set(told) == {"learning-rate-too-low"} and changed(told["learning-rate-too-low"])[RATE][1] == "1e-05"


def displaced(by, at=None):
    """Both answers fall, the rejected one further."""
    return [
        pairs(step, -by * step / 400, -(by + 2) * step / 400, min(0.95, 0.5 + step / 500)) for step in at or steps()
    ]


def test_chosen_answers_that_become_improbable():
    mild = found(started(**PLAN), displaced(1.5))["chosen-displaced"]
    assert mild.severity == "info" and "lost 14 nats at beta 0.1" in mild.evidence
    assert changed(mild) == {BETA: ("0.1", "0.3"), RATE: ("1e-05", "3e-06")} and "objective: sft" in mild.why
    assert found(started(**PLAN), displaced(4.0))["chosen-displaced"].severity == "warning"
    assert changed(found(FOREIGN, displaced(1.5))["chosen-displaced"]).keys() >= {
        "beta (Axolotl: rl_beta, LLaMA-Factory: pref_beta)"
    }
    assert found(started(**PLAN), displaced(0.5)) == {}, "5 nats: as in most runs"
    assert found(started(**{**PLAN, BETA: 0.5}), displaced(1.5)) == {}, "3 nats: beta says how much a reward is"
    stands = [*displaced(1.5), *(pairs(step, -1.5, -3.5, 0.95) for step in range(410, 1600, 10))]
    assert found(started(**PLAN), stands) == {}, "it no longer falls"
    assert found(started(**PLAN), displaced(1.5), held_out(400, 0.5, 0.8, chosen=-0.1)) == {}, "held-out ones do not"


def test_pairs_learned_by_heart():
    known = [replace(line, reward_accuracy=min(1.0, 0.6 + line.step / 500)) for line in learning()]
    rising = [held_out(step, 0.55 + abs(step - 100) / 1000, 0.7) for step in (50, 100, 200, 300, 400)]
    finding = found(started(**PLAN), known, rising)["pairs-by-heart"]
    assert "100 % of the training pairs are told apart, 70 % of the held-out ones" in finding.evidence
    assert "0.550 at step 100" in finding.evidence and "weights of step 100 are kept" in finding.why
    assert changed(finding) == {BETA: ("0.1", "0.3"), "training.num_train_epochs": ("3", "1")}
    assert set(found(started(**PLAN), known, rising)) == {"pairs-by-heart"}, "one finding for one thing"
    assert found(started(**PLAN), known, GOOD) == {}, "held-out pairs gain as well"
    never = [held_out(step, 0.69, 0.55) for step in (100, 200, 300)]
    assert set(found(started(**PLAN), known, never)) == {"pairs-by-heart"}, "nothing ever carried over"
    learned_less = [replace(line, reward_accuracy=0.8) for line in known]
    assert "pairs-by-heart" not in found(started(**PLAN), learned_less, rising)


def test_worse_than_a_coin():
    wild = [pairs(step, 0, 0, 0.5, CHANCE + min(1.0, step / 40)) for step in steps(last=100)]
    finding = found(started(**PLAN), wild)["learning-rate-too-high"]
    assert "chance is 0.693" in finding.evidence
    late = [pairs(step, 0, 0, 0.5, CHANCE - step / 9000 + max(0, step - 400) / 90) for step in steps(last=500)]
    assert "worse than by chance" in found(started(**PLAN), late)["diverged"].why
    told = found(started(**PLAN), learning(), held_out(400, 0.9, 0.5))["worse-than-base"]
    assert "chance, as before step 1, is 0.693" in told.evidence and "than a coin" in told.why
    assert "base model" not in told.evidence
    assert found(started(**PLAN), learning(), held_out(400, 0.72, 0.5)) == {}
