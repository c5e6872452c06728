"""Runs that broke, stopped, hang, or went on from somewhere else."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from luthier.config.keys import by_name
from luthier.doctor.evidence import (
    SMALLEST,
    change,
    first_of,
    less_memory,
    losses,
    lower_rate,
    percent,
    ratio,
    resume_fix,
    rows_fix,
    wobble,
)
from luthier.doctor.finding import Change, Severity, Symptom, rule
from luthier.doctor.history import History
from luthier.doctor.silence import patience
from luthier.doctor.statistics import median
from luthier.errors import CODES
from luthier.events.types import Log, Notice

OUT_OF_MEMORY = re.compile(r"out of (?:\w+ )?memory|OutOfMemoryError|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED")
SAID_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|(?:CUDA|HIP|XPU|MPS backend) out of memory|can't allocate memory|E-RUN-002"
    r"|^an error, and the run went on: .*(?:out of (?:\w+ )?memory|CUBLAS_STATUS_ALLOC_FAILED)"
)
"""In a warning: not the advice that spares one from it."""
NOT_FINITE = re.compile(r"\b(?:loss|norm) (?:nan|-?inf)\b")
LINE = re.compile(r"\b(\w+): (\d[\d.e+-]*|true|false)(?=[,;]? |[,;]?$)")
"""A line of YAML in what an error says to do."""
LEFT_OUT = re.compile(r"^left out step [\d,]+: .*\b(?:loss|norm) (?:nan|-?inf)\b")
"""What Luthier says of a step that it did not apply."""
NAN_EVALUATION = "The loss of the held-out rows is not a number"
SPARED = "This step was not applied, so the weights are sound."
LOOK_THERE = "look at its rows; if more steps follow, a lower learning_rate"
LATELY, OFTEN = 100, 3
"""Steps for which one that was left out is news; so many of them in that time are no accident."""
HELPED = "The run has helped itself and went on; these lines spare the next one what did not fit."
PASS = "training.max_tokens_per_micro_batch"
GIVEN_UP = re.compile(r"(training\.\w+): (\d{1,12}|true|false)")
"""The line that makes it permanent."""
SOUND_LINES = 10
"""Log lines after which a run that has helped itself is well."""
LOST_LINES = 3
"""Gradients in a row: scaling for float16 leaves out a single step now and then."""
NO_CHECKPOINT = re.compile(r"^no checkpoint at step [\d,]+: ")
NO_ROOM = re.compile(r"No space left|Disk quota exceeded|Read-only file system|ENOSPC")
JUMP = 0.1
LARGE_JUMP = 0.5
JUMP_SIGMAS = 5.0
BACK = "go on from the checkpoint before, and compare config, rows and versions with those of the run's beginning"
LINES_BEFORE, LINES_AFTER = 8, 4


def _last_words(run: History) -> str:
    """What a failed run died of."""
    return run.finished.reason if run.finished and run.finished.status == "failed" else ""


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _code(run: History) -> str:
    return run.finished.code if run.finished else ""


def _ended(run: History, lines: tuple[Change, ...] = (), title: str = "", otherwise: str = "") -> Symptom:
    """A run that died: what its own error says counts; `lines` or `otherwise` are for one that says nothing to do."""
    assert run.finished is not None
    words, why, fix = run.finished.reason, run.finished.why, run.finished.fix
    written = tuple(change(run, by_name()[key], value) for key, value in LINE.findall(fix) if key in by_name())
    step = run.step or None
    shown, fix = (written, fix) if fix else (lines, otherwise)
    return Symptom(step, words[:300], shown, "high", title=title, why=_sentence(why), fix=fix)


@rule("critical", replaces=("run-failed",))
def out_of_memory(run: History) -> Symptom | None:
    """The memory ran out.

    The forward pass keeps what the backward pass needs, for every token that it takes at once. Fewer tokens at once
    need less memory and, in Luthier, give the same result.

    Fires when a run ended with an error of that kind, Luthier's own or one in a traceback of another program; or went
    on after one, as a warning for ten log lines.
    """
    words, said = _last_words(run), [notice for notice in run.said if SAID_OUT_OF_MEMORY.search(notice.text)]
    lowered = _lowered(said)
    if words and (OUT_OF_MEMORY.search(words) or _code(run) == "E-RUN-002"):
        tokens = lowered.get(PASS, run.get("plan.max_tokens_per_micro_batch"))
        now = {**run.plan, **lowered, "plan.max_tokens_per_micro_batch": tokens} if run.plan else {}
        return _ended(run, less_memory(replace(run, plan=now)))
    if words or not said:
        return None
    newest, went_on = said[-1], sum(line.step > (said[-1].step or 0) for line in run.recent)
    lines = tuple(change(run, key, new) for key, new in lowered.items()) if run.ours else less_memory(run)
    severity: Severity = "info" if run.finished or went_on >= SOUND_LINES else "warning"
    fix = "" if lines else "nothing: the run has helped itself, and no line asks for what it gave up"
    return Symptom(newest.step, newest.text[:300], lines, "high", severity, advice=HELPED if lowered else "", fix=fix)


def _lowered(said: list[Notice]) -> dict[str, Any]:
    """What the run has given up by itself: key -> its latest value."""
    given = [match.groups() for notice in said if (match := GIVEN_UP.fullmatch(notice.change))]
    return {key: int(value) if value.isdigit() else value == "true" for key, value in given}


@rule(
    "critical",
    replaces=("run-failed", "diverged", "learning-rate-too-high", "loss-rising", "nothing-trained", "memorised"),
)
def not_finite(run: History) -> Symptom | None:
    """The loss or the gradient is not a number.

    A number became too large for its format. An update with it turns every trained weight into NaN, and nothing
    brings them back.

    Fires when a log line or the latest evaluation says NaN or infinite, when three gradients in a row do after others
    that did not (other programs then print a loss of 0), for a hundred steps when Luthier left out such a step, or when
    a run ended because of it.
    """
    lines = lower_rate(run)
    if run.get("model.dtype") == "float16":
        lines = (change(run, "model.dtype", "float32"),)
    if (words := _last_words(run)) and (NOT_FINITE.search(words) or _code(run) == "E-RUN-001"):
        return _ended(run, lines)
    if (bad := run.not_finite) is not None:
        return Symptom(bad.step, f"loss {bad.loss:g} at step {bad.step:,}", lines, "high")
    if lost := _lost_gradients(run):
        last, first = lost[-1], first_of(run, lambda line: not math.isfinite(line.grad_norm))
        evidence = f"grad_norm {last.grad_norm:g} and loss {last.loss:g} from step {first:,} to {last.step:,}"
        return Symptom(first, evidence, lines, "high")
    return _evaluation_not_finite(run, lines) or _left_out(run, lines)


def _left_out(run: History, lines: tuple[Change, ...]) -> Symptom | None:
    """Steps that were not applied, of late."""
    said = [notice for notice in run.said if LEFT_OUT.search(notice.text) and run.step - (notice.step or 0) < LATELY]
    if not said:
        return None
    often = len(said) >= OFTEN
    evidence = f"{len(said)} steps of the last {LATELY}; {said[-1].text}" if often else said[-1].text
    severity: Severity = "warning" if often else "info"
    return Symptom(
        said[-1].step, evidence[:300], lines if often else (), "high", severity, advice=SPARED, fix=LOOK_THERE
    )


def _lost_gradients(run: History) -> tuple[Log, ...]:
    """The latest log lines, when their gradients are no numbers and earlier ones are: a log may have none at all."""
    latest = run.recent[-LOST_LINES:]
    if len(latest) < LOST_LINES or any(math.isfinite(line.grad_norm) for line in latest):
        return ()
    return latest if any(math.isfinite(line.grad_norm) for line in (*run.beginning, *run.recent)) else ()


def _evaluation_not_finite(run: History, lines: tuple[Change, ...]) -> Symptom | None:
    """An evaluation that is no number, in a run whose own loss says nothing of it."""
    if not run.evaluations or math.isfinite(run.evaluations[-1].eval_loss):
        return None
    event = run.evaluations[-1]
    evidence = f"eval_loss {event.eval_loss:g} at step {event.step:,}"
    after = [line for line in run.recent if line.step >= event.step]
    if any(line.loss > 0 and math.isfinite(line.grad_norm) for line in after):
        advice = "Training goes on, so the weights are sound: held-out rows in which no token counts give NaN, too."
        fix = rows_fix(run, "has each held-out row an answer that is trained?")
        return Symptom(event.step, evidence, severity="warning", title=NAN_EVALUATION, advice=advice, fix=fix)
    return Symptom(event.step, evidence, lines)


@rule("critical")
def run_failed(run: History) -> Symptom | None:
    """The run ended with an error.

    What was trained up to the newest checkpoint is on disk, and `--resume auto` goes on from there.

    Fires when a run ended with any other error, or did not begin for one. Of Luthier's own, its reason and what to do
    are those of the error.
    """
    words = _last_words(run)
    if not words:
        return None
    known = CODES.get(_code(run))
    title = "The disk is full" if NO_ROOM.search(words) else f"The run ended: {known.title}" if known else ""
    return _ended(run, title=title, otherwise=resume_fix(run))


@rule("critical")
def checkpoint_not_written(run: History) -> Symptom | None:
    """A checkpoint could not be written.

    Training goes on, and it is tried again. Until one is written, a crash costs all since the newest that there is; and
    a run that is over can only be gone on with from there.

    Fires when Luthier said so and has written none since; as a warning once the run has ended well.
    """
    said = [notice for notice in run.said if NO_CHECKPOINT.search(notice.text)]
    written = run.checkpoint.step if run.checkpoint else 0
    if not said or _last_words(run) or written > (said[-1].step or 0):
        return None
    kept, room = run.get("checkpointing.save_total_limit"), bool(NO_ROOM.search(said[-1].text))
    lines = (change(run, "checkpointing.save_total_limit", 1),) if room and kept != 1 else ()
    severity: Severity | None = "warning" if run.finished else None
    advice = "Make room on its disk, or name another output_dir." if room else ""
    fix = "" if lines else "make room on its disk" if room else "make training.output_dir a folder that can be written"
    return Symptom(said[-1].step, said[-1].text[:300], lines, "high", severity, advice=advice, fix=fix)


def _unfinished(run: History) -> bool:
    return run.finished is None and not 0 < run.total_steps <= run.step


def _timed(run: History) -> str:
    untimed = not run.updated > 0 or (run.curve.seen > 1 and not any(run.log_gaps))
    return "the log has no times" if untimed else ""


@rule("critical", needs=_timed, applies=_unfinished)
def stalled(run: History) -> Symptom | None:
    """The run says nothing any more.

    It should have written a log line long ago. Either it was killed (a kill leaves no last word), or it hangs: a full
    disk, a lost network folder, a second process that waits for the first.

    Fires when a run that has not ended is silent for ten times the usual time between two log lines, for three
    times its longest silence, and for two minutes at least; for half an hour where it may be loading, evaluating or
    saving and has not told yet how long that takes.
    """
    silent = run.now - run.updated
    limit = patience(run)
    if silent < limit:
        return None
    evidence = f"nothing for {_time(silent)}, since step {run.step:,}"
    evidence += f"; a log line came every {_time(median(run.log_gaps))}" if run.log_gaps else ""
    fix = f"if no process is left, {resume_fix(run)}"
    return Symptom(run.step, evidence, confidence="high" if silent > 10 * limit else "medium", fix=fix)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def _lines_around_resume(run: History) -> str:
    assert run.resumed is not None
    if not run.before_resume:
        return "no log lines before the resume"
    after = sum(line.step > run.resumed.step for line in run.whole)
    return "" if after >= LINES_AFTER else f"{after} of {LINES_AFTER} log lines since the resume"


@rule(
    "warning",
    needs=_lines_around_resume,
    applies=lambda run: run.resumed is not None,
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
    more = percent(now / max(then, SMALLEST) - 1)
    evidence = f"loss {then:.3f} before step {run.resumed.step:,}, {now:.3f} after ({more} more)"
    severity: Severity = "critical" if ratio(now, then) > LARGE_JUMP else "warning"
    rates = before[-1].learning_rate, after[-1].learning_rate
    if rates[1] > 3 * rates[0]:
        evidence += f"; learning rate {rates[0]:.2g} before, {rates[1]:.2g} after"
        return Symptom(after[0].step, evidence, lower_rate(run), "high", severity)
    return Symptom(after[0].step, evidence, severity=severity, fix=BACK)


RULES = (out_of_memory, not_finite, run_failed, checkpoint_not_written, stalled, resume_jump)
