"""What the rows show that are not trained on."""

from __future__ import annotations

import math

from luthier.doctor.evidence import (
    SMALLEST,
    all_of,
    change,
    evaluations,
    first_loss,
    logs,
    losses,
    lower_rate,
    percent,
    ratio,
    shorter,
)
from luthier.doctor.finding import Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.statistics import median, noise
from luthier.events.types import CHANCE

OVER_BEST = 0.02
"""An eval_loss this share over its best is no wobble: evaluations always see the same rows."""
TRAIN_ROSE = 0.02
"""When both losses rise, it is not the rows that are learned by heart."""
WORSE = 0.1
"""The first loss is that of few rows: an eval_loss must be higher by this share to be worse than the base model's."""

WORSE_THAN_CHANCE = (
    "On held-out pairs the loss is higher than before step 1, where no pair was told apart: the model is sure, and "
    "wrong so often that it does worse than a coin."
)


@rule("warning", needs=evaluations(3), replaces=("memorised",))
def overfitting(run: History) -> Symptom | None:
    """The model learns the rows by heart.

    The loss on held-out rows rises and that on the training rows does not: what is learned now are these very rows,
    and everything else gets worse.

    Fires when two evaluations in a row lie 2 % or more above the best one and the training loss has not risen
    with them.
    """
    best = run.best
    if best is None or not rose(run):
        return None
    before = [line for line in run.whole if line.step <= best.step][-5:]
    if before and median(losses(run.whole[-5:])) > median(losses(before)) * (1 + TRAIN_ROSE):
        return None
    now = run.evaluations[-1]
    evidence = f"eval_loss {best.eval_loss:.3f} at step {best.step:,}, {now.eval_loss:.3f} at step {now.step:,}"
    evidence += f"; training loss now {median(losses(run.whole[-5:])):.3f}" if run.whole else ""
    lines = shorter(run, best.step, best.epoch)
    if run.get("evaluation.early_stopping_patience") is None:
        lines += (change(run, "evaluation.early_stopping_patience", 3),)
    fix = "" if lines else "more rows, or a lower lora.r, leave less to learn by heart"
    return Symptom(now.step, evidence, lines, "high", advice=kept_best(run), fix=fix)


def rose(run: History) -> bool:
    """Whether the latest two evaluations lie above the best one before them, and not by chance."""
    best, latest = run.best, run.evaluations[-2:]
    if best is None or len(latest) < 2 or latest[0].step <= best.step:
        return False
    values = [event.eval_loss for event in run.evaluations if math.isfinite(event.eval_loss)]
    lowest = max(best.eval_loss, SMALLEST)
    over = min(event.eval_loss for event in latest) / lowest - 1
    return over > max(OVER_BEST, 3 * noise(values) / lowest)


def kept_best(run: History) -> str:
    """That the best weights are not lost, where they are not."""
    if run.best is None or not run.get("evaluation.load_best_model_at_end"):
        return ""
    return f"The weights of step {run.best.step:,} are kept and become final_model."


def _trained_before(run: History) -> bool:
    return not run.get("model.from_scratch")


def _untouched(run: History) -> str:
    return "" if run.beginning and run.beginning[0].step <= 2 else "the loss of the first step is not in the log"


@rule("warning", needs=all_of(logs(5), evaluations(1), _untouched), applies=_trained_before)
def worse_than_base(run: History) -> Symptom | None:
    """The model has become worse than it was.

    On held-out rows the loss is higher than that of the untouched base model in the first step: so far, training has
    destroyed more than it has taught.

    Fires when an evaluation lies 10 % above the loss of the first step, beyond the noise of a single step; of
    training on pairs (dpo) 10 % above chance, which is log 2 = 0.693.
    """
    start, doubt = first_loss(run)
    if pairs := run.on_pairs and abs(ratio(start, CHANCE)) < WORSE:  # else another loss than DPO's, in a foreign log
        start, doubt = CHANCE, 0.0
    latest = run.evaluations[-1]
    if not ratio(latest.eval_loss, start) > max(WORSE, 2.5 * doubt):
        return None
    if pairs:
        evidence = f"eval_loss {latest.eval_loss:.3f} at step {latest.step:,}; chance, as before step 1, is {start:.3f}"
        return Symptom(latest.step, evidence, lower_rate(run, 3), why=WORSE_THAN_CHANCE)
    evidence = f"eval_loss {latest.eval_loss:.3f} at step {latest.step:,}; the base model had {start:.3f} at step "
    evidence += f"{run.beginning[0].step:,} ({percent(latest.eval_loss / max(start, SMALLEST) - 1)} more)"
    return Symptom(latest.step, evidence, lower_rate(run))


RULES = (overfitting, worse_than_base)
