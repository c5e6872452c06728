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
# process groups that wait for each other; and half a minute for one run of the kind that `kills` has
LONG = ["ranks", "cli_kills"]
IN_PROCESS = ["configs", "datasets", "models", "huge"]
"""Their small counts are in `test_fuzz_suites`."""
ELSEWHERE = [*LONG, *IN_PROCESS]
THERE = [name for name in SUITES if (Path(__file__).parent / f"{name}.py").is_file() and name not in ELSEWHERE]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> tuple[dict, str]:
    """All suites in one command, so that what they share is made once; its JSON and its screen."""
    return tortured(tmp_path_factory.mktemp("torture") / "reliability.json", THERE)


def tortured(path: Path, names: list[str]) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture", "--fast", "--json", str(path), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    return json.loads(path.read_text()) if path.exists() else {}, done.stdout + done.stderr


@pytest.mark.parametrize("name", THERE)
def test_nothing_breaks_it(outcomes, name):
    passed(name, *outcomes)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_nothing_breaks_it_slowly(tmp_path, name):
    passed(name, *tortured(tmp_path / "reliability.json", [name]))


def passed(name: str, found: dict, screen: str) -> None:
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
