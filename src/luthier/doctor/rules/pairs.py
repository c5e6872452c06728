"""What rewards and losses show of a run that learns from pairs of answers (`objective: dpo`).

A reward is beta times the change of an answer's log-probability since step 1 (nats), the margin that of the chosen
answer less that of the rejected one. Sources: Rafailov et al. 2023 (arXiv 2305.18290); Razin et al. 2024,
"Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization" (arXiv 2410.08847).

Not covered: whether a margin is one of quality or of length; only answers tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.doctor.evidence import (
    all_of,
    change,
    evaluations,
    finite,
    logs,
    losses,
    other_rate,
    peak_rate,
    percent,
    rows_fix,
    shorter,
    usual_rate,
    warm,
)
from luthier.doctor.finding import Change, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.rules.held_out import kept_best, rose
from luthier.doctor.rules.loss import past_warm_up
from luthier.doctor.statistics import Trend, median, trend
from luthier.events.line import significant
from luthier.events.types import CHANCE, Log

FLAT, ENOUGH = 0.02, 0.1
"""A margin below the first is none; one that will be above the second by the end is on its way."""
AT_CHANCE = 0.97
"""Of log 2: a loss above it is that of pairs which are not told apart."""
DISPLACED, FAR_DISPLACED = 10.0, 30.0
"""Nats by which chosen answers have become less probable: a factor of 22,000; from the second on nobody wants it."""
USUAL_BETA = 0.1
LEARNED, WIDE = 0.9, 0.2
"""A training accuracy of all pairs but a few; held-out pairs so far behind it gain nothing from them."""
LINES = 5


def _on_pairs(run: History) -> bool:
    return run.on_pairs


def _rewards(run: History) -> str:
    known = sum(line.reward_margin is not None for line in run.whole)
    return "" if known >= LINES else f"{known} of {LINES} log lines with rewards"


def _course(lines: Sequence[Log], name: str) -> Trend:
    """Where a reward goes, from step to step."""
    values = [(line.step, getattr(line, name)) for line in lines]
    return trend([(step, value) for step, value in values if value is not None and math.isfinite(value)])


def _level(lines: Sequence[Log], name: str) -> float:
    """Where a reward stands: the median of these lines; NaN where none has it."""
    values = finite(value for line in lines if (value := getattr(line, name)) is not None)
    return median(values) if values else math.nan


def _times_rate(run: History, factor: float) -> Change:
    peak = peak_rate(run)
    return other_rate(run, significant(peak * factor, 1) if math.isfinite(peak) else usual_rate(run))


@rule("warning", needs=all_of(past_warm_up, _rewards), replaces=("loss-high",), applies=_on_pairs)
def margins_flat(run: History) -> Symptom | None:
    """Chosen and rejected answers do not part.

    Training on pairs should move chosen answers away from rejected ones. A margin that stays at 0 means that the
    weights hardly move: the learning rate is too low, or the two answers of a pair are so alike, or chosen so much at
    random, that there is nothing to learn.

    Fires of training on pairs (dpo) when, 50 steps or more after the warm-up, the margin is below 0.02, the loss within
    3 % of log 2, and the trend of the margin rules out that it gets to 0.1 by the end.
    """
    lines = warm(run)
    late = lines[-max(LINES, len(lines) // 3) :]
    now, loss = _level(late, "reward_margin"), median(losses(late))
    if not now < FLAT or not AT_CHANCE < loss / CHANCE < 2 - AT_CHANCE:
        return None
    span = lines[-1].step - lines[0].step
    to_come = max(span, run.total_steps - run.step)
    fastest = _course(lines, "reward_margin").high
    if not now + max(0.0, fastest) * to_come < ENOUGH:  # also where it is not known
        return None
    evidence = f"rewards/margins {now:.3f} and loss {loss:.3f} around step {run.step:,}, {span:,} steps after the "
    evidence += f"warm-up; chance is 0 and {CHANCE:.3f}"
    return Symptom(run.step, evidence, (_times_rate(run, 3),), fix=rows_fix(run))


@rule("info", needs=all_of(logs(16, steps=30), _rewards), applies=_on_pairs)
def chosen_displaced(run: History) -> Symptom | None:
    """Chosen answers become improbable, too.

    The loss looks at the difference of two answers alone. It also falls when both become less probable, as long as the
    rejected one falls further; then the model writes neither, but something that is in no pair (likelihood
    displacement, Razin et al. 2024). It happens most where the two answers are much alike, or where the model
    has not been trained on such answers before.

    Fires of training on pairs (dpo) when chosen answers have lost 10 nats or more (rewards/chosen / beta), still lose
    beyond chance, and the margin grows meanwhile; from 30 nats on it is a warning.
    """
    beta = float(run.get("dpo.beta") or USUAL_BETA)
    chosen, margin = (_level(run.recent[-LINES:], f"reward_{name}") for name in ("chosen", "margin"))
    lost = -chosen / beta
    if not lost >= DISPLACED or not margin > 0:
        return None
    half = run.whole[len(run.whole) // 2 :]
    start = _level(half[:LINES], "reward_margin")
    if not _course(half, "reward_chosen").high < 0 or not margin > start:
        return None
    held_out = run.evaluations[-1].reward_chosen if run.evaluations else None
    if held_out is not None and held_out > chosen / 2:
        return None  # only the pairs that it has seen
    evidence = f"rewards/chosen {chosen:.2f} at step {run.step:,}, so chosen answers have lost {lost:.0f} nats at beta "
    evidence += f"{beta:g}; the margin grew to {margin:.2f}"
    lines = (change(run, "dpo.beta", significant(3 * beta, 1), beta), _times_rate(run, 1 / 3))
    return Symptom(
        run.step,
        evidence,
        lines,
        severity="warning" if lost >= FAR_DISPLACED else "info",
        advice="Training on the chosen answers first (objective: sft) helps as well.",
    )


@rule(
    "warning",
    needs=all_of(logs(LINES), evaluations(3), _rewards),
    replaces=("overfitting", "worse-than-base", "chosen-displaced"),
    applies=_on_pairs,
)
def pairs_by_heart(run: History) -> Symptom | None:
    """The pairs are learned by heart.

    On the training pairs the chosen answer is almost always ahead, and on held-out pairs things do not get better any
    more: what is learned now are these very pairs.

    Fires of training on pairs (dpo) when 90 % of the training pairs are told apart and either two evaluations in a row
    lie 2 % or more above the best eval_loss, or no evaluation of at least three got below 0.67 and the held-out
    accuracy is 20 points lower.
    """
    best, now = run.best, run.evaluations[-1]
    accuracy = _level(run.recent[-LINES:], "reward_accuracy")
    if best is None or not accuracy >= LEARNED:
        return None
    behind = now.reward_accuracy is not None and accuracy - now.reward_accuracy > WIDE
    if not rose(run) and not (behind and best.eval_loss > AT_CHANCE * CHANCE):
        return None
    evidence = f"{percent(accuracy)} of the training pairs are told apart"
    evidence += f", {percent(now.reward_accuracy)} of the held-out ones" if now.reward_accuracy is not None else ""
    evidence += f"; eval_loss {best.eval_loss:.3f} at step {best.step:,}, {now.eval_loss:.3f} at step {now.step:,}"
    beta = float(run.get("dpo.beta") or USUAL_BETA)
    lines = (*shorter(run, best.step, best.epoch), change(run, "dpo.beta", significant(3 * beta, 1), beta))
    return Symptom(now.step, evidence, lines, "high", advice=kept_best(run))


RULES = (margins_flat, chosen_displaced, pairs_by_heart)
