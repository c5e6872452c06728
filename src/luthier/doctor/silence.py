"""How long a run may say nothing: what a pause is, and what is none.

A run is silent between two log lines, and for longer while it evaluates or saves. How long that takes is known once
it has happened; the first time, only that it may take a while.
"""

from __future__ import annotations

from luthier.doctor.history import History
from luthier.doctor.statistics import median

SILENT_LINES, SILENT_GAPS = 10, 3
"""Silence of so many times the usual time between two log lines, and the longest silence so far, is no pause."""
SHORTEST_SILENCE = 120.0
"""Seconds: shorter ones are not worth a word."""
LONGEST_PAUSE = 1800.0
"""Seconds of what has no usual time yet: loading a large model, a first download, an evaluation."""


def patience(run: History) -> float:
    """Seconds of silence that are still no reason to worry."""
    if not run.log_gaps:
        return LONGEST_PAUSE
    usual = max(SHORTEST_SILENCE, SILENT_LINES * median(run.log_gaps), SILENT_GAPS * run.longest_gap)
    return max(usual, LONGEST_PAUSE) if _may_pause(run) else usual


def _may_pause(run: History) -> bool:
    """Whether the run may be loading, evaluating or saving at this moment."""
    if not run.logged_at:
        return True
    if not run.plan:
        # Nobody knows when the first evaluation comes.
        return not run.evaluations
    evaluated = bool(run.evaluations) and run.evaluations[-1].step == run.step
    saved = run.checkpoint is not None and run.checkpoint.step == run.step
    return _is_due(run, "plan.eval_every", evaluated) or _is_due(run, "plan.save_every", saved)


def _is_due(run: History, key: str, done: bool) -> bool:
    """Whether it comes at the latest step, or before the next log line; `done`: of the latest step it was told."""
    every, first = run.get(key) or 0, run.step + done
    return every > 0 and -(-first // every) * every < run.step + (run.get("logging.logging_steps") or 1)
