"""RUN may be left out where there is only one to mean, and what was taken is said."""

from __future__ import annotations

import io
import os
import sys

import pytest

from luthier.cli.usual_run import has_begun, usual_run
from luthier.errors import MissingError
from tests.cli.support import run_here
from tests.generate.support import train_tiny
from tests.report.runs import finished, logs, plan_of, started, write_events

COMMANDS = [
    ("chat",), ("generate", "--file", "question.txt"), ("serve",), ("evaluate",), ("compare",), ("merge",),
    ("export", "--to", "gguf"), ("verify", "merge"), ("report",),
]  # fmt: skip


def make(folder, when=None):
    """What a finished run leaves, as far as it is looked at."""
    (folder / "final_model").mkdir(parents=True)
    (folder / "final_model" / "adapter_config.json").write_text("{}", "utf-8")
    if when:
        os.utime(folder, (when, when))
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "question.txt").write_text("Add two numbers", "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("usual") / "run"
    train_tiny(folder, tiny_model_dir, alpaca_file)
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_e_run_010_none_and_several(capsys, here, command):
    result = run_here(capsys, *command)
    assert result.code == 2 and "E-RUN-010" in result.err and "Traceback" not in result.err
    assert "no finished run is in checkpoints" in " ".join(result.err.split())
    assert "luthier quickstart" in result.err and result.out == ""
    make(here / "checkpoints" / "old", when=1_000)
    make(here / "checkpoints-my new", when=2_000)
    result = run_here(capsys, *command)
    said = " ".join(result.err.split())
    assert result.code == 2 and "2 runs are here: checkpoints-my new, checkpoints/old" in said
    words = " ".join(command[:3] if command[0] == "export" else command[: 1 + (command[0] == "verify")])
    assert f"name one of them: luthier {words} 'checkpoints-my new'" in said


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/quickstart", "checkpoints-2"])
def test_the_only_one_is_taken_and_said(capsys, here, place):
    make(here / place)
    (here / "checkpoints" / "cache").mkdir(parents=True, exist_ok=True)
    make(here / "elsewhere")
    assert usual_run("chat") == place
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"run: {place}\n")


def test_the_shipped_folder_comes_before_all_others(here):
    for place in ("checkpoints/quickstart", "checkpoints-2", "checkpoints"):
        make(here / place)
    assert usual_run("chat") == "checkpoints"


def test_a_run_that_has_not_ended_is_named(capsys, here):
    write_events(here / "checkpoints" / "half", started(plan_of()), logs(1, 10))
    with pytest.raises(MissingError) as caught:
        usual_run("chat")
    assert "checkpoints/half has not ended" in caught.value.problems[0].found
    assert "--resume auto" in caught.value.problems[0].fix
    assert usual_run("report", has_begun) == "checkpoints/half"


def test_a_report_needs_no_finished_run(capsys, here):
    write_events(here / "checkpoints", started(plan_of()), logs(1, 40), finished())
    result = run_here(capsys, "report")
    assert (result.code, result.out, result.err) == (
        0, "report: checkpoints/report.html\n", "run: checkpoints\n"
    )  # fmt: skip


def test_a_prompt_alone_is_no_run(capsys, here):
    make(here / "checkpoints")
    result = run_here(capsys, "generate", "Add two numbers", "--file", "question.txt")
    assert result.code == 2 and "E-MODEL-012" in result.err, "the first word is RUN, as ever"


def test_a_question_by_a_pipe_goes_to_the_only_run(capsys, monkeypatch, here, finished_run):
    (here / "checkpoints").symlink_to(finished_run)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Add\n"))
    asked = run_here(capsys, "generate", "--max-new-tokens", 8)
    assert asked.code == 0 and asked.out and asked.err == "run: checkpoints\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Add\n"))
    named = run_here(capsys, "generate", "checkpoints", "--max-new-tokens", 8)
    assert (named.code, named.out, named.err) == (0, asked.out, "")
