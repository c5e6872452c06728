"""The suites of damaged files with their small counts; `make torture` runs them with their full ones."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest

from tests.torture import configs, datasets, huge, models
from tests.torture.outcome import Outcome, add, one, replay, run_suite

SEED = 0


def tried(suite: Any) -> Counter[str]:
    """Run the small count of a suite in this process; what was counted."""
    counts: Counter[str] = Counter()
    wrong = []
    for number in range(suite.FAST):
        _, said, counted = one(suite, number, SEED)
        add(counts, counted)
        wrong += [f"{said}\n{replay(suite.NAME, SEED, number)}"] if said else []
    assert not wrong, f"{len(wrong)} of {suite.FAST}:\n" + "\n".join(wrong[:5])
    return counts


def test_damaged_configs():
    counts = tried(configs)
    assert counts["typos"] > 1000
    assert counts["typos_with_the_right_suggestion"] >= 0.95 * counts["typos"]
    assert counts["plans"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and alarms")
def test_damaged_datasets():
    counts = tried(datasets)
    assert counts["errors"] > 0 and counts["accepted"] > 0 and counts["trained"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="alarms and limits of memory")
def test_damaged_models():
    """In a process of its own, which listens to every import and has a bound on its memory."""
    said: list[str] = []
    outcome = run_suite(models, models.FAST, SEED, 1, said.append)
    assert not outcome.failures, said
    assert outcome.figures["errors"] > 0 and outcome.figures["loaded"] > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux only")
def test_large_files_and_lines():
    outcome: Outcome = huge.run(huge.FAST, SEED)
    assert not outcome.failures
    assert outcome.figures["file_kept_mib"] < 500 and outcome.figures["line_kept_mib"] < 500


def test_typos_are_all_slips_of_all_keys():
    """Letters left out, swapped, added and changed are among them, and the full count goes through all of them."""
    found = {(section, name): set() for section, name, _ in configs.typos()}
    for section, name, typo in configs.typos():
        found[section, name].add(typo)
    assert {"learning_rat", "elarning_rate", "learninggrate", "learning_rare"} <= found["training", "learning_rate"]
    assert len(configs.typos()) <= configs.DEFAULT * 3 // 4
