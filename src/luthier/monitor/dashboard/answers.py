"""The long answer behind `?`: what a number is, what it says of this run, and what to do about it.

Each answer is three paragraphs: the idea in plain words, this run's own numbers, and when to worry, with the line of
YAML to change. Not covered: what is wrong right now (`luthier.doctor`), how it is shown (`explain`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from luthier.events.durations import duration
from luthier.events.line import significant
from luthier.events.numbers import NUMBERS, NUMBERS_OF_PAIRS, Number
from luthier.monitor.dashboard.scene import WatchedRun, has_gpu
from luthier.monitor.drawing import count, decimal
from luthier.monitor.statistics import BANDS, PAIR_BANDS, band, in_words, shares, step_times, time_left
from luthier.monitor.words import accuracy_of, margin_of


@dataclass(frozen=True)
class Answer:
    """What a number is; here: what it says of this run; and what to do when it is not well."""

    idea: str
    here: Callable[[WatchedRun], str]
    care: str
    number: str = ""
    """What the log calls it (`luthier.events.numbers`); empty where it is not in the log."""


def _setting(run: WatchedRun, key: str) -> str:
    value = run.state.plan.get(key)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _loss(run: WatchedRun) -> str:
    state = run.state
    if state.log is None or state.smoothed_loss is None or state.first_loss is None:
        return "This run has not logged a loss yet."
    loss = state.smoothed_loss
    words = (
        f"This run began at {decimal(state.first_loss)} and stands at {decimal(loss)}, the median of its last three "
        f"log lines (the last one alone: {decimal(state.log.loss)})."
    )
    if run.state.on_pairs:
        return f"{words} Chance is 0.6931."
    if not 0 <= loss < 20:
        return words
    return f"{words} That is as if every right token had a probability of {math.exp(-loss):.0%} (e^-loss)."


def _eval(run: WatchedRun) -> str:
    if not run.state.evaluations:
        return "This run has not been evaluated yet."
    last, best = run.state.evaluations[-1], run.state.best or run.state.evaluations[-1]
    words = (
        f"Here it is {decimal(last.eval_loss)} at step {last.step:,}; the best was {decimal(best.eval_loss)} at step"
    )
    words = f"{words} {best.step:,}."
    if last.eval_loss > best.eval_loss:
        return f"{words} It has risen by {decimal(last.eval_loss - best.eval_loss)} since."
    return words


def _band(run: WatchedRun) -> str:
    loss, pairs = run.state.smoothed_loss, run.state.on_pairs
    scale = "; ".join(f"{span}: {words}" for _, span, words in (PAIR_BANDS if pairs else BANDS))
    here = ""
    if loss is not None and run.trend is not None:
        latest = run.state.evaluations[-1].eval_loss if run.state.evaluations else None
        here = f"This run stands at {decimal(loss)}, which is {band(loss, pairs)[0]}. "
        here += f"In words: {in_words(loss, latest, pairs)[0]}. "
    return f"{here}The whole scale: {scale}"


def _accuracy(run: WatchedRun) -> str:
    if run.state.log is None or not run.state.on_pairs:
        return "This log has no rewards of pairs."
    here, *held_out = accuracy_of(run.state)
    return f"Here it is {here} of the pairs since the line before{''.join(f'; {words}' for words in held_out)}."


def _margin(run: WatchedRun) -> str:
    log = run.state.log
    if log is None or not run.state.on_pairs:
        return "This log has no rewards of pairs."
    here, *held_out = margin_of(run.state)
    words = f"Here it is {here}{''.join(f'; {words}' for words in held_out)}."
    if log.reward_chosen is None or log.reward_rejected is None or not math.isfinite(log.reward_chosen):
        return words
    words += (
        f" The reward of chosen answers is {log.reward_chosen:.3g}, that of rejected ones {log.reward_rejected:.3g}"
    )
    beta = _setting(run, "dpo.beta")
    if not beta:
        return f"{words}."
    times = math.exp(min(700.0, log.reward_chosen / float(beta)))
    return f"{words}: a chosen answer is {times:.3g} times as probable as before step 1 (beta is {beta})."


def _best(run: WatchedRun) -> str:
    lowest = run.state.lowest
    if lowest is None:
        return "There is no loss yet."
    ago = run.state.step - lowest.step
    return f"Here: {decimal(lowest.loss)} at step {lowest.step:,}, {ago:,} steps ago."


def _mean(run: WatchedRun) -> str:
    found = run.trend
    if found is None:
        return "It takes six log lines to tell."
    share = found.spread / abs(found.mean) if found.mean else 0.0
    return (
        f"Over the last {found.steps:,} steps the mean is {decimal(found.mean)}, and a log line lies about "
        f"{decimal(found.spread)} ({share:.0%}) off the curve."
    )


def _slope(run: WatchedRun) -> str:
    found = run.trend
    if found is None:
        return "It takes six log lines to tell."
    left = max(0, run.state.total_steps - run.state.step)
    words = (
        f"Over the last {found.steps:,} steps the loss changes by {found.change(found.slope)} in {found.unit} steps, "
        f"with 95 % certainty by {found.change(found.low)} to {found.change(found.high)}: {found.direction}."
    )
    if found.direction == "falling" and left:
        words += (
            f" In the {left:,} steps that are left, a straight line would take it {-left * found.slope:.2g} lower; "
        )
        words += "curves flatten, so expect less."
    return words


def _learning_rate(run: WatchedRun) -> str:
    if run.state.log is None or not math.isfinite(run.state.log.learning_rate):
        return "The log does not tell it."
    rate = run.state.log.learning_rate
    highest = max((point.learning_rate for point in run.state.history), default=rate)
    kind = _setting(run, "training.lr_scheduler_type")
    shape = f" on the schedule {kind}" if kind else ""
    return f"Here it is {significant(rate, 4):g}{shape}, {rate / highest if highest else 0:.0%} of the highest so far."


def _gradient(run: WatchedRun) -> str:
    if run.state.log is None or not math.isfinite(run.state.log.grad_norm):
        return "The log does not tell it."
    limit = run.state.max_grad_norm
    norms = [point.grad_norm for point in run.state.recent if math.isfinite(point.grad_norm)]
    words = f"Here it is {decimal(run.state.log.grad_norm)}; over the latest {len(norms)} log lines, "
    words += f"{decimal(min(norms))} to {decimal(max(norms))}."
    if limit > 0:
        share = sum(norm > limit for norm in norms) / len(norms)
        words += f" Above max_grad_norm = {limit:g} a gradient is shortened to it: {share:.0%} of these were."
    return words


def _left(run: WatchedRun) -> str:
    left = time_left(run.state, run.now)
    if left is None:
        return "There is nothing left to wait for, or the log does not tell."
    words = f"{max(0, run.state.total_steps - run.state.step):,} steps are left: about {duration(left.seconds)}"
    if math.isfinite(left.margin):
        words += f", give or take {duration(left.margin)} if step times go on to vary as they did"
    return f"{words}."


def _speed(run: WatchedRun) -> str:
    log = run.state.log
    if log is None or not math.isfinite(log.tokens_per_second):
        return "The log does not tell it."
    words = f"Here: {count(log.tokens_per_second)} tokens a second"
    if math.isfinite(log.trained_tokens_per_second) and log.tokens_per_second > 0:
        share = log.trained_tokens_per_second / log.tokens_per_second
        words += f", {share:.0%} of them answers, which are what is trained on"
    return f"{words}."


def _step(run: WatchedRun) -> str:
    mean, deviation = step_times(run.state)
    if not math.isfinite(mean):
        return "The log does not tell it."
    return f"Here: {count(mean)} s" + (f", give or take {count(deviation)} s." if math.isfinite(deviation) else ".")


def _spent(run: WatchedRun) -> str:
    parts = shares(run.state.timings)
    if not parts:
        return "The log does not tell it."
    return f"Here, over the latest log lines: {', '.join(f'{name} {share:.0%}' for name, share in parts)}."


def _memory(run: WatchedRun) -> str:
    log = run.state.log
    if log is None or not math.isfinite(log.memory_gib):
        return "The log does not tell it."
    total = run.state.device_gib
    words = f"Here: {log.memory_gib:.2f} GiB"
    if total > 0:
        words += f", {log.memory_gib / total:.0%} of the {total:.1f} GiB there are"
    return f"{words}."


def _gpu(run: WatchedRun) -> str:
    machine = run.machine
    if machine is None:
        return "The log says nothing of the machine, and this one has no GPU that can be read."
    if not has_gpu(machine):
        return f"No GPU here. The processor is {machine.cpu_utilization:.0f} % busy."
    whose = "This machine's GPU" if machine is run.local else "The GPU that trains"
    used, total = machine.gpu_memory_used_gib, machine.gpu_memory_total_gib
    return f"{whose} is {machine.gpu_utilization:.0f} % busy and holds {used:.1f} of {total:.1f} GiB."


def _tokens(run: WatchedRun) -> str:
    log = run.state.log
    if log is None or not log.num_tokens:
        return "The log does not tell it."
    return (
        f"Here: {log.num_tokens:,} in {run.state.step:,} steps, {log.num_tokens / max(1, run.state.step):,.0f} a step."
    )


def _checkpoint(run: WatchedRun) -> str:
    saved = run.state.checkpoint or run.state.resumed
    if saved is None and not run.state.ours:
        return "The log does not tell it."
    if saved is None:
        return "This run has none yet: a crash now costs all of it."
    return f"The newest is of step {saved.step:,}: a crash now costs {run.state.step - saved.step:,} steps."


def _logged(number: str, here: Callable[[WatchedRun], str], numbers: dict[str, Number] = NUMBERS) -> Answer:
    return Answer(numbers[number].idea, here, numbers[number].care, number)


LOSS = _logged("loss", _loss)
EVAL = _logged("eval_loss", _eval)
BAND = Answer(
    "A loss in words. The scale is a rule of thumb for code and models of about a billion parameters.",
    _band,
    "Another tokenizer, or rows that are easier to guess, shift the whole scale. What counts is this loss compared "
    "with itself, earlier, and with the eval loss.",
)
ACCURACY = _logged("rewards/accuracies", _accuracy)
MARGIN = _logged("rewards/margins", _margin)
BEST = Answer(
    "The lowest loss of a single log line so far.",
    _best,
    "When it is long ago, little is gained any more. It is not what the best model is chosen by; the eval loss is.",
)
MEAN = Answer(
    "The mean of the latest losses, and how far a single line usually lies from their curve.",
    _mean,
    "A large spread is mostly small steps of unlike rows. More gradient_accumulation_steps make the curve calmer.",
)
SLOPE = Answer(
    "The slope of the latest losses (the last two fifths of the log lines, at least twelve): how fast they fall, "
    "and whether that can be told from chance. The doctor looks at the same lines.",
    _slope,
    "Level for long, far from the end: the learning rate is too low, or everything is learned. Rising: stop, and "
    "write a learning_rate three times lower.",
)
LEARNING_RATE = _logged("learning_rate", _learning_rate)
GRADIENT = _logged("grad_norm", _gradient)
LEFT = _logged("eta_seconds", _left)
SPEED = _logged("tokens_per_second", _speed)
STEP = _logged("step_seconds", _step)
SPENT = Answer(
    "Where the seconds of a step go: waiting for data, forward (the predictions and the loss), backward (the "
    "gradients), optimizer (the update), and the rest.",
    _spent,
    "Backward takes about as long as forward, or twice; passes that are recorded on a GPU (cuda_graphs) count as "
    "forward, backward included. Data should be near 0: if it is not, raise dataloader_num_workers. Much for the "
    "optimizer means very small steps.",
)
MEMORY = _logged("memory_gib", _memory)
GPU = Answer(
    "How busy the GPU is, how hot, and what it draws. A GPU that waits trains nothing.",
    _gpu,
    "Below 90 % for long: look at where a step's seconds go. At its limit, mostly 83 to 90 °C, it slows down.",
)
TOKENS = _logged("num_tokens", _tokens)
CHECKPOINT = Answer(
    "All that it takes to go on exactly from there: adapter, optimizer, random numbers, place in the data.",
    _checkpoint,
    "Save more often with a smaller save_steps. After a crash: luthier train CONFIG --resume auto.",
)
LOSS_OF_PAIRS = _logged("loss", _loss, NUMBERS_OF_PAIRS)
EVAL_OF_PAIRS = _logged("eval_loss", _eval, NUMBERS_OF_PAIRS)
BAND_OF_PAIRS = Answer(
    "The loss in words. 0.693 (log 2) is chance, whatever the model and the pairs.",
    _band,
    "The scale holds without dpo.label_smoothing, which keeps the loss from 0. What counts is how held-out pairs "
    "do: see the eval loss and the accuracy of held-out pairs.",
)
