"""The fast part of each suite. `make torture` runs the full counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.outcome import SUITES, suites

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="strace, namespaces and pidfds are Linux's"),
]
THERE = [name for name in SUITES if (Path(__file__).parent / f"{name}.py").is_file()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> tuple[dict, str]:
    """All suites in one command, so that what they share is made once; its JSON and its screen."""
    path = tmp_path_factory.mktemp("torture") / "reliability.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--fast", "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    return json.loads(path.read_text()) if path.exists() else {}, done.stdout + done.stderr


@pytest.mark.parametrize("name", THERE)
def test_nothing_breaks_it(outcomes, name):
    found, screen = outcomes
    assert name in found, screen
    if found[name]["skipped"]:
        pytest.skip(found[name]["skipped"])
    assert found[name]["tried"] >= 1
    assert found[name]["failures"] == [], screen


def test_every_suite_keeps_the_contract():
    for name, suite in suites().items():
        assert name == suite.NAME
        assert suite.DEFAULT > suite.FAST > 0
        assert callable(getattr(suite, "trial", None) or getattr(suite, "run", None))
