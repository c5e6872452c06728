"""What the losses say about rows, masks, template and tokenizer."""

from __future__ import annotations

import math

from luthier.doctor.evidence import (
    all_of,
    change,
    finite,
    first_loss,
    first_of,
    level,
    logs,
    losses,
    of_tokens,
    percent,
    ratio,
    rows_fix,
    shorter,
    wobble,
)
from luthier.doctor.finding import Change, Severity, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.rules.loss import HIGH
from luthier.doctor.statistics import median

GUESSING = 0.7
"""A trained model whose loss is more than this share of ln(vocabulary) reads text that it was not trained on."""
FOREIGN_TEXT = 5.0
"""Nats: with 128,000 entries the share above is 8; text of any language that a model knows is below 5."""
FRESH_HIGH, FRESH_LOW = 1.25, 0.7
"""Random weights guess: their first loss is ln(vocabulary), a little more when they start large."""
READABLE = "is it text that the model was made for, in its own template?"
FEW_TRAINED = 0.01
MASKED_LINES = 3
KNOWN_BY_HEART = 0.3
"""Nats, from the bands of the training guide: below, a model may be overfitting."""
STAIR = 0.06
"""Between two epochs nothing but the epoch changes: a fall of this share there is rows recognised."""
STAIR_LINES = 3
"""Log lines on each side of a border."""
MOST_BORDERS = 50
SIGMAS = 5.0


def _first_step(run: History) -> str:
    return "" if run.beginning and run.beginning[0].step <= 20 else "the log does not begin with the run"


def _learned_since(run: History, first: float) -> bool:
    """Whether the loss has come down from `first` to that of text which a model knows; also that of held-out rows."""
    held_out = [event.eval_loss for event in run.evaluations[-1:]]
    return max([level(run.recent), *held_out]) < min(HIGH, first / 2)


@rule("warning", needs=all_of(logs(1), _first_step), applies=of_tokens)
def first_loss_off(run: History) -> Symptom | None:
    """The first loss is not that of this model on this text.

    Before the first step a trained model already knows much of any sensible text. A first loss near that of guessing
    (the logarithm of the vocabulary) means that it reads something else than it was trained on: another tokenizer,
    another template, damaged weights, or a language that it never saw.

    Fires for a trained model whose first loss is above 70 % of the logarithm of its vocabulary, or above 5, and is
    critical from 80 % of the logarithm on; for random weights, when the first loss is not near that logarithm. A loss
    that began too high is forgiven once the run has learned such text: when it is below 2 and below half of the first,
    on held-out rows, too, where there are any. Not of training on pairs (dpo), whose first loss is log 2.
    """
    loss, _ = first_loss(run)
    learned = _learned_since(run, loss)
    guess = math.log(run.vocabulary) if run.vocabulary > 1 else math.nan
    line = run.beginning[0]
    where = f"loss {loss:.2f} at step {line.step:,}"
    if run.get("model.from_scratch"):
        if not run.vocabulary or line.step > 2 or FRESH_LOW * guess < loss < FRESH_HIGH * guess:
            return None
        if learned and loss > guess:
            return None
        title = "The first loss is not that of random weights"
        evidence = f"{where}; guessing among {run.vocabulary:,} tokens is {guess:.2f}"
        fix = "the weights do not look random, or start far too large: see model_name_or_path and from_scratch"
        return Symptom(line.step, evidence, title=title, fix=fix)
    limit = min(FOREIGN_TEXT, GUESSING * guess) if guess == guess else FOREIGN_TEXT
    if loss < limit or learned:
        return None
    if not run.plan:
        evidence = f"{where}; a trained model begins below {limit:g}"
        return Symptom(line.step, evidence, confidence="low", severity="info", fix=rows_fix(run, READABLE))
    guessing = f"; guessing among {run.vocabulary:,} tokens is {guess:.2f}" if guess == guess else ""
    template = run.get("data.prompt_template")
    lines: tuple[Change, ...] = () if template in (None, "auto") else (change(run, "data.prompt_template", "auto"),)
    tokenizer = run.get("model.tokenizer_name_or_path")
    lines += (change(run, "model.tokenizer_name_or_path", None),) if tokenizer else ()
    severity: Severity = "critical" if guess == guess and loss > 0.8 * guess else "warning"
    evidence = f"{where}; a trained model begins below {limit:.2g}{guessing}"
    return Symptom(line.step, evidence, lines, severity=severity, fix=rows_fix(run, READABLE))


@rule(
    "critical",
    needs=logs(MASKED_LINES),
    replaces=("loss-stuck", "gradients-vanish", "first-loss-off"),
    applies=of_tokens,
)
def nothing_trained(run: History) -> Symptom | None:
    """No token is trained.

    The loss is exactly 0 because no token counts: every one is masked (label -100). The usual reason is a template
    whose answers the mask does not find, or answers that were cut off because the rows are too long.

    Fires when three log lines in a row say exactly 0, the loss was never near 0 before, and there is no gradient. Not
    of training on pairs (dpo), where it would be 0.693: see margins-flat.
    """
    latest = run.recent[-MASKED_LINES:]
    if any(line.loss != 0.0 or 0 < line.grad_norm < math.inf for line in latest):
        return None  # a gradient comes from tokens that count, whatever the loss adds up to
    earlier = [line.loss for line in run.whole if line.loss > 0]
    if earlier and min(earlier) < LEARNED_ALL:
        return None
    lines = (change(run, "data.max_seq_length", 2 * run.get("data.max_seq_length", 1024)),)
    first = first_of(run, lambda line: line.loss == 0.0 and not 0 < line.grad_norm < math.inf)
    evidence = f"loss 0.0 from step {first:,} to {latest[-1].step:,}"
    return Symptom(first, evidence, lines, "high", fix=rows_fix(run, "is any token of the answer trained?"))


LEARNED_ALL = 0.01
"""Nats: logs round to four digits, so a model that knows every row also shows a loss of 0.0."""


@rule("info", needs=logs(3))
def few_trained_tokens(run: History) -> Symptom | None:
    """Almost none of the tokens are trained.

    Reading a prompt costs as much as learning an answer. When nearly everything is prompt, most of the time is spent
    on reading; and where answers should be long, they have been cut off.

    Fires when less than one token in a hundred counts in the loss.
    """
    shares = finite(
        line.trained_tokens_per_second / line.tokens_per_second
        for line in run.recent
        if line.tokens_per_second > 0 and math.isfinite(line.trained_tokens_per_second)
    )
    if not shares or not median(shares) < FEW_TRAINED:
        return None
    length = run.get("data.max_seq_length")
    lines = (change(run, "data.max_seq_length", 2 * length),) if length else ()
    evidence = f"{percent(median(shares))} of the tokens count in the loss"
    return Symptom(run.step, evidence, lines, "low", fix=rows_fix(run, "is the answer whole, and is it trained?"))


@rule("info", needs=logs(4 * STAIR_LINES), applies=of_tokens)
def memorised(run: History) -> Symptom | None:
    """The loss falls in stairs: rows are recognised.

    Within an epoch every row is new and the loss falls slowly; where an epoch ends and the same rows come again it
    drops at once. The model knows the rows by heart, which says nothing about rows that it has not seen.

    Fires when the loss falls at the border of two epochs by 6 % or more, much more than within an epoch, and held-out
    rows have gained nothing since; also when it is below 0.3 after two epochs and no rows are held out to tell
    learning from remembering. Not of training on pairs (dpo): see pairs-by-heart.
    """
    epoch, now = run.recent[-1].epoch, level(run.recent)
    if not run.evaluations and now < KNOWN_BY_HEART and 2 < epoch < math.inf:
        line = change(run, "data.val_set_size", 0.05)
        evidence = f"training loss {now:.2f} in epoch {math.ceil(epoch)}, and no rows are held out to compare with"
        return Symptom(run.step, evidence, (line,), "low", title="The rows may be known by heart")
    borders = range(1, min(MOST_BORDERS, math.ceil(epoch))) if math.isfinite(epoch) else ()
    drops = [drop for border in borders if (drop := _drop(run, border)) is not None]
    if not drops or drops[-1][1] < STAIR:
        return None
    if run.best and (run.best.step > drops[-1][0] or run.evaluations[-1].step <= drops[-1][0]):
        return None  # held-out rows gain as well, or have not been asked since
    sizes = ", ".join(f"{percent(drop)} at step {step:,}" for step, drop in drops[-3:] if drop)
    lines = shorter(run, drops[-1][0], float(len(drops)))
    fix = "" if lines else "no line makes this run shorter: more rows, or a lower lora.r, leave less to know by heart"
    if not run.evaluations and not lines:
        lines, fix = (change(run, "data.val_set_size", 0.05),), ""
    return Symptom(drops[-1][0], f"the loss fell between two epochs by {sizes}", lines, fix=fix)


def _drop(run: History, border: int) -> tuple[int, float] | None:
    """(step, share by which the loss falls) where an epoch ends; None where that cannot be told or is no stair."""
    half = [line for line in run.whole if border - 0.5 < line.epoch <= border]
    before = half[-len(half) // 2 :]
    after = [line for line in run.whole if border < line.epoch <= border + 0.25]
    if len(after) > 1 and after[0].epoch - border < after[1].epoch - after[0].epoch - 1e-6:
        after = after[1:]  # the mean of the first line began before the border
    count = min(len(before), len(after))
    if count < STAIR_LINES:
        return None
    drop = ratio(median(losses(before)), median(losses(after)))
    within = ratio(median(losses(half[: len(half) // 2])), median(losses(before)))
    real = drop > SIGMAS * wobble(run.whole) * math.sqrt(2 / count) and drop > 2 * within
    return after[0].step, 1 - math.exp(-drop) if real else 0.0


RULES = (nothing_trained, first_loss_off, few_trained_tokens, memorised)
