"""Every attempt to get out, to break the sandbox or to pass without being right, in each tier, as each user."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.evaluate.sandbox_abuses import ABUSES, SLOW
from tests.evaluate.sandbox_escapes import ESCAPES
from tests.evaluate.sandbox_users import NOBODY, ROOT, as_me, as_nobody, environment

TIERS = ("full", "no-namespaces")


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_there_are_enough_attempts():
    assert len(ESCAPES) + len(ABUSES) + len(SLOW) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_as_this_user(tier):
    told = run(as_me("-m", "tests.evaluate.sandbox_storm", tier))
    if not told["tier"]:
        pytest.skip(f"{tier} does not hold on this machine: {told['reason']}")
    assert told["wrong"] == []
    assert all(told["canaries"].values())


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("tier", TIERS)
def test_as_nobody_when_root_asks(tier):
    told = run(as_nobody("-m", "tests.evaluate.sandbox_storm", tier))
    if not told["tier"]:
        pytest.skip(f"{tier} does not hold for an ordinary user on this machine: {told['reason']}")
    assert told["uid"] == NOBODY
    assert told["wrong"] == []
    assert all(told["canaries"].values())
