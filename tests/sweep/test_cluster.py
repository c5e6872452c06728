"""Trials on a real Ray that is started here."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import psutil
import pytest

from luthier.errors import EXIT_RESUMABLE, EXIT_WRONG_REQUEST
from luthier.events.read import read
from luthier.events.types import Resumed
from tests.cli.support import process, start, write_config
from tests.sweep.test_real import until_step

pytest.importorskip("ray", reason='ray is not installed (pip install "luthier[ray]")')
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")


@pytest.fixture
def words(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", max_steps=24)
    held_out = ["val_set_size=8", "eval_steps=6", "rehearsal=false"]
    return ["sweep", config, "learning_rate=log:1e-4..1e-1", *held_out, "--trials", "3", "--on", "ray", "--jobs", "2"]


def trials_of(sweep: psutil.Process) -> list[psutil.Process]:
    return [child for child in sweep.children(recursive=True) if "luthier.sweep.trial" in child.cmdline()]


@pytest.mark.long
@pytest.mark.slow
def test_a_machine_is_lost_and_the_sweep_is_interrupted(tmp_path, words):
    folder = tmp_path / "out-sweep"
    first = start(*words, cwd=tmp_path)
    until_step(folder, 0, 6, seconds=200)
    trials_of(psutil.Process(first.pid))[0].parent().kill()  # the actor: its trial is begun again
    until_step(folder, 2, 6, seconds=200)
    first.send_signal(signal.SIGINT)
    said, problems = first.communicate(timeout=100)
    assert first.returncode == EXIT_RESUMABLE and "the same command goes on" in problems
    assert {line for line in said.splitlines() if "failed" in line} == set()
    done = process(*words, "--json", tmp_path / "s.json", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = json.loads((tmp_path / "s.json").read_text())["trials"]
    assert [(row["state"], len(row["losses"])) for row in rows] == [("done", 4)] * 3
    resumed = [sum(isinstance(e, Resumed) for e, _ in read(Path(row["folder"]) / "events.jsonl")) for row in rows]
    assert resumed[2] == 1 and sum(resumed) >= 2


def test_e_sweep_006_nobody_answers(tmp_path, words):
    done = process(*words, cwd=tmp_path, RAY_ADDRESS="127.0.0.1:9")
    assert done.code == EXIT_WRONG_REQUEST and "E-SWEEP-006" in done.err and "127.0.0.1:9" in done.err


def test_e_sweep_006_a_machine_that_sees_another_folder(tmp_path):
    from luthier.sweep.cluster import Beside

    config = tmp_path / "config.yaml"
    for folder, text, found in ((tmp_path / "no", "a", "has no folder"), (tmp_path, "a", "has another")):
        words, code = Beside([], tmp_path / "log", folder, config, text).said()
        assert code == EXIT_WRONG_REQUEST and "E-SWEEP-006" in words[0]["problem"] and found in words[0]["problem"]
        config.write_text("b")


@pytest.mark.slow
def test_e_sweep_006_an_actor_that_cannot_begin(tmp_path, words):
    (tmp_path / "out-sweep" / "trial-000.log").mkdir(parents=True)
    done = process(*words, cwd=tmp_path)
    assert done.code == EXIT_WRONG_REQUEST and "E-SWEEP-006" in done.err and "trial-000.log" in done.err
