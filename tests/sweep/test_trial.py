"""A trial that is told to stop, and one whose sweep is gone."""

from __future__ import annotations

import io
import os
import queue
import sys

import pytest

from luthier.sweep import process
from luthier.sweep.losses import is_over
from luthier.sweep.process import PARENT, TrialProcess
from luthier.sweep.trial import train
from tests.cli.support import write_config


@pytest.fixture
def arguments(tmp_path, tiny_model_dir, alpaca_file):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", max_steps=6)
    return [str(config), "val_set_size=8", "eval_steps=3", "rehearsal=false", "save_first_step=false"]


@pytest.mark.parametrize(("word", "step"), [("loss", 1), ("evaluated", 3)])
def test_it_saves_and_stops_when_nobody_listens_any_more(tmp_path, arguments, word, step):
    def say(content):
        if word in content:
            raise BrokenPipeError

    assert train(arguments, say, io.StringIO("go\n" * 2), lambda: False) == "stopped"
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == [f"checkpoint-{step}"]


def test_a_stop_at_the_last_evaluation_comes_too_late(tmp_path, arguments):
    said = []
    assert train(arguments, said.append, io.StringIO("go\nstop\n"), lambda: False) == "done"
    assert is_over(tmp_path / "out")
    again = []  # as a sweep does that was killed before it heard of the end
    assert train(arguments, again.append, io.StringIO(), lambda: False) == "done"
    assert [content["evaluated"] for content in (*said, *again) if "evaluated" in content] == [3, 6]


def test_it_stops_when_its_sweep_was_gone_before_it_could_look(arguments, monkeypatch):
    monkeypatch.setenv(PARENT, str(os.getpid()))  # which is not the parent of this process
    said = []
    try:
        status = train(arguments, said.append, io.StringIO("go\n" * 2), lambda: False)
    except KeyboardInterrupt:  # while the rows are read there is nothing to save
        status = "stopped"
    assert status == "stopped" and not any(content.get("step", 0) > 1 for content in said)


def test_it_knows_who_began_it(tmp_path, monkeypatch):
    program = f"import os; print(os.environ['{PARENT}'])"
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setenv(PARENT, "1")  # of a sweep within a trial
    heard = queue.SimpleQueue()
    trial = TrialProcess([], tmp_path / "log", heard.put)
    assert heard.get(timeout=60) == os.getpid()
    assert trial.end() == 0
