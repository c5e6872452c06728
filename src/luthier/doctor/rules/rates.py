"""What the learning rate and the gradients show."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.config.advice import FEW_STEPS, good_rate, is_short, more_steps
from luthier.doctor.evidence import (
    SMALLEST,
    all_of,
    change,
    finite,
    inspect_row,
    known,
    level,
    logs,
    losses,
    lower_rate,
    other_rate,
    peak_rate,
    percent,
    points,
    ratio,
    usual_rate,
    warm,
)
from luthier.doctor.finding import Change, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.statistics import median, trend
from luthier.events.types import Log

TOO_LOW = 20
"""So many times less than usual is low enough to be asked about when nothing moves ..."""
FAR_TOO_LOW = 1000
"""... and so many times less is hardly ever meant: asked about earlier."""
LOW_STEPS, FAR_TOO_LOW_STEPS = 100, 20
UNMOVED = 0.005
"""Evaluations that change by less than this share are those of a model that stands still."""
HARDLY = 0.2
"""A loss that falls by less is that of a model that has hardly begun: that of the quickstart's base falls by 17 % in 6
steps at a good rate, by 28 % in 12 and by 39 % in 25."""
NO_GRADIENT = 1e-7
"""Lengths below are nothing: sums of 1e6 rounding errors of float32 are longer."""
VANISHED = 1e-4
"""A gradient of this share of the first ones, while the loss is far from 0, has been cut off."""
LEARNED = 0.1
"""Nats: below, small gradients are those of a model that knows the rows."""
EXPLODED = 30.0
"""So many times the usual length, for several log lines: not one odd batch."""
CLIP_FACTOR = 10.0
"""Gradients so many times longer than max_grad_norm: clipping no longer cuts peaks, it sets every step's length."""
CLIPPED_SHARE = 0.95
LAYERS_NAMED = 3


@rule("warning", needs=logs(8, steps=FAR_TOO_LOW_STEPS), replaces=("loss-stuck", "loss-high", "margins-flat"))
def learning_rate_too_low(run: History) -> Symptom | None:
    """The learning rate is too low.

    The steps are so short that the weights hardly move: at this pace the run ends long before the model has learned
    anything.

    Fires when the peak is a twentieth of what is usual or less and neither evaluations nor the trend of the
    training loss move; the further below, the earlier.
    """
    peak, usual = peak_rate(run), usual_rate(run)
    if not peak < usual / TOO_LOW:
        return None
    lines = warm(run)
    wait = FAR_TOO_LOW_STEPS if peak < usual / FAR_TOO_LOW else LOW_STEPS
    if len(lines) < 6 or lines[-1].step - lines[0].step < wait or _moves(run, lines):
        return None
    evidence = f"learning rate {peak:g} at its peak; loss {losses(run.beginning)[0]:.2f} at step "
    evidence += f"{run.beginning[0].step:,}, {level(lines, 5):.2f} around step {run.step:,}"
    return Symptom(run.step, evidence, (other_rate(run, usual),), "high")


def _moves(run: History, lines: Sequence[Log]) -> bool:
    """Whether the loss falls, by what evaluations say, or else by the trend of the training loss."""
    seen = run.evaluations
    if len(seen) > 1:
        return abs(seen[-1].eval_loss / max(seen[0].eval_loss, SMALLEST) - 1) > UNMOVED
    return trend(points(lines)).high < 0


def _over_soon(run: History) -> bool:
    """Whether the run of an adapter is over, and nobody asked for so short a one."""
    done = run.finished is not None and run.finished.status == "done" and run.get("plan.steps_per_epoch", 0) > 0
    adapter = run.get("training.finetuning_type") == "lora" and not run.on_pairs
    return (
        done
        and adapter
        and run.get("training.max_steps") is None
        and is_short(run.step, peak_rate(run), run.parameters)
    )


@rule("warning", needs=logs(2), applies=_over_soon)
def too_few_steps(run: History) -> Symptom | None:
    """The run was over before it had learned anything.

    A step moves each weight by about the learning rate. So few steps, or such short ones, cannot move them far,
    whatever the rows are: the model answers nearly as its base does.

    Fires when the run of an adapter has ended, its length was not asked for (max_steps), learning rate x steps is less
    than 25 steps at a good rate would make it, and neither the training loss nor the held-out one fell by a fifth.
    """
    first, last, held_out = run.beginning[0], run.recent[-1], run.evaluations
    falls = [(first.loss, last.loss), *((held_out[0].eval_loss, one.eval_loss) for one in held_out[-1:])]
    if any(ratio(now, before) < math.log(1 - HARDLY) for before, now in falls):
        return None
    steps = "1 step" if run.step == 1 else f"{run.step:,} steps"
    evidence = f"{steps} with a learning rate of {peak_rate(run):g}; loss {first.loss:.3f} at step {first.step:,}, "
    evidence += f"{last.loss:.3f} at step {last.step:,}"
    lines = _further(run)
    return Symptom(run.step, evidence, lines, "high", fix="" if lines else "more rows")


def _further(run: History) -> tuple[Change, ...]:
    """A good rate; and smaller steps and more epochs, where steps are few."""
    usual, epochs = good_rate(run.parameters), run.get("training.num_train_epochs")
    lines = [other_rate(run, usual)] * (peak_rate(run) < usual)
    if run.step < FEW_STEPS:
        per_step = run.get("plan.examples_per_step") or 1
        accumulation = run.get("training.gradient_accumulation_steps") or 1
        wanted, _ = more_steps(run.get("plan.steps_per_epoch") * per_step, max(1, per_step // accumulation), epochs)
        lines += [change(run, "training.gradient_accumulation_steps", 1)] * (accumulation > 1)
        lines += [change(run, "training.num_train_epochs", float(wanted))] * (wanted > epochs)
    return tuple(lines)


def frozen_fix(run: History) -> str:
    """How to see what is trained, and the line that says what should be."""
    if not run.ours:
        return "print the names of the parameters that require a gradient, and look at target_modules"
    adapted = "" if run.get("training.finetuning_type") == "full" else "; lora.target_modules says what is trained"
    return f"{inspect_row(run)} --step takes one step and shows its gradient{adapted}"


@rule("warning", needs=logs(5, steps=5), replaces=("loss-stuck", "loss-high", "margins-flat"))
def gradients_vanish(run: History) -> Symptom | None:
    """There is next to no gradient.

    The gradient says for every weight in which direction the loss falls. When it is nothing, nothing is learned:
    something between the loss and the trained weights is cut off, frozen, or multiplied by almost 0.

    Fires when the length of the gradient is nothing, or a ten-thousandth of what it was, while the loss is far from
    0.
    """
    norms = [line.grad_norm for line in run.recent[-5:]]
    if not all(map(math.isfinite, norms)) or level(run.recent) < LEARNED:
        return None
    now, first = median(norms), median([line.grad_norm for line in run.beginning[:5]])
    if not (now < NO_GRADIENT or now < VANISHED * first):
        return None
    lines: tuple[Change, ...] = ()
    fix = frozen_fix(run)
    alpha, r = run.get("lora.lora_alpha"), run.get("lora.r")
    if run.get("training.finetuning_type") == "lora" and alpha and r and alpha / r < 0.01:
        lines, fix = (change(run, "lora.lora_alpha", 2 * r),), ""
    evidence = f"grad_norm {now:.1e} at step {run.step:,} (at first {first:.1e}), loss {level(run.recent):.2f}"
    return Symptom(run.step, evidence, lines, "high", fix=fix)


@rule("warning", needs=logs(16, steps=16))
def gradients_explode(run: History) -> Symptom | None:
    """The gradients have become very long.

    Long gradients come before a loss that blows up: the model is in a place where a small step changes everything.

    Fires when several log lines in a row have a gradient thirty times as long as usual.
    """
    norms = finite(line.grad_norm for line in run.whole)
    latest = finite(line.grad_norm for line in run.recent[-4:])
    if len(norms) < 16 or len(latest) < 4:
        return None
    usual = median(norms[: -len(norms) // 4])
    if min(latest) < EXPLODED * max(usual, 1e-3):
        return None
    evidence = f"grad_norm {median(latest):.3g} at step {run.step:,}, {usual:.3g} before"
    return Symptom(run.step, evidence, lower_rate(run, 3))


@rule(
    "info",
    needs=all_of(logs(12, steps=12), known("training.max_grad_norm")),
    applies=lambda run: run.get("training.max_grad_norm", 1.0) != 0,
)
def always_clipped(run: History) -> Symptom | None:
    """Every gradient is clipped.

    Clipping is there to shorten the rare gradient that is far too long. When it shortens all of them to one length,
    a rare long one no longer shows. With AdamW that is usually harmless: it divides by the usual size of the gradient.

    Fires when nearly all gradients are longer than max_grad_norm and the typical one is ten times as long.
    """
    limit = run.get("training.max_grad_norm")
    norms = finite(line.grad_norm for line in run.recent)
    if not limit or len(norms) < 12:
        return None
    share = sum(norm > limit for norm in norms) / len(norms)
    usual = median(norms)
    if share < CLIPPED_SHARE or usual < CLIP_FACTOR * limit:
        return None
    evidence = f"{percent(share)} of the last {len(norms)} gradients are over {limit:g}, half of them over {usual:.3g}"
    new = 1.0 if limit < 1 and usual < CLIP_FACTOR else float(f"{3 * usual:.1g}")
    return Symptom(run.step, evidence, (change(run, "training.max_grad_norm", new),), "high")


def _gradients(run: History) -> str:
    return "" if len(run.gradients) > 1 else "fewer than two gradient flows (logging.histogram_steps)"


@rule("warning", needs=_gradients)
def layers_without_gradient(run: History) -> Symptom | None:
    """Some layers get no gradient.

    Layers that should be trained stand still while the others move, so what they could have learned is missing.

    Fires when the gradient flow shows a length of exactly 0 twice in a row for some layers, and not for all.
    """
    norms = [event.norms for event in run.gradients[-2:]]
    dead = [name for name in norms[-1] if all(seen.get(name) == 0.0 for seen in norms)]
    if not dead or len(dead) == len(norms[-1]):
        return None
    names = ", ".join(dead[:LAYERS_NAMED]) + (", ..." if len(dead) > LAYERS_NAMED else "")
    step = run.gradients[-1].step
    evidence = f"{len(dead)} of {len(norms[-1])} layers at step {step:,}: {names}"
    return Symptom(step, evidence, confidence="high", fix=frozen_fix(run))


RULES = (
    learning_rate_too_low, too_few_steps, gradients_vanish, gradients_explode, always_clipped, layers_without_gradient,
)  # fmt: skip
