"""Each rule: a run that it names, with evidence and the line to change, and the nearest one that it must not name.

The states of hardware (GPU, heat, memory, disk) are constructed; the rest has real runs too, in test_runs.py.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest

from luthier.config.keys import keys
from luthier.config.load import from_dict
from luthier.doctor import RULES, findings, unjudged
from luthier.doctor.elsewhere import ELSEWHERE, name_in
from luthier.doctor.outlook import unsettled
from luthier.events.types import Gradients, Notice, Resumed, RunFinished, RunStarted
from tests.doctor.runs_of import (
    NAN,
    architecture,
    changed,
    curve,
    evaluated,
    failed,
    falling,
    found,
    log,
    machine,
    notice,
    saved,
    seen,
    started,
    steps,
    timing,
)

RATE = "training.learning_rate"
FOREIGN = RunStarted("x", 0, 0, NAN, {}, program="")


def test_a_healthy_run_is_healthy():
    logs = curve(steps())
    measured = [event for line in logs for event in (line, timing(line.step), machine(line.step))]
    evaluations = [evaluated(step, 0.9 - step / 4000) for step in (100, 200, 300, 400)]
    assert found(started(), architecture(), measured, evaluations, saved(400)) == {}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_noise_alone_names_nothing(seed, noise):
    """A batch of one row has a loss that jumps by a third from step to step; at no moment is that a finding."""
    rng = random.Random(seed)
    logs = [log(step, falling(step) * rng.lognormvariate(0, noise)) for step in range(1, 121)]
    for end in range(1, 121, 7):
        assert found(started(), logs[:end]) == {}, end


def test_loss_stuck_by_the_evaluations():
    flat = curve(steps(), lambda step: 1.3)
    finding = found(started(), flat, [evaluated(step, 1.3) for step in (100, 200, 300)])["loss-stuck"]
    assert finding.confidence == "high" and "1.3000 at step 100" in finding.evidence
    moving = [evaluated(step, 1.3 - step / 20_000) for step in (100, 200, 300)]
    assert "loss-stuck" not in found(started(), flat, moving)


def test_loss_stuck_by_the_trend_alone():
    finding = found(started(), curve(steps(), lambda step: 1.3))["loss-stuck"]
    assert "more than 5 % over 399 steps" in finding.evidence
    assert finding.severity == "warning" and changed(finding) == {RATE: ("0.0002", "0.0005")}
    assert finding.fix.startswith("luthier inspect CONFIG --row 1")
    assert found(started(), curve(steps(last=40), lambda step: 1.3)) == {}, "too early to say"
    assert found(started(), curve(steps(), lambda step: 1.3, noise=0.3)) == {}, "too noisy to say"
    assert found(started(), curve(steps(), lambda step: 1.3 if step < 10 else 0.8)) == {}, (
        "it fell at once, then stayed"
    )


def test_loss_high():
    flat = curve(steps(), lambda step: 2.6 + 2 * math.exp(-step / 30))
    finding = found(started(), flat)["loss-high"]
    assert finding.severity == "info" and finding.confidence == "low" and "from step 200 to 400" in finding.evidence
    assert found(started(**{"model.from_scratch": True}), flat) == {}
    assert found(started(), curve(steps(), lambda step: 4.0 - step / 300)) == {}, "high, and falling"
    ended = [replace(line, learning_rate=1e-6 if line.step > 200 else 2e-4) for line in flat]
    assert found(started(), ended) == {}, "the schedule has ended, so nothing moves any more"
    assert "loss-high" in found(started(), flat, evaluated(150, 2.61), evaluated(400, 2.60))
    assert found(started(), flat, evaluated(150, 2.8), evaluated(400, 2.5)) == {}


def test_loss_rising():
    rising = curve(steps(), lambda step: falling(step) + max(0, step - 200) / 1000)
    finding = found(started(), rising)["loss-rising"]
    assert "rose by" in finding.evidence
    assert changed(finding)[RATE] == ("0.0002", "7e-05"), "a third; a tenth is for what has blown up"


FEW = (1.234, 1.456, 1.789)


def few(*losses, every=10, first=0.5, apart=0.1, **changes):
    """Log lines of many steps each."""
    return [log(every * (i + 1), loss, epoch=first + apart * i, **changes) for i, loss in enumerate(losses)]


def test_a_few_lines_that_rise_are_a_finding_where_each_is_of_many_steps():
    finding = found(started(), few(*FEW))["loss-rising"]
    assert finding.confidence == "low" and changed(finding)[RATE] == ("0.0002", "7e-05")
    assert "1.234 at step 10, 1.789 at step 30 (45 % more)" in finding.evidence
    assert "loss-rising" in found(started(), few(*FEW, 1.9, 2.0))
    assert "loss-rising" in found(started(**{"plan.examples_per_step": 64}), few(1.0, 1.1, 1.2))
    counted = found(FOREIGN, few(*FEW, every=1, learning_rate=NAN))["loss-rising"]
    assert "1.234 at epoch 0.5, 1.789 at epoch 0.7" in counted.evidence
    assert changed(counted) == {"learning_rate": ("", "7e-05")} and "a third of the usual" in counted.why


@pytest.mark.parametrize(
    "lines",
    [
        few(*FEW[:2]),
        few(1.234, 1.456, 1.40),
        few(1.23, 1.27, 1.30),
        few(0.04, 0.05, 0.06),
        few(1.0, 1.1, 1.2),
        few(*FEW, every=5),
        few(2.0, 1.5, 1.234, 1.3, 1.37),
    ],
    ids=[
        "two",
        "down again",
        "little",
        "next to nothing",
        "the noise of 40 rows",
        "a few steps each",
        "after a fall, within its noise",
    ],
)
def test_a_few_lines_that_are_no_rise(lines):
    assert "loss-rising" not in found(started(), lines)


@pytest.mark.parametrize("apart", [0.01, NAN])
def test_a_few_lines_of_which_nobody_knows_how_many_steps_they_are_tell_no_rise(apart):
    assert found(FOREIGN, few(*FEW, every=1, apart=apart)) == {}


@pytest.mark.parametrize("seed", range(60))
def test_a_few_lines_that_fall_and_wobble_are_healthy_at_every_moment(seed):
    rng = random.Random(seed)
    lines = few(*(falling(10 * i) * rng.lognormvariate(0, 0.06) for i in range(12)))
    for end in range(1, 13):
        assert "loss-rising" not in found(started(), lines[:end]), end


@pytest.mark.parametrize(
    ("lines", "plan", "until"),
    [
        (few(2.451, 2.447, 2.445), {"plan.warmup_steps": 100}, "step 170"),
        (few(2.451, 2.447, 2.445), {"plan.warmup_steps": 0}, "step 80"),
        (few(2.451, every=1), {"plan.warmup_steps": 0}, "step 51"),
    ],
)
def test_what_is_too_short_to_judge_says_how_long_to_wait_and_what_then(lines, plan, until):
    run = seen(started(**plan), lines)
    words = unsettled(run, unjudged(run))
    assert f"wait until {until}, and look again" in words
    flat = len(lines) > 1
    assert ("it is flat" in words) == flat == ("training.learning_rate: 0.0005; and luthier inspect" in words)
    assert ("warm-ups" in words) == (plan["plan.warmup_steps"] == 100)


def test_a_run_that_is_over_is_not_to_be_waited_for():
    run = seen(started(total_steps=30), few(2.451, 2.447, 2.445))
    assert "the run has ended" in unsettled(run, unjudged(run))
    run = seen(started(), curve(steps()))
    assert unsettled(run, unjudged(run)) == ""


def test_a_warm_up_of_another_program_is_seen_by_its_rates():
    rising = [replace(line, learning_rate=1e-6 * line.step) for line in few(2.45, 2.45, 2.45)]
    run = seen(FOREIGN, rising)
    assert "wait until 50 steps after the warm-up" in unsettled(run, unjudged(run))


def test_a_loss_that_stays_at_a_high_rate_gets_no_higher_one():
    finding = found(started(**{RATE: 1e-3}), curve(steps(), lambda step: 1.3, learning_rate=1e-3))["loss-stuck"]
    assert finding.change == () and "luthier inspect CONFIG --row 1" in finding.fix


@pytest.mark.parametrize(
    ("program", "key"),
    [
        ("", "max_length (Axolotl: sequence_len, LLaMA-Factory: cutoff_len, Unsloth: max_seq_length)"),
        ("Axolotl", "sequence_len"),
        ("LLaMA-Factory", "cutoff_len"),
        ("Unsloth", "max_seq_length"),
    ],
)
def test_the_key_of_another_program_has_its_name_there(program, key):
    zero = [log(step, 0.0, grad_norm=NAN) for step in range(10, 50, 10)]
    finding = found(replace(FOREIGN, program=program), zero)["nothing-trained"]
    assert [change.key for change in finding.change] == [key]


def test_names_elsewhere_are_of_keys_that_exist():
    assert {*ELSEWHERE} <= {*keys()}
    assert all({*names} == {"Trainer", "Axolotl", "LLaMA-Factory", "Unsloth"} for names in ELSEWHERE.values())
    assert name_in(RATE) == name_in(RATE, "Axolotl") == "learning_rate"


def test_a_lower_rate_takes_the_end_of_its_schedule_along():
    up = curve(steps(), lambda step: falling(step) if step < 20 else 6.0)
    floor = {RATE: 0.02, "training.min_learning_rate": 1e-3}
    finding = found(started(**floor), up)["learning-rate-too-high"]
    assert changed(finding) == {RATE: ("0.02", "0.0002"), "training.min_learning_rate": ("0.001", "2e-05")}


@pytest.mark.parametrize(("from_step", "rule"), [(20, "learning-rate-too-high"), (700, "diverged")])
def test_a_loss_that_blows_up_is_the_rate_early_and_divergence_late(from_step, rule):
    logs = curve(steps(last=900), lambda step: falling(step) if step < from_step else 6.0)
    names = found(started(**{RATE: 0.02}), logs)
    assert list(names) == [rule]
    assert names[rule].severity == "critical"
    assert changed(names[rule])[RATE] == ("0.02", "0.0002")


def test_a_divergence_is_gone_when_the_loss_has_come_back():
    up = curve(range(10, 100, 10), lambda step: 1.0 if step < 60 else 3.0)
    assert found(started(), log(1, 1.3), up)
    back = curve(range(100, 400, 10), lambda step: 0.9)
    assert not {"diverged", "learning-rate-too-high"} & set(found(started(), log(1, 1.3), up, back))


def test_warmup_missing():
    hump = curve(range(1, 200, 2), lambda step: 3.0 if 3 <= step <= 9 else falling(step))
    finding = found(started(**{"plan.warmup_steps": 0, "training.warmup_steps": None}), hump)["warmup-missing"]
    assert changed(finding) == {"training.warmup_steps": ("null", "50")}
    with_one = found(started(**{"plan.warmup_steps": 50}), hump)["warmup-missing"]
    assert changed(with_one)[RATE] == ("0.0002", "7e-05")


def test_spikes_are_counted_and_are_no_divergence():
    logs = curve(range(1, 200, 2), lambda step: 3.0 if step in (101, 141, 181) else falling(step))
    finding = found(started(), logs)["loss-spikes"]
    assert finding.severity == "warning" and finding.evidence.startswith("3 in 64")
    one = found(started(), curve(range(1, 200, 2), lambda step: 3.0 if step == 121 else falling(step)))
    assert one["loss-spikes"].severity == "info" and one["loss-spikes"].step == 121


def test_learning_rate_too_low():
    flat = curve(steps(last=300), lambda step: 1.3, learning_rate=1e-8)
    finding = found(started(**{RATE: 1e-8}), flat)["learning-rate-too-low"]
    assert changed(finding)[RATE] == ("1e-08", "0.0002")
    assert "loss-stuck" not in found(started(**{RATE: 1e-8}), flat), "the cause takes the symptom's place"
    falls = curve(steps(last=300), lambda step: 1.3 - step / 1000, learning_rate=5e-6)
    assert found(started(**{RATE: 5e-6}), falls) == {}, "small, and it works"
    full = curve(steps(last=300), lambda step: 1.3, learning_rate=1e-5)
    names = found(started(**{RATE: 1e-5, "training.finetuning_type": "full"}), full)
    assert "learning-rate-too-low" not in names, "usual for full fine-tuning"


SHORT = {
    "training.num_train_epochs": 1.0,
    "training.gradient_accumulation_steps": 4,
    "plan.examples_per_step": 16,
    "plan.steps_per_epoch": 57 / 16,
}


def done(step):
    return RunFinished("done", step, 1.0, 2.5, 5.0, 1000, 1.0, "", "")


def test_a_run_that_was_over_before_it_had_learned():
    lines = [log(1, 2.604), log(3, 2.477)]
    finding = found(started(3, **SHORT), lines, done(3))["too-few-steps"]
    assert finding.evidence == "3 steps with a learning rate of 0.0002; loss 2.604 at step 1, 2.477 at step 3"
    more = {"training.gradient_accumulation_steps": ("4", "1"), "training.num_train_epochs": ("1", "10")}
    assert changed(finding) == more
    small = replace(architecture(4096), parameters=6_237_440)
    assert changed(found(started(3, **SHORT), small, lines, done(3))["too-few-steps"]) == {
        RATE: ("0.0002", "0.002"),
        **more,
    }
    low = found(started(40, **SHORT), small, log(1, 2.604), log(40, 2.31), done(40))["too-few-steps"]
    assert changed(low) == {RATE: ("0.0002", "0.002")}, "steps enough, at a good rate"


def test_a_short_run_that_learned_or_was_asked_for_is_no_finding():
    lines = [log(1, 2.604), log(3, 2.477)]
    assert found(started(3, **SHORT), lines) == {}, "it goes on"
    assert found(started(3, **SHORT, **{"training.max_steps": 3}), lines, done(3)) == {}
    assert found(started(3, **SHORT, **{"training.finetuning_type": "full"}), lines, done(3)) == {}
    assert found(started(3, **SHORT), log(1, 2.604), log(3, 2.0), done(3)) == {}, "by a fifth and more"
    assert found(started(3, **SHORT), lines, evaluated(1, 2.6), evaluated(3, 2.0), done(3)) == {}
    assert found(started(40, **SHORT), log(1, 2.604), log(40, 2.31), done(40)) == {}, "long enough for a large base"


def test_gradients_vanish():
    nothing = curve(steps(), lambda step: 1.3, grad_norm=1e-9)
    finding = found(started(**{"lora.lora_alpha": 1e-6}), nothing)["gradients-vanish"]
    assert changed(finding) == {"lora.lora_alpha": ("1e-06", "32")}
    learned = curve(steps(), lambda step: 1.3 * math.exp(-step / 20) + 1e-4, noise=0.02)
    small = [replace(line, grad_norm=line.loss / 1000) for line in learned]
    assert "gradients-vanish" not in found(started(), small), "a model that knows the rows has small gradients"


def test_gradients_explode():
    logs = curve(steps())
    long = [replace(line, grad_norm=50.0) if line.step > 360 else line for line in logs]
    assert "50 at step 400" in found(started(), long)["gradients-explode"].evidence
    once = [replace(line, grad_norm=50.0) if line.step == 400 else line for line in logs]
    assert found(started(), once) == {}


def test_always_clipped():
    logs = curve(steps(), grad_norm=0.5)
    finding = found(started(**{"training.max_grad_norm": 0.01}), logs)["always-clipped"]
    assert finding.severity == "info" and "training.max_grad_norm" in changed(finding)
    assert found(started(**{"training.max_grad_norm": 0.3}), logs) == {}, "often, and only a little"
    assert found(started(**{"training.max_grad_norm": 0.0}), logs) == {}, "never clips"


def test_layers_without_gradient():
    dead = [Gradients(step, {"layers.0": 0.5, "layers.1": 0.0, "layers.2": 0.4}, {}) for step in (100, 200)]
    finding = found(started(), curve(steps()), dead)["layers-without-gradient"]
    assert "1 of 3 layers" in finding.evidence and "layers.1" in finding.evidence
    alive = [replace(event, norms={"layers.0": 0.5, "layers.1": 1e-9}) for event in dead]
    assert found(started(), curve(steps()), alive) == {}


@pytest.mark.parametrize(("loss", "severity"), [(1.3, None), (4.5, None), (7.5, "warning"), (11.8, "critical")])
def test_first_loss_of_a_trained_model(loss, severity):
    names = found(started(), architecture(), log(1, loss))
    assert (names["first-loss-off"].severity if names else None) == severity


@pytest.mark.parametrize(("loss", "named"), [(11.8, False), (12.5, False), (19.0, True), (4.0, True)])
def test_first_loss_of_random_weights(loss, named):
    names = found(started(**{"model.from_scratch": True}), architecture(), log(1, loss))
    assert bool(names) == named
    assert not named or "11.76" in names["first-loss-off"].evidence


def high_start(*after):
    """A run that begins at 7.5 and goes on as told: (loss of three log lines, eval_loss or None) after each other."""
    yield from (started(), architecture(), log(1, 7.5))
    for number, (loss, eval_loss) in enumerate(after, 1):
        yield from (log(100 * number + step, loss) for step in (1, 2, 3))
        if eval_loss is not None:
            yield evaluated(100 * number + 4, eval_loss)


@pytest.mark.parametrize(
    ("after", "named"),
    [
        ([(5.0, None)], True),
        ([(2.1, 2.1)], True),
        ([(1.8, None)], False),
        ([(0.001, 0.0013)], False),
        ([(0.001, 2.6)], True),  # by heart, and not learned
        ([(0.5, 0.6), (3.0, 2.9)], True),
    ],
)
def test_a_first_loss_is_forgiven_once_such_text_is_learned(after, named):
    assert ("first-loss-off" in found(*high_start(*after))) == named


def test_a_first_loss_that_was_low_by_the_bands_needs_a_fall_too():
    few = architecture(vocabulary=20)
    assert "first-loss-off" in found(started(), few, log(1, 2.3), [log(step, 1.9) for step in (11, 12, 13)])
    assert "first-loss-off" not in found(started(), few, log(1, 2.3), [log(step, 1.1) for step in (11, 12, 13)])


def test_random_weights_that_learn_are_forgiven_a_large_start_and_stay_named_where_they_are_not_random():
    scratch = started(**{"model.from_scratch": True})
    after = [log(step, 0.5) for step in (101, 102, 103)]
    assert "first-loss-off" not in found(scratch, architecture(), log(1, 19.0), after)
    assert "first-loss-off" in found(scratch, architecture(), log(1, 4.0), after)


def test_the_rows_to_look_at_are_those_of_the_run():
    finding = found(started(**{"training.output_dir": "my runs/a"}), architecture(), log(1, 7.5))["first-loss-off"]
    assert finding.fix.startswith("luthier inspect --from 'my runs/a' --row 1 shows a row")
    finding = found(started(), architecture(), log(1, 7.5))["first-loss-off"]
    assert finding.fix.startswith("luthier inspect CONFIG --row 1 shows a row")


def test_nothing_trained():
    zero = [log(step, 0.0, grad_norm=NAN, trained_tokens_per_second=NAN) for step in (10, 20, 30)]
    finding = found(RunStarted("x", 100, 0, 1.0, {}, program=""), zero)["nothing-trained"]
    assert finding.severity == "critical" and finding.change[0].key.startswith("max_length (Axolotl: sequence_len, ")
    assert "loss 0.0 from step 10 to 30" in finding.evidence
    learned = [log(step, loss) for step, loss in ((10, 0.5), (20, 0.001), (30, 0.0), (40, 0.0), (50, 0.0))]
    assert "nothing-trained" not in found(started(), learned), "four digits of a loss that became small"


def test_a_loss_of_0_with_a_gradient_is_a_loss_that_happens_to_be_0():
    """That of GRPO: advantages of a group sum to 0, and their gradients do not."""
    zero = [log(step, 0.0, grad_norm=0.3, trained_tokens_per_second=NAN) for step in range(1, 20)]
    assert "nothing-trained" not in found(FOREIGN, zero)


def test_few_trained_tokens():
    few = curve(steps(), trained_tokens_per_second=40.0)
    assert "0.5 %" in found(started(), few)["few-trained-tokens"].evidence


def test_memorised_stairs_at_the_end_of_epochs():
    stairs = curve(range(10, 1001, 10), lambda step: {0: 1.0, 1: 0.8, 2: 0.6}[min(2, (step - 1) * 3 // 1000)])
    finding = found(started(), stairs)["memorised"]
    assert finding.severity == "info"
    assert re.search(r"(19|20|21) % at step 3\d0, 2\d % at step 6\d0", finding.evidence)
    smooth = curve(range(10, 1001, 10), lambda step: math.exp(-step / 1000))
    assert "memorised" not in found(started(), smooth)
    assert "memorised" not in found(started(), stairs, evaluated(300, 0.9), evaluated(900, 0.8)), "learned as well"
    assert "memorised" in found(started(), stairs, evaluated(300, 0.9), evaluated(900, 0.95))
    assert "memorised" not in found(started(), stairs, evaluated(300, 0.9)), "not evaluated since"
    low = curve(range(10, 1001, 10), lambda step: 0.1 + math.exp(-step / 200))
    assert changed(found(started(), low)["memorised"]) == {"data.val_set_size": ("0", "0.05")}
    assert found(started(), low, evaluated(900, 0.12)) == {}


def test_memorised_names_the_key_that_ends_the_run():
    stairs = curve(range(10, 1001, 10), lambda step: {0: 1.0, 1: 0.8, 2: 0.6}[min(2, (step - 1) * 3 // 1000)])
    assert changed(found(started(), stairs)["memorised"]) == {"training.num_train_epochs": ("3", "2")}
    by_steps = changed(found(started(**{"training.max_steps": 1000}), stairs)["memorised"])
    assert list(by_steps) == ["training.max_steps"] and 650 < int(by_steps["training.max_steps"][1]) < 700


def test_overfitting():
    logs = curve(steps(last=900), lambda step: 1.3 - step / 1000)
    rising = [evaluated(step, 1.0 + abs(step - 300) / 2000) for step in range(100, 901, 100)]
    finding = found(started(), logs, rising)["overfitting"]
    assert "1.000 at step 300" in finding.evidence
    assert changed(finding) == {
        "training.num_train_epochs": ("3", "1"),
        "evaluation.early_stopping_patience": ("null", "3"),
    }
    assert "step 300 are kept" in finding.why
    wobble = [evaluated(step, 1.0 + (step // 100) % 2 / 100) for step in range(100, 901, 100)]
    assert "overfitting" not in found(started(), logs, wobble)


def test_overfitting_in_a_log_without_epochs_names_no_number_of_epochs():
    logs = curve(steps(last=900), lambda step: 1.3 - step / 1000, epoch=NAN)
    rising = [replace(evaluated(step, 1.0 + abs(step - 300) / 2000), epoch=NAN) for step in range(100, 901, 100)]
    assert list(changed(found(started(), logs, rising)["overfitting"])) == ["evaluation.early_stopping_patience"]


def test_worse_than_base():
    finding = found(started(), curve(steps()), evaluated(100, 1.7))["worse-than-base"]
    assert "1.700 at step 100" in finding.evidence and finding.change
    assert found(started(), curve(steps()), evaluated(100, 1.35)) == {}
    assert found(started(**{"model.from_scratch": True}), curve(steps()), evaluated(100, 1.7)) == {}


@pytest.mark.parametrize(
    "ended",
    [
        log(410, NAN),
        log(410, math.inf),
        failed(410, "step 411: loss nan, gradient norm nan; rows 3, 4"),
        failed(410, "step 411: loss 2.1, gradient norm inf; rows 3, 4"),
    ],
)
def test_not_finite(ended):
    names = found(started(), curve(steps()), ended)
    assert list(names) == ["not-finite"] and names["not-finite"].severity == "critical"
    half = found(started(**{"model.dtype": "float16"}), curve(steps()), ended)["not-finite"]
    assert changed(half) == {"model.dtype": ("float16", "float32")}


def test_a_step_that_was_left_out_is_news_and_many_of_them_are_a_warning():
    said = Notice("warning", "left out step 12: loss nan, gradient norm nan; rows rows.jsonl:3, rows.jsonl:9", step=12)
    finding = found(started(), curve(steps(last=110)), said)["not-finite"]
    assert finding.severity == "info" and "rows.jsonl:9" in finding.evidence and "weights are sound" in finding.why
    assert finding.change == (), "it says itself that no line is to be changed yet"
    assert found(started(), curve(steps(last=110)), said, curve(range(120, 220, 10))) == {}, "a hundred steps ago"
    more = [replace(said, text=said.text.replace("12:", f"{step}:"), step=step) for step in (12, 60, 90)]
    finding = found(started(), curve(steps(last=110)), more)["not-finite"]
    assert finding.severity == "warning" and changed(finding)[RATE] == ("0.0002", "2e-05")
    assert "3 steps of the last 100; left out step 90" in finding.evidence
    up = curve(steps(), lambda step: falling(step) if step < 20 else 6.0)
    assert "learning-rate-too-high" in found(started(), up, replace(said, step=400)), "news hide no harm"
    spike = Notice("warning", "left out step 12: loss 9.1, usual 2.3; rows rows.jsonl:3", step=12)
    assert found(started(), curve(steps()), spike) == {}


FULL = "no checkpoint at step 200: No space left on device; the newest one is of step 100; training goes on"


def test_a_checkpoint_that_could_not_be_written_is_named_until_one_is():
    plan = started(**{"checkpointing.save_total_limit": 3})
    before, said = saved(100, gib=0.1), Notice("critical", FULL, step=200)
    finding = found(plan, before, curve(steps()), said)["checkpoint-not-written"]
    assert finding.severity == "critical" and finding.evidence == FULL and finding.step == 200
    assert changed(finding) == {"checkpointing.save_total_limit": ("3", "1")}
    assert "Make room on its disk" in finding.why
    assert found(plan, before, curve(steps()), said, saved(210, gib=0.1)) == {}, "the next try has written one"
    done = RunFinished("done", 410, 3.0, 1.0, 1.0, 1, 1.0, "final_model")
    assert found(plan, before, curve(steps()), said, done)["checkpoint-not-written"].severity == "warning"
    one = started(**{"checkpointing.save_total_limit": 1})
    assert found(one, curve(steps()), said)["checkpoint-not-written"].change == ()
    denied = replace(said, text="no checkpoint at step 200: Permission denied; training goes on")
    finding = found(plan, curve(steps()), denied)["checkpoint-not-written"]
    assert finding.change == () and "can be written" in finding.fix
    assert list(found(plan, curve(steps()), said, failed(410, "No space left on device"))) == ["run-failed"]


def test_gradients_that_are_no_numbers_are_the_cause_of_a_loss_of_0():
    """What transformers prints after a NaN, unless logging_nan_inf_filter is off."""
    healthy = curve(range(10, 210, 10))
    filtered = [log(step, 0.0, grad_norm=NAN) for step in range(210, 410, 10)]
    names = found(FOREIGN, healthy, filtered)
    assert list(names) == ["not-finite"] and names["not-finite"].severity == "critical"
    assert "grad_norm nan and loss 0 from step 210 to 400" in names["not-finite"].evidence
    assert "not-finite" in found(FOREIGN, curve(range(10, 210, 10)), curve(range(210, 400, 10), grad_norm=math.inf))
    skipped = [replace(line, grad_norm=math.inf) if line.step in (190, 200) else line for line in healthy]
    assert found(FOREIGN, skipped) == {}, "scaling for float16 leaves out a step now and then"
    from_the_start = [log(step, 0.0, grad_norm=NAN) for step in range(10, 210, 10)]
    assert "nothing-trained" in found(FOREIGN, from_the_start)


def test_an_evaluation_that_is_no_number():
    logs = curve(range(10, 210, 10))
    nan = [evaluated(step, NAN) for step in (100, 200)]
    finding = found(started(), logs, nan)["not-finite"]
    assert "eval_loss nan at step 200" in finding.evidence
    assert finding.severity == "warning" and "so the weights are sound" in finding.why
    unknown = [replace(line, grad_norm=NAN) for line in logs]
    assert found(FOREIGN, unknown, nan)["not-finite"].severity == "critical"
    assert found(started(), logs, nan, evaluated(210, 0.9)) == {}


def test_numbers_that_a_foreign_log_does_not_have_are_no_nan():
    unknown = dict.fromkeys(("grad_norm", "tokens_per_second", "trained_tokens_per_second", "step_seconds",
                             "memory_gib", "remaining_seconds", "epoch", "learning_rate"), NAN)  # fmt: skip
    assert found(RunStarted("x", 0, 0, NAN, {}), curve(steps(), **unknown)) == {}


OUT_OF_MEMORY = "NVIDIA RTX 4090 ran out of memory with 8,192 tokens in a micro-batch"


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({}, {"training.max_tokens_per_micro_batch": ("8192", "4096")}),
        (
            {"plan.max_tokens_per_micro_batch": 1024, "training.max_tokens_per_micro_batch": 1024},
            {"training.gradient_checkpointing": ("false", "true")},
        ),
        (
            {"plan.max_tokens_per_micro_batch": 2048, "training.max_tokens_per_micro_batch": 2048},
            {"training.gradient_checkpointing": ("false", "true")},
        ),
        (
            {"plan.max_tokens_per_micro_batch": 1024, "training.gradient_checkpointing": True},
            {"quantization.load_in_4bit": ("false", "true")},
        ),
        (
            {
                "plan.max_tokens_per_micro_batch": 1024,
                "training.gradient_checkpointing": True,
                "quantization.load_in_4bit": True,
            },
            {"data.max_seq_length": ("2048", "1024")},
        ),
    ],
)
def test_out_of_memory_names_the_smallest_change(plan, expected):
    names = found(started(**plan), curve(steps()), failed(400, OUT_OF_MEMORY))
    assert list(names) == ["out-of-memory"]
    assert changed(names["out-of-memory"]) == expected


AGAIN = "step 21 ran out of memory (E-RUN-002) and is done again, the same examples in the same order"


def helped(*changes):
    """A run that has helped itself: it gave these up, one after the other."""
    return [Notice("warning", f"{AGAIN}: {number}", line, 21) for number, line in enumerate(changes)]


def test_what_a_run_has_given_up_is_what_is_proposed():
    passes, recordings = "training.max_tokens_per_micro_batch: ", "training.cuda_graphs: false"
    notices = helped(f"{passes}4096", f"{passes}2048")
    plan, before = started(**{"training.cuda_graphs": True}), curve(steps(last=20))
    finding = found(plan, before, notices)["out-of-memory"]
    assert finding.severity == "warning" and finding.evidence.endswith(": 1") and finding.step == 21
    assert changed(finding) == {"training.max_tokens_per_micro_batch": ("8192", "2048")}
    graphs = found(plan, before, helped(recordings))["out-of-memory"]
    assert changed(graphs) == {"training.cuda_graphs": ("true", "false")}
    assert found(plan, before, helped(""))["out-of-memory"].change == (), "no key asks for what it gave up"
    assert found(plan, before, notices, curve(range(30, 140, 10)))["out-of-memory"].severity == "info"
    done = RunFinished("done", 21, 3.0, 1.0, 1.0, 1, 1.0, "final_model")
    assert found(plan, before, notices, done)["out-of-memory"].severity == "info"
    ended = found(plan, before, notices, failed(22, OUT_OF_MEMORY))["out-of-memory"]
    assert changed(ended) == {"training.gradient_checkpointing": ("false", "true")}, "2,048 did not fit either"
    disk = found(plan, before, notices, failed(22, "checkpoint-22: No space left on device"))
    assert list(disk) == ["run-failed"], "it did not die of that"


def test_where_the_yaml_decides_the_passes_their_size_is_not_proposed():
    """With `auto: false` the size of a pass is rows times the longest row, whatever that key says."""
    out = found(started(**{"training.auto": False}), curve(steps()), failed(400, OUT_OF_MEMORY))["out-of-memory"]
    assert changed(out) == {"training.auto": ("false", "true")}
    small = {"plan.max_tokens_per_micro_batch": 1024, "training.auto": False}
    finding = found(started(**small), curve(steps()), idle())["gpu-idle"]
    assert changed(finding) == {"training.per_device_train_batch_size": ("4", "8")}


@pytest.mark.parametrize(
    "said",
    [
        failed(12, "out of GPU memory: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
        notice("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"),
    ],
)
def test_out_of_memory_in_the_log_of_another_program(said):
    finding = found(FOREIGN, said)["out-of-memory"]
    assert [change.key for change in finding.change] == [
        "per_device_train_batch_size (Axolotl: micro_batch_size)",
        "gradient_accumulation_steps",
    ]


def test_advice_against_running_out_of_memory_is_no_failure():
    run = (FOREIGN, curve(steps()))
    assert found(*run, notice("gradient_checkpointing is off; you may run out of memory")) == {}
    survived = notice("an error, and the run went on: RuntimeError: HIP ran out of memory")
    assert found(*run, survived)["out-of-memory"].severity == "warning"


def test_run_failed():
    names = found(started(), curve(steps()), failed(400, "checkpoint-400: No space left on device"))
    assert names["run-failed"].title == "The disk is full"


def test_stalled():
    run = (started(), curve(steps()))
    assert "stalled" in found(*run, after=3600)
    assert "nothing for 1 h" in found(*run, after=3600)["stalled"].evidence
    assert found(*run, after=100) == {}
    done = RunFinished("done", 400, 3.0, 1.0, 1.0, 1, 1.0, "final_model")
    assert found(*run, done, after=3600) == {}
    assert found(started(), after=600) == {}, "a large model loads for minutes"
    assert found(started(total_steps=400), curve(steps()), after=3600) == {}, "all steps are done"
    at_once = seen(started(), curve(steps()), seconds=0.0)
    assert findings(at_once, 1e9) == (), "a log without times tells no silence"


def test_the_first_evaluation_may_take_its_time():
    foreign = (FOREIGN, curve(steps()))
    assert found(*foreign, after=600) == {}, "nobody knows when it evaluates"
    assert "stalled" in found(*foreign, after=2000)
    assert "stalled" in found(*foreign, evaluated(400, 0.9), after=600)
    plan = {"plan.eval_every": 150, "plan.save_every": 0, "logging.logging_steps": 10}

    def at(step, *more):
        return found(started(**plan), curve(steps(last=step)), *more, after=600)

    assert "stalled" in at(130)
    assert at(150) == {}, "it evaluates"
    assert "stalled" in at(150, evaluated(150, 0.9))
    plan["plan.eval_every"] = 155
    assert at(150) == {}, "between two log lines"
    plan |= {"plan.eval_every": 0, "plan.save_every": 150}
    assert at(150) == {} and "stalled" in at(150, saved(150))


def test_a_run_that_goes_on_loads_again():
    again = replace(started(), first_step=400), Resumed(400, "checkpoint-400")
    assert found(started(), curve(steps()), *again, after=600) == {}
    assert "stalled" in found(started(), curve(steps()), *again, after=2000)


def test_resume_jump():
    before = curve(range(10, 401, 10), lambda step: 0.8)
    back = Resumed(400, "checkpoint-400")
    again = replace(started(), first_step=400)
    after = curve(range(410, 461, 10), lambda step: 1.2)
    finding = found(started(), before, again, back, after)["resume-jump"]
    assert "(50 % more)" in finding.evidence and "step 400" in finding.evidence
    fast = [replace(line, learning_rate=0.02) for line in after]
    assert RATE in changed(found(started(), before, again, back, fast)["resume-jump"])
    calm = curve(range(410, 461, 10), lambda step: 0.8)
    assert "resume-jump" not in found(started(), before, again, back, calm)


def test_resume_jump_in_a_log_that_says_no_more_than_where_it_starts_again():
    before = curve(range(1, 31), lambda step: 2.0 - 0.8 * step / 30)
    after = curve(range(31, 41), lambda step: 2.6)
    names = found(FOREIGN, before, replace(FOREIGN, first_step=30), after)
    assert list(names) == ["resume-jump"] and "before step 30" in names["resume-jump"].evidence


def test_data_bound():
    logs = curve(steps())
    finding = found(started(), logs, [timing(step, data=0.3) for step in steps()])["data-bound"]
    assert changed(finding) == {"data.dataloader_num_workers": ("2", "4")}
    assert "39 %" in finding.evidence
    quick = [timing(step, data=0.05) for step in steps()]
    assert found(started(), logs, quick) == {}


def test_straggler():
    logs = curve(steps())

    def ranks(*seconds):
        return [replace(timing(step), own_seconds=list(seconds), own_memory_gib=[1.0] * 4) for step in steps()]

    finding = found(started(), logs, ranks(1.0, 1.1, 1.6, 1.05))["straggler"]
    assert "rank 2 takes 1.6 s a step, the others 1.05 s" in finding.evidence
    assert found(started(), logs, ranks(1.0, 1.1, 1.2, 1.05)) == {}
    turns = [
        replace(timing(step), own_seconds=[1.0, 1.0, 1.0, 1.6][step % 4 :] + [1.0] * (step % 4)) for step in steps()
    ]
    assert found(started(), logs, turns) == {}, "a different one each time is no straggler"


def idle(**changes):
    return [machine(step, gpu_utilization=30.0, **changes) for step in steps()]


def test_gpu_idle_and_its_cause():
    logs, small = curve(steps()), {"plan.max_tokens_per_micro_batch": 1024, "training.max_tokens_per_micro_batch": 1024}
    waiting = found(started(), logs, idle(), [timing(step, data=0.3) for step in steps()])
    assert list(waiting) == ["data-bound"], "the cause takes the symptom's place"
    passes = found(started(**small), logs, idle())["gpu-idle"]
    assert changed(passes) == {"training.max_tokens_per_micro_batch": ("1024", "4096")}
    short = [replace(line, num_tokens=900 * line.step) for line in logs]
    rows = found(started(**small), short, idle())["gpu-idle"]
    assert changed(rows) == {"training.per_device_train_batch_size": ("4", "8")}, "a step fits one pass"
    processor = found(started(), logs, idle(cpu_utilization=99.0))["gpu-idle"]
    assert "processor 99 % busy" in processor.evidence and processor.change == ()
    assert changed(found(started(), logs, idle())["gpu-idle"]) == {"training.per_device_train_batch_size": ("4", "8")}


def test_checkpointing_needless():
    plan = {"training.gradient_checkpointing": True}
    finding = found(started(**plan), curve(steps(), memory_gib=5.0), machine(400))["checkpointing-needless"]
    assert changed(finding) == {"training.gradient_checkpointing": ("true", "false")}
    assert found(started(**plan), curve(steps(), memory_gib=15.0), machine(400)) == {}
    asked = {**plan, "training.memory_gib": 6}
    assert found(started(**asked), curve(steps(), memory_gib=5.0), machine(400)) == {}, "it may hold no more"


def test_slowing_down_and_heat():
    logs = curve(steps(), step_seconds=2.0)
    logs = [replace(line, tokens_per_second=4000.0) if line.step > 250 else line for line in logs]
    assert "4,000 tokens a second since step 330" in found(started(), logs)["slowing-down"].evidence
    heat = [machine(step, gpu_temperature_c=83.0) for step in steps()]
    assert found(started(), logs, heat)["slowing-down"].title == "The GPU is hot and slows down"
    assert found(started(**{"machine.device": "cpu"}), logs) == {}
    short = [replace(line, step_seconds=0.05) for line in logs]
    assert found(started(), short) == {}, "a few seconds say nothing"
    fewer = replace(started(), first_step=250), Resumed(250, "checkpoint-250")
    assert found(started(), logs[:26], *fewer, logs[26:]) == {}, "it goes on with fewer devices"


def test_slowing_down_without_seconds_a_step_goes_by_tokens():
    logs = [replace(line, step_seconds=NAN) for line in curve(steps())]
    slow = [replace(line, tokens_per_second=4000.0) if line.step > 250 else line for line in logs]
    assert "slowing-down" in found(started(), slow)
    quick = [replace(line, num_tokens=line.step) for line in slow]
    assert found(started(), quick) == {}, "a few seconds say nothing"
    assert found(FOREIGN, slow, evaluated(400, 0.9)) == {}, "perhaps on a CPU, which other programs share"
    assert unjudged(seen(FOREIGN, slow))["slowing-down"] == "this log does not tell machine.device"


@pytest.mark.parametrize(("celsius", "severity"), [(80.0, None), (86.0, "warning"), (95.0, "critical")])
def test_gpu_hot(celsius, severity):
    names = found(started(), curve(steps()), [machine(step, gpu_temperature_c=celsius) for step in steps()])
    assert (names["gpu-hot"].severity if names else None) == severity


def test_memory_nearly_full():
    full = found(started(), curve(steps(), memory_gib=23.2), machine(400))["memory-nearly-full"]
    assert changed(full) == {"training.max_tokens_per_micro_batch": ("8192", "4096")}
    cached = found(started(), curve(steps(), memory_gib=20.0), machine(400, gpu_memory_used_gib=23.9))
    assert cached == {}, "torch keeps what it once had"
    others = found(started(), curve(steps()), machine(400, gpu_memory_used_gib=23.9))["memory-nearly-full"]
    assert "other programs" in others.evidence and others.change == () and others.fix, "most of it is theirs"
    ours = found(started(), curve(steps(), memory_gib=15.0), machine(400, gpu_memory_used_gib=23.9))
    assert changed(ours["memory-nearly-full"]) == {"training.max_tokens_per_micro_batch": ("8192", "4096")}
    ram = machine(400, gpu_memory_total_gib=NAN, ram_used_gib=63.0)
    own = found(started(), curve(steps(), memory_gib=50.0), ram)["memory-nearly-full"]
    assert "this machine's" in own.evidence and own.change
    theirs = found(started(), curve(steps()), ram)["memory-nearly-full"]
    assert "10.0 GiB of them this run's" in theirs.evidence and theirs.change == ()


def test_memory_nearly_full_proposes_what_the_config_takes():
    logs = curve(steps(), memory_gib=23.2)
    short = {"plan.max_tokens_per_micro_batch": 2048, "training.max_tokens_per_micro_batch": 2048}
    full = found(started(**short), logs, machine(400))["memory-nearly-full"]
    assert changed(full) == {"training.gradient_checkpointing": ("false", "true")}
    assert found(started(), logs, machine(400, gpu_memory_total_gib=0.0)) == {}, "a size of 0 is not known"


def test_disk_filling():
    run = (started(), curve(steps()), saved(400, gib=4.0))
    finding = found(*run, machine(400, disk_free_gib=9.0))["disk-filling"]
    assert "9.0 GiB free; 3 more checkpoints of 4 GiB" in finding.evidence
    assert changed(finding) == {"checkpointing.save_total_limit": ("3", "2")}
    assert found(*run, machine(400, disk_free_gib=90.0)) == {}
    small = RunFinished("done", 400, 3.0, 1.0, 1.0, 1, 1.0, "final_model")
    assert found(*run, machine(400, disk_free_gib=9.0), small) == {}, "nothing more will be written"


def test_after_the_last_checkpoint_there_is_none_ahead():
    assert found(started(400), curve(steps()), saved(400, gib=4.0), machine(400, disk_free_gib=3.0)) == {}
    assert "disk-filling" in found(started(400), curve(steps()), saved(300, gib=4.0), machine(400, disk_free_gib=3.0))


def sick_runs():
    """Some sick run for each of many rules, to look at their changes all at once."""
    yield found(started(**{RATE: 0.02}), curve(steps(), lambda step: falling(step) if step < 20 else 6.0))
    yield found(started(**{RATE: 1e-8}), curve(steps(), lambda step: 1.3))
    yield found(started(), curve(steps()), failed(400, OUT_OF_MEMORY))
    yield found(started(), curve(steps()), [timing(step, data=0.3) for step in steps()])
    yield found(started(), curve(steps(), lambda s: 1.3 - s / 1000), [evaluated(s, 1 + s / 1000) for s in (9, 99, 399)])
    yield found(started(**{"training.max_grad_norm": 0.01}), curve(steps()))


def test_what_is_proposed_is_a_valid_config():
    changes = [change for names in sick_runs() for finding in names.values() for change in finding.change]
    assert len(changes) >= 6
    for change in changes:
        from_dict({}, [f"{change.key}={change.new}"])


def test_rules_have_texts_and_name_rules_that_exist():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names) >= 27
    for rule in RULES:
        assert (
            rule.title and rule.why.endswith((".", "?")) and rule.when.startswith("Fires ") and rule.when.endswith(".")
        ), rule
        assert set(rule.replaces) <= set(names) - {rule.name}, rule.name


ODD = (0.0, 0.0, NAN, math.inf, -1.0, 1e-9, 1.0)


@pytest.mark.parametrize("seed", range(60))
def test_no_rule_breaks_on_0_or_nan(seed):
    """Logs are from anywhere, and a loss of exactly 0 is what all masked rows have."""
    rng = random.Random(seed)
    few = rng.sample(ODD, rng.randint(1, 3))

    def odd(event):
        """With some numbers replaced."""
        values = {name: rng.choice(few) for name, value in vars(event).items() if isinstance(value, float)}
        return replace(event, **{name: value for name, value in values.items() if rng.random() < 0.5})

    start = rng.choice([FOREIGN, started(), started(total_steps=0), started(**{RATE: 0.0, "lora.lora_alpha": 0})])
    first = rng.choice([1, 500])
    events = [start, architecture(rng.choice([0, 1, 128256]))]
    for step in range(first, first + rng.choice([8, 30, 120])):
        events += [odd(log(step, 1.0)), odd(timing(step)), odd(machine(step))]
        events += [odd(evaluated(step, 1.0)), odd(saved(step))] if step % 4 == 0 else []
    for rule in RULES:
        rule.examine(replace(seen(*events), now=rng.choice(ODD)))


@pytest.mark.parametrize("last", [0.0, 2.3])
def test_a_loss_of_0_breaks_no_evaluation(last):
    zero = [log(step, 0.0) for step in range(1, 121)]
    evaluations = [evaluated(step, loss) for step, loss in ((100, 0.0), (110, 0.0), (120, last))]
    rate = {RATE: 1e-9}
    for events in ((zero, evaluations), (curve(range(1, 121)), evaluations), (zero[:12], evaluations[-1])):
        assert all(finding.evidence for finding in found(started(**rate), *events).values())
