"""Runs that broke, stopped, hang, or went on from somewhere else."""

from __future__ import annotations

import math
import re

from luthier.doctor.evidence import change, losses, lower_rate, percent, ratio, wobble
from luthier.doctor.finding import Change, Severity, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.statistics import median

OUT_OF_MEMORY = re.compile(r"out of (?:\w+ )?memory|OutOfMemoryError|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED")
NOT_FINITE = re.compile(r"\b(?:loss|norm) (?:nan|-?inf)\b|E-RUN-001")
NO_ROOM = re.compile(r"No space left|Disk quota exceeded|Read-only file system|ENOSPC")
SILENT_LINES, SILENT_GAPS = 10, 3
"""Silence of so many times the usual time between two log lines, and the longest silence so far, is no pause."""
SHORTEST_SILENCE = 120.0
"""Seconds: shorter ones are not worth a word."""
SILENT_START = 1800.0
"""Seconds before the first log line: loading a large model, or a first download."""
JUMP = 0.1
LARGE_JUMP = 0.5
JUMP_SIGMAS = 5.0
LINES_BEFORE, LINES_AFTER = 8, 4


def _always(_: History) -> str:
    return ""


def _last_words(run: History) -> str:
    """What a failed run died of."""
    return run.finished.reason if run.finished and run.finished.status == "failed" else ""


@rule("critical", needs=_always, replaces=("run-failed",))
def out_of_memory(run: History) -> Symptom | None:
    """The memory ran out.

    The forward pass keeps what the backward pass needs, for every token that it takes at once. Fewer tokens at once
    need less memory and, in Luthier, give the same result.

    Fires when a run ended with an error of that kind, Luthier's own or one in a traceback of another program.
    """
    said = [text for text in (_last_words(run), *run.said) if OUT_OF_MEMORY.search(text)]
    if not said:
        return None
    went_on = run.finished is None or run.finished.status != "failed"
    return Symptom(run.step, said[0][:300], _smaller(run), "high", "warning" if went_on else "critical")


def _smaller(run: History) -> tuple[Change, ...]:
    """The smallest change that helps: fewer tokens at once; then less kept of them; then smaller weights."""
    tokens = run.get("plan.max_tokens_per_micro_batch") or run.get("training.max_tokens_per_micro_batch")
    longest = run.get("data.max_seq_length", 0)
    if isinstance(tokens, int) and tokens // 2 >= longest / 2 > 0:
        return (change(run, "training.max_tokens_per_micro_batch", tokens // 2, tokens),)
    if not run.plan:
        return (
            Change("per_device_train_batch_size (or micro_batch_size)", "", "half of it"),
            Change("gradient_accumulation_steps", "", "twice as many, so that a step stays the same"),
        )
    if not run.get("training.gradient_checkpointing"):
        return (change(run, "training.gradient_checkpointing", True),)
    if not run.get("quantization.load_in_4bit") and run.get("training.finetuning_type") == "lora":
        return (change(run, "quantization.load_in_4bit", True),)
    return (change(run, "data.max_seq_length", longest // 2),)


@rule("critical", needs=_always, replaces=("run-failed", "diverged", "learning-rate-too-high", "loss-rising"))
def not_finite(run: History) -> Symptom | None:
    """The loss or the gradient is not a number.

    A number became too large for its format. One update with it turns every trained weight into NaN, and nothing
    brings them back.

    Fires when a log line says NaN or infinite, or when a run ended because of it.
    """
    bad = run.not_finite
    if bad is not None:
        evidence = f"loss {bad.loss:g} at step {bad.step:,}"
    elif NOT_FINITE.search(_last_words(run)):
        evidence = _last_words(run)[:300]
    else:
        return None
    lines = lower_rate(run)
    if run.get("model.dtype") == "float16":
        lines = (change(run, "model.dtype", "float32"),)
    return Symptom(bad.step if bad else run.step, evidence, lines, "high")


@rule("critical", needs=_always)
def run_failed(run: History) -> Symptom | None:
    """The run ended with an error.

    What was trained up to the newest checkpoint is on disk, and `--resume auto` goes on from there.

    Fires when a run ended with any other error.
    """
    words = _last_words(run)
    if not words:
        return None
    title = "The disk is full" if NO_ROOM.search(words) else ""
    return Symptom(run.step, words[:300], confidence="high", title=title)


def _unfinished(run: History) -> str:
    if run.finished is not None or 0 < run.total_steps <= run.step:
        return "the run has ended"
    untimed = not run.updated > 0 or (run.logged > 1 and not any(run.log_gaps))
    return "the log has no times" if untimed else ""


@rule("critical", needs=_unfinished)
def stalled(run: History) -> Symptom | None:
    """The run says nothing any more.

    It should have written a log line long ago. Either it was killed (a kill leaves no last word), or it hangs: a full
    disk, a lost network folder, a second process that waits for the first.

    Fires when a run that has not ended is silent for ten times the usual time between two log lines, for three
    times its longest silence, and for two minutes at least.
    """
    silent = run.now - run.updated
    usual = median(run.log_gaps) if run.log_gaps else math.nan
    limit = SILENT_START
    if run.log_gaps:
        limit = max(SHORTEST_SILENCE, SILENT_LINES * usual, SILENT_GAPS * run.longest_gap)
    if silent < limit:
        return None
    evidence = f"nothing for {_time(silent)}, since step {run.step:,}"
    evidence += f"; a log line came every {_time(usual)}" if run.log_gaps else ""
    advice = "If no process is left, `--resume auto` goes on from the newest checkpoint."
    return Symptom(run.step, evidence, confidence="high" if silent > 10 * limit else "medium", advice=advice)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def _resumed(run: History) -> str:
    if run.resumed is None or not run.before_resume:
        return "the run was not resumed"
    after = sum(line.step > run.resumed.step for line in run.whole)
    return "" if after >= LINES_AFTER else f"{after} of {LINES_AFTER} log lines since the resume"


@rule(
    "warning",
    needs=_resumed,
    replaces=("diverged", "learning-rate-too-high", "warmup-missing", "loss-rising", "loss-spikes"),
)
def resume_jump(run: History) -> Symptom | None:
    """The loss jumped at a resume.

    A run that goes on from a checkpoint goes on where it was: same weights, optimizer, rows and learning rate. A jump
    means that one of them did not come back.

    Fires when the first log lines after a resume lie 10 % or more above those before it, beyond the noise.
    """
    assert run.resumed is not None
    before = run.before_resume[-LINES_BEFORE:]
    after = [line for line in run.whole if line.step > run.resumed.step][:LINES_AFTER]
    then, now = median(losses(before)), median(losses(after))
    if ratio(now, then) < max(JUMP, JUMP_SIGMAS * wobble(run.before_resume) / math.sqrt(LINES_AFTER)):
        return None
    evidence = f"loss {then:.3f} before step {run.resumed.step:,}, {now:.3f} after ({percent(now / then - 1)} more)"
    severity: Severity = "critical" if ratio(now, then) > LARGE_JUMP else "warning"
    rates = before[-1].learning_rate, after[-1].learning_rate
    if rates[1] > 3 * rates[0]:
        evidence += f"; learning rate {rates[0]:.2g} before, {rates[1]:.2g} after"
        return Symptom(after[0].step, evidence, lower_rate(run), "high", severity)
    return Symptom(after[0].step, evidence, severity=severity)


RULES = (out_of_memory, not_finite, run_failed, stalled, resume_jump)
