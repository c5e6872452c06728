"""What the curve of the training loss shows.

Sources: the bands of loss and the 50 to 100 steps that it takes to see progress are those of the training guide; the
tests are those of `luthier.doctor.statistics`.
"""

from __future__ import annotations

import math
from itertools import pairwise

from luthier.doctor.evidence import (
    SMALLEST,
    all_of,
    change,
    far_apart,
    first_loss,
    higher_rate,
    known,
    level,
    logs,
    losses,
    lower_rate,
    of_tokens,
    other_rate,
    peak_rate,
    percent,
    place,
    points,
    ratio,
    rows_a_line,
    rows_fix,
    usual_rate,
    warm,
    wobble,
)
from luthier.doctor.finding import Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.statistics import latest, median, trend
from luthier.events.line import significant
from luthier.events.types import CHANCE, Log

ENOUGH_STEPS, ENOUGH_LINES = 50, 8
"""Before so many steps, and log lines, after the warm-up a flat curve says nothing."""
FELL = 0.05
"""A fall of less than this share of the loss is no progress."""
FLAT_EVALUATION, FELL_EVALUATION = 1e-4, 0.005
"""Evaluations always see the same rows: weights that move change the loss by more than the first share, and a fall of
the second is progress."""
ROSE = 0.05
"""A rise of less than this share of the loss may be the order of the rows."""
WORSE_THAN_START = 0.15
BLOWN_UP = 0.5
"""A loss that is higher by this share than at the start, or than its best, is not the order of the rows."""
CLEAR_RISE, FEWEST_RISING = 0.1, 3
"""A rise by more than this share, over so many log lines of many steps each, is none of the order of the rows."""
ROW_NOISE = 0.35
"""How far the loss of one row lies from the mean of all, as a share of it: one standard deviation."""
LEAST_RISE = 0.2
"""Nats: when the loss is near 0, half as much again is nothing."""
SIGMAS = 5.0
"""Rules look at every log line and compare with the best of all: chance must be rarer than for one look."""
EARLY = 0.3
"""A curve that goes wrong in this share of the run does so at the full learning rate."""
FIRST = 0.1
"""The share of a run in which a warm-up would have an effect."""
JUMP = 0.3
HIGH = 2.0
HIGH_STEPS = 60
"""The bands of the training guide: 2.5 to 3 at the start, below 2 after the first few hundred rows."""
TOLD_APART = 0.3
"""A loss of pairs below it is that of pairs told apart: one among them that is not moves the mean."""
MANY_SPIKES = 3
SPIKE_SIGMAS = 6.0
BEFORE_SPIKE = 12


def _past_warm_up(run: History) -> str:
    lines = warm(run)
    steps = lines[-1].step - lines[0].step if lines else 0
    if len(lines) >= ENOUGH_LINES and steps >= ENOUGH_STEPS:
        return ""
    return f"{steps:,} of {ENOUGH_STEPS} steps, {len(lines)} of {ENOUGH_LINES} log lines after the warm-up"


past_warm_up = all_of(logs(ENOUGH_LINES, steps=ENOUGH_STEPS), _past_warm_up)


@rule("warning", needs=past_warm_up, replaces=("loss-high",), applies=of_tokens)
def loss_stuck(run: History) -> Symptom | None:
    """The loss does not fall.

    The model sees the rows and its weights do not move, or move to no end. Either the steps are too small, or what
    should be trained is frozen, or the rows have nothing in them that can be learned.

    Fires when, 50 steps or more after the warm-up, evaluations are the same to four digits, or when the trend of the
    training loss rules out a fall of 5 %. A curve that is too noisy to tell raises nothing. Not of training on
    pairs (dpo): see margins-flat.
    """
    lines = warm(run)
    steps = f"over {lines[-1].step - lines[0].step:,} steps (50 to 100 are enough to see progress)"
    seen = run.evaluations
    start, doubt = first_loss(run)
    if len(seen) > 1 and seen[-1].step - seen[0].step >= ENOUGH_STEPS / 2 and seen[0].eval_loss > 0.8 * start:
        fell = 1 - seen[-1].eval_loss / max(seen[0].eval_loss, SMALLEST)
        if abs(fell) < FLAT_EVALUATION:
            evidence = f"eval_loss {seen[0].eval_loss:.4f} at step {seen[0].step:,}, {seen[-1].eval_loss:.4f} at "
            return Symptom(run.step, f"{evidence}step {seen[-1].step:,}", higher_rate(run), "high", fix=rows_fix(run))
        if fell > FELL_EVALUATION:
            return None
    curve = trend(points(lines))
    span, now = lines[-1].step - lines[0].step, level(lines, max(3, len(lines) // 3))
    most_fall = -curve.low * span
    if most_fall > FELL * now or ratio(start, now) > FELL + doubt / 2:
        return None
    evidence = f"loss {now:.3f}: a fall of more than {percent(FELL)} {steps} is ruled out"
    return Symptom(run.step, evidence, higher_rate(run), fix=rows_fix(run))


_enough_to_rise = logs(12, steps=30)


def _trend_or_few(run: History) -> str:
    return "" if _few_that_rise(run) else _enough_to_rise(run)


def _few_that_rise(run: History) -> tuple[Log, ...]:
    """Log lines that are too few for a trend, of many steps each, every one higher than the one before; else none.

    From the first line on, a tenth more is no chance where a line is the mean of many rows: a healthy run falls there.
    Later, or where it is of few rows, it has to stand out.
    """
    lines = run.whole
    if not _enough_to_rise(run) or not far_apart(run):
        return ()
    first = len(lines) - 1
    while first and lines[first - 1].loss < lines[first].loss:
        first -= 1
    rising = lines[first:]
    chance = 3 * math.sqrt(2) * ROW_NOISE / math.sqrt(rows_a_line(run))
    least = max(math.log1p(CLEAR_RISE), chance, SIGMAS * wobble(lines) if first else 0.0)
    if len(rising) < FEWEST_RISING or rising[-1].loss < rising[0].loss + LEAST_RISE / 4:
        return ()
    return rising if ratio(rising[-1].loss, rising[0].loss) > least else ()


@rule("warning", needs=_trend_or_few)
def loss_rising(run: History) -> Symptom | None:
    """The loss rises.

    Each step should make the model a little less wrong. A loss that climbs steadily means that the steps are too
    large for where the weights are now, or that the rows have changed.

    Fires when the trend over the last two fifths of the run is upwards beyond chance, by 5 % or more, and the loss
    is above its best; of fewer than twelve log lines when three or more of them, of at least ten steps or a tenth of
    an epoch each, rise one after the other by more than 10 %. Of training on pairs (dpo) not below 0.3, where a single
    pair moves the mean.
    """
    if few := _few_that_rise(run):
        return _rise_of_few(run, few)
    lines = latest(run.whole)
    span, now = lines[-1].step - lines[0].step, level(lines)
    rise = trend(points(lines)).low * span
    best = min(median(losses(run.whole[i : i + 3])) for i in range(len(run.whole) - 2))
    if run.on_pairs and now < TOLD_APART:
        return None
    if rise < ROSE * now or ratio(now, best) < ROSE + 2 * wobble(lines):
        return None
    return Symptom(
        lines[-1].step,
        f"from step {lines[0].step:,} to {lines[-1].step:,} the loss rose by {rise:.2f} or more, to {now:.2f}",
        lower_rate(run, 3),
    )


def _rise_of_few(run: History, lines: tuple[Log, ...]) -> Symptom:
    before, now = lines[0], lines[-1]
    more = percent(now.loss / max(before.loss, SMALLEST) - 1)
    evidence = f"{len(lines)} log lines, each higher than the one before: loss {before.loss:.3f} {place(run, before)}, "
    evidence += f"{now.loss:.3f} {place(run, now)} ({more} more)"
    advice = ""
    change_to = lower_rate(run, 3)
    if not math.isfinite(peak_rate(run)):
        usual = usual_rate(run)
        advice = f"This log does not tell the learning rate: the line is a third of the usual {usual:g}."
        change_to = (other_rate(run, significant(usual / 3, 1)),)
    return Symptom(now.step, evidence, change_to, "low", advice=advice)


def _blown_up(run: History) -> tuple[int, str] | None:
    """(step from which it climbed, what it did) of a loss that has left its curve; None: it has not."""
    lines = run.whole
    start, doubt = first_loss(run)
    now, sigma = level(run.recent), wobble(lines)
    # the first line is a single step, and by chance far below the others
    middles = [(median(losses(lines[i : i + 3])), lines[i + 1].step) for i in range(len(lines) - 2)]
    best, best_step = min(middles)
    climbed = ratio(max(middles)[0], start) > 5 * doubt
    above_start = climbed and ratio(now, start) > max(WORSE_THAN_START, 4 * sigma, 2 * doubt)
    above_best = ratio(now, best) > max(BLOWN_UP, SIGMAS * sigma) and not (run.on_pairs and now < TOLD_APART)
    if above_start and start < best:
        best, best_step = start, lines[0].step
    if not (above_start or above_best) or now < best + LEAST_RISE:
        return None
    top = max((line for line in lines if line.step >= best_step), key=lambda line: line.loss)
    return best_step, f"loss {best:.2f} at step {best_step:,}, {top.loss:.2f} at step {top.step:,}, {now:.2f} now"


@rule(
    "critical",
    needs=logs(5),
    replaces=("loss-rising", "worse-than-base", "gradients-explode", "loss-spikes", "loss-high"),
)
def diverged(run: History) -> Symptom | None:
    """The loss has blown up.

    One or a few steps were so large that they destroyed what the weights knew. A model seldom comes back from there:
    what it learns afterwards is how often each word comes.

    Fires when the latest log lines lie 15 % above the first loss, or half as much again above the best, and far
    outside the noise.
    """
    blown = _blown_up(run)
    if blown is None:
        return None
    return Symptom(run.step, blown[1], lower_rate(run), "high", why=_worse_than_a_coin(run))


def _worse_than_a_coin(run: History) -> str:
    """What a loss far above chance means where it is one of pairs; empty of any other."""
    if not run.on_pairs or level(run.recent) < CHANCE:
        return ""
    return "The steps were so large that pairs are told apart worse than by chance, whose loss is log 2 = 0.693."


@rule(
    "critical",
    needs=logs(5),
    replaces=(
        "diverged",
        "loss-rising",
        "worse-than-base",
        "gradients-explode",
        "loss-spikes",
        "loss-stuck",
        "loss-high",
    ),
)
def learning_rate_too_high(run: History) -> Symptom | None:
    """The learning rate is too high.

    The learning rate is the length of a step downhill. With steps that are longer than the valley is wide the model
    climbs the other side, and each step makes it worse.

    Fires when the loss blows up in the first third of a run, where the learning rate is near its peak.
    """
    blown = _blown_up(run)
    if blown is None:
        return None
    step, evidence = blown
    if run.total_steps and step > EARLY * run.total_steps:
        return None
    peak = peak_rate(run)
    evidence += f"; learning rate {peak:g} at its peak" if peak == peak else ""
    evidence += f"; chance is {CHANCE:.3f}" if run.on_pairs else ""
    return Symptom(run.step, evidence, lower_rate(run), "high")


@rule("warning", needs=logs(8, steps=8), replaces=("loss-spikes",))
def warmup_missing(run: History) -> Symptom | None:
    """The first steps were too large.

    In the first steps the optimizer does not know yet how large the gradients are, and full-sized steps throw the
    model about. A warm-up raises the learning rate from 0 over the first steps.

    Fires when the loss jumps by a third or more in the first steps and comes down again afterwards.
    """
    start, doubt = first_loss(run)
    early = [line for line in run.whole if line.step <= max(20, FIRST * run.total_steps)]
    high = max(JUMP, SIGMAS * wobble(run.whole), 3 * doubt)
    hump = [min(pair, key=lambda line: line.loss) for pair in pairwise(early)]  # one line alone is a spike
    if not hump:
        return None  # one line at most, or a log that begins later
    top = max(hump, key=lambda line: line.loss)
    if ratio(top.loss, start) < high or top.loss < start + LEAST_RISE or _blown_up(run):
        return None
    evidence = f"loss {start:.2f} at step {run.whole[0].step:,}, {top.loss:.2f} at step {top.step:,}, then down again"
    planned = run.get("plan.warmup_steps")
    if planned is None or planned < 0.03 * run.total_steps:
        new = max(5, round(0.05 * run.total_steps))
        return Symptom(top.step, evidence, (change(run, "training.warmup_steps", new),))
    lower = (other_rate(run, significant(peak_rate(run) / 3, 1)),)
    return Symptom(top.step, evidence, lower, advice="There was one here: the learning rate itself is too high.")


@rule("info", needs=logs(BEFORE_SPIKE + 4))
def loss_spikes(run: History) -> Symptom | None:
    """Single steps with a much higher loss.

    One batch was nothing like the others: broken or foreign rows, mostly. The curve came back, so little is lost; when
    it happens often, look at the rows of those steps.

    Fires when one log line lies far above the twelve before it (of training on pairs, dpo, above chance, too) and the
    next ones do not; from three on it is a warning.
    """
    spikes = []
    lines = run.recent if len(run.recent) > 40 else run.whole
    high = max(SPIKE_SIGMAS * wobble(lines), JUMP)
    for index in range(BEFORE_SPIKE, len(lines) - 1):
        usual = level(lines[index - BEFORE_SPIKE : index], BEFORE_SPIKE)
        after = min(losses(lines[index + 1 : index + 3]))
        least = max(usual + LEAST_RISE, CHANCE if run.on_pairs else 0.0)
        if ratio(lines[index].loss, usual) > high and lines[index].loss > least and after < usual + LEAST_RISE:
            spikes.append((lines[index], usual))
    if not spikes:
        return None
    last, usual = spikes[-1]
    evidence = (
        f"{len(spikes)} in {len(lines)} log lines; loss {last.loss:.2f} at step {last.step:,}, before {usual:.2f}"
    )
    question = "is the better answer the chosen one?" if run.on_pairs else "are they broken, or of another kind?"
    fix = rows_fix(run, f"those of step {last.step:,}, and the longest: {question}")
    clip = () if run.get("training.max_grad_norm", 1.0) else (change(run, "training.max_grad_norm", 1.0),)
    return Symptom(last.step, evidence, clip, severity="warning" if len(spikes) >= MANY_SPIKES else "info", fix=fix)


def _instructions(run: History) -> bool:
    """Only the answers of a trained model have a usual loss."""
    return of_tokens(run) and not run.get("model.from_scratch") and bool(run.get("data.completion_only_loss", True))


@rule("info", needs=all_of(logs(16, steps=HIGH_STEPS), known("data.completion_only_loss")), applies=_instructions)
def loss_high(run: History) -> Symptom | None:
    """The loss stays high.

    The model has learned what the answers look like and nothing else: it no longer improves, at a loss at which a
    fine-tuned model has just begun. Look at some rows: do the answers follow from the questions? Are they in a
    language that the model knows?

    Fires for answers of a trained model when the loss is above 2 and, over the last half, evaluations fall by less
    than 5 % or the trend of the training loss rules out such a fall, while the learning rate is still at work.
    """
    half = run.whole[len(run.whole) // 2 :]
    now, span = level(half, len(half)), half[-1].step - half[0].step
    if now < HIGH or not half[len(half) // 4].learning_rate > peak_rate(run) / 10:
        return None
    seen = [event.eval_loss for event in run.evaluations if event.step >= half[0].step - span / 4]
    most_fall = seen[0] - seen[-1] if len(seen) > 1 else -trend(points(half)).low * span
    if most_fall > FELL * now:
        return None
    evidence = f"loss {now:.2f} from step {half[0].step:,} to {half[-1].step:,}"
    return Symptom(run.step, evidence, confidence="low", fix=rows_fix(run))


RULES = (learning_rate_too_high, diverged, warmup_missing, loss_rising, loss_stuck, loss_high, loss_spikes)
