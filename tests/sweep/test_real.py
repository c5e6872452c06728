"""The real command with real trials: killed, interrupted, and gone on with."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from luthier.errors import EXIT_RESUMABLE, EXIT_WRONG_REQUEST
from luthier.events.read import read
from luthier.events.types import Evaluated, Resumed
from tests.cli.support import process, start, write_config

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals")]


@pytest.fixture
def words(tmp_path, tiny_model_dir, alpaca_file):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", max_steps=24)
    held_out = ["val_set_size=8", "eval_steps=6", "rehearsal=false"]
    return ["sweep", config, "learning_rate=log:1e-4..1e-1", *held_out, "--trials", "2"]


def until_step(folder: Path, number: int, step: int, seconds: float = 120) -> None:
    """Wait until a trial has an evaluation of that step."""
    log = folder / f"trial-{number:03}" / "events.jsonl"
    deadline = time.monotonic() + seconds
    while not (log.is_file() and any(isinstance(e, Evaluated) and e.step >= step for e, _ in read(log))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_and_interrupted_it_goes_on(tmp_path, words):
    folder = tmp_path / "out-sweep"
    first = start(*words, cwd=tmp_path)
    until_step(folder, 0, 6)
    trials = psutil.Process(first.pid).children()
    first.kill()
    first.communicate()
    psutil.wait_procs(trials, timeout=60)
    assert not any(trial.is_running() for trial in trials)  # a trial whose sweep is gone stops for itself
    second = start(*words, cwd=tmp_path)
    until_step(folder, 1, 6)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=100)
    assert second.returncode == EXIT_RESUMABLE and "the same command goes on" in said
    third = process(*words, "--json", tmp_path / "s.json", cwd=tmp_path)
    assert third.code == 0, third.err
    trials = json.loads((tmp_path / "s.json").read_text())["trials"]
    assert [(row["state"], len(row["losses"])) for row in trials] == [("done", 4)] * 2
    for row in trials:  # each went on from its own checkpoint
        assert any(isinstance(event, Resumed) for event, _ in read(Path(row["folder"]) / "events.jsonl"))
    done = process("train", folder / "best.yaml", "max_steps=1", cwd=tmp_path)
    assert done.code == 0, done.err


def test_e_sweep_003_the_first_trial_cannot_run(tmp_path, words):
    done = process(*words, "model_name_or_path=nowhere/at/all", cwd=tmp_path)
    assert done.code == EXIT_WRONG_REQUEST and "E-SWEEP-003" in done.err and "E-MODEL-" in done.err
    done = process(*["learning_rate" if str(w).startswith("learning_rate=") else w for w in words], "datasets=no.jsonl",
                   "output_dir=other", cwd=tmp_path)  # fmt: skip
    assert done.code == EXIT_WRONG_REQUEST and "the config: E-DATA-" in done.err
