"""The suites of damaged files with their small counts; `make torture` runs them with their full ones."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torture import configs
from tests.torture.outcome import Outcome, add, one, replay


def tried(suite: Any, seed: int) -> Outcome:
    """The small count of a suite, in this process."""
    outcome = Outcome(suite.NAME, suite.FAST)
    counts: Any = {}
    from collections import Counter

    counts = Counter()
    for number in range(suite.FAST):
        _, wrong, counted = one(suite, number, seed)
        add(counts, counted)
        if wrong:
            outcome.failures.append((number, f"{wrong}\n{replay(suite.NAME, seed, number)}"))
    outcome.figures = dict(counts)
    return outcome
