"""What is said of a run in which nothing was found: healthy, or how long to wait until that can be said, and what then.

Not covered: what is wrong (`luthier.doctor.rules`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from luthier.doctor.evidence import counted, higher_rate, level, peak_rate, place, ratio, rows_fix, warm
from luthier.doctor.history import History
from luthier.doctor.rules import DECISIVE
from luthier.doctor.rules.loss import ENOUGH_LINES, ENOUGH_STEPS, FELL
from luthier.doctor.statistics import median


def unsettled(run: History, missing: Mapping[str, str]) -> str:
    """Why a run in which nothing was found cannot be called healthy yet, and what to do; empty when it can.

    Args:
        run: What has been seen of it.
        missing: Rule -> what it lacks.
    """
    lacking = [missing[name] for name in DECISIVE if name in missing]
    if not lacking:
        return ""
    said = f"nothing wrong found, but too little seen to judge the loss ({lacking[-1]})"
    if run.finished is not None or 0 < run.total_steps <= run.step:
        return f"{said}, and the run has ended: more epochs, or a smaller logging_steps, tell more"
    if not run.whole:
        return said
    return f"{said}: wait until {_until(run)}, and look again{_so_far(run)}"


def _so_far(run: History) -> str:
    """How the loss went, and what to do should it be no better then; empty for a single line."""
    lines = run.whole
    if len(lines) < 2:
        return ""
    first, now = lines[0], lines[-1]
    words = f"loss {first.loss:.3f} {place(run, first)}, {now.loss:.3f} {place(run, now)}"
    if max(abs(ratio(loss, first.loss)) for loss in (now.loss, level(lines))) >= FELL:
        return f". So far: {words}"
    usual = "as in most warm-ups" if _warming(run) else "as the first lines often are"
    unknown = "" if math.isfinite(peak_rate(run)) else " (the usual; this log does not tell it)"
    line = "".join(f"{change.key}: {change.new}{unknown}; and " for change in higher_rate(run))
    return f". So far it is flat, {usual}: {words}. If it still is then: {line}{rows_fix(run)}"


def _warming(run: History) -> bool:
    """Whether the learning rate still rises."""
    planned = run.get("plan.warmup_steps")
    if planned is not None:
        return run.step < int(planned)
    rates = [line.learning_rate for line in run.whole[-3:]]
    return len(rates) > 1 and all(a < b for a, b in pairwise(rates))


def _until(run: History) -> str:
    """The place in the log at which the loss can be judged."""
    lines = run.whole
    gaps = [(b.step - a.step, b.epoch - a.epoch) for a, b in pairwise(lines)]
    if counted(run):
        gap = median([epochs for _, epochs in gaps]) if gaps else math.nan
        epoch = lines[0].epoch + (ENOUGH_LINES - 1) * gap
        where = f", about epoch {epoch:.2g}" if math.isfinite(epoch) else ""
        return f"there are {ENOUGH_LINES} log lines{where}"
    if _warming(run) and run.get("plan.warmup_steps") is None:
        return f"{ENOUGH_STEPS} steps after the warm-up"
    begun = warm(run)
    first = max(int(run.get("plan.warmup_steps") or 0), begun[0].step if begun else run.step)
    every = median([steps for steps, _ in gaps]) if gaps else run.get("logging.logging_steps") or 1
    step = first + max(ENOUGH_STEPS, round((ENOUGH_LINES - 1) * every))
    if step <= run.step:  # lines are missing, not steps
        step = run.step + round(every * max(1, ENOUGH_LINES - len(begun)))
    return f"step {min(step, run.total_steps or step):,}"
