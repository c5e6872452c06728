"""`luthier watch`: its requests, its text, and a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest

from luthier.cli.log_file import usual_log
from tests.cli.support import LUTHIER, ROOT, environment, process, run_here
from tests.events.stream import log, started, whole_run
from tests.monitor.dash import RECORDED, write

LAUNCHER = [sys.executable, str(ROOT / "src" / "utils" / "training_dashboard.py")]


def test_without_a_terminal_it_prints_where_the_run_stands(capsys):
    result = run_here(capsys, "watch", RECORDED)
    assert result.code == 0
    for words in ("by_heart", "done", "eval loss", "trend", "change  "):
        assert words in result.out, words
    assert "\x1b" not in result.out


def test_the_command_of_the_guide(tmp_path):
    """`python src/utils/training_dashboard.py --log training.log`, from a folder of the user's."""
    line = "{'loss': 2.451, 'grad_norm': 0.91, 'learning_rate': 0.0002, 'epoch': 0.01}\n"
    (tmp_path / "training.log").write_text(line * 3, "utf-8")
    result = process("--log", "training.log", cwd=tmp_path, command=LAUNCHER)
    assert (result.code, result.err) == (0, "")
    assert "2.4510" in result.out


def test_several_logs_one_after_the_other(capsys, tmp_path):
    write(tmp_path / "a.jsonl", whole_run(""))
    write(tmp_path / "b.jsonl", [started(), log(10, 0.4321)])
    result = run_here(capsys, "watch", tmp_path / "a.jsonl", "--log", tmp_path / "b.jsonl", "--once")
    assert result.code == 0 and "final_model" in result.out and "0.4321" in result.out


@pytest.mark.parametrize("arguments", [("--once",), (), ("--replay",)])
def test_a_log_that_is_not_there(capsys, tmp_path, arguments):
    result = run_here(capsys, "watch", "--log", tmp_path / "nothing.log", *arguments)
    assert result.code == 2 and "E-RUN-005" in result.err and "nothing.log" in result.err
    assert "Traceback" not in result.err and result.out == ""


@pytest.mark.parametrize("path", ["n" * 300, "/dev/null", "empty"])
def test_what_can_be_no_log_is_one_error(capsys, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = run_here(capsys, "watch", path, "--once")
    assert result.code == 2 and "E-RUN-005" in result.err and result.out == ""


@pytest.mark.parametrize("arguments", [("--once",), ()])
def test_a_config_is_no_log(capsys, tmp_path, arguments):
    (tmp_path / "run.yaml").write_text("training:\n  seed: 1\n", "utf-8")
    result = run_here(capsys, "watch", tmp_path / "run.yaml", *arguments)
    assert result.code == 2 and "E-RUN-005" in result.err and "a config is not a log" in result.err


@pytest.mark.parametrize("arguments", [("--once",), ()])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", '{"question": "Q", "answer": "A"}\n' * 3),
        ("rows.json", '[{"question": "Q",\n  "answer": "A"}]\n'),
        ("rows.csv", "question,answer\nQ,A\n"),
    ],
)
def test_e_run_005_rows_are_no_log(capsys, tmp_path, arguments, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    result = run_here(capsys, "watch", tmp_path / name, *arguments)
    assert result.code == 2 and "E-RUN-005" in result.err and "these are rows, not a log" in result.err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("new.jsonl", ""),
        ("begun.jsonl", '{"event":"run_st'),
        ("later.jsonl", '{"event":"of a later version","time":1}\n'),
        ("trainer_log.jsonl", '{"current_steps": 1, "total_steps": 60, "epoch": 0.5}\n'),
        ("metrics.jsonl", '{"train/loss": 1.0}\n'),
        ("trainer_state.json", '{\n  "log_history": []\n}\n'),
    ],
)
def test_what_may_become_a_log_is_waited_for(capsys, tmp_path, name, text):
    (tmp_path / name).write_text(text, "utf-8")
    result = run_here(capsys, "watch", tmp_path / name, "--once")
    assert result.code == 0 and "No log line yet." in result.out


def sweep(folder):
    """Two trials, as a sweep leaves them: runs, and beside each what its process wrote."""
    for name in ("trial-000", "trial-001"):
        (folder / name).mkdir(parents=True)
        (folder / f"{name}.log").write_text("x.py:1: UserWarning: something\n", "utf-8")
        write(folder / name / "events.jsonl", [replace(started(), run=name), log(10)])
    return folder


def test_a_folder_of_runs_is_all_of_them(capsys, tmp_path):
    folder = sweep(tmp_path / "checkpoints-sweep")
    whole = run_here(capsys, "watch", folder, "--once")
    assert whole.code == 0 and [whole.out.count(f"Luthier trial-00{n} ") for n in (0, 1)] == [1, 1]
    shell = run_here(capsys, "watch", *sorted(folder.glob("trial-*")), "--once")
    assert shell.out == whole.out, "trial-000.log is no run of its own"
    alone = run_here(capsys, "watch", folder / "trial-000.log", "--once")
    assert "UserWarning" in alone.out


def test_a_run_with_other_runs_in_its_folder_is_itself(capsys, tmp_path):
    folder = sweep(tmp_path / "run")
    (folder / "training.log").write_text("{'loss': 2.451, 'epoch': 0.01}\n" * 3, "utf-8")
    result = run_here(capsys, "watch", folder, "--once")
    assert "2.4510" in result.out and "trial-000" not in result.out


def test_an_empty_log_is_no_error(capsys, tmp_path):
    (tmp_path / "training.log").touch()
    result = run_here(capsys, "watch", tmp_path / "training.log")
    assert result.code == 0 and "No log line yet." in result.out


@pytest.mark.parametrize(
    "arguments", [("--speed", "5"), ("--replay", "--speed", "0"), ("--refresh", "0"), ("--refresh", "nan"), ("--fast",)]
)
def test_wrong_requests(capsys, arguments):
    result = run_here(capsys, "watch", RECORDED, *arguments)
    assert result.code == 2 and result.err and "Traceback" not in result.err


def test_without_a_name_the_log_that_was_written_last_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(usual_log()) == "training.log"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "events.jsonl").touch()
    assert str(usual_log()) == "checkpoints"
    (tmp_path / "training.log").touch()
    os.utime(tmp_path / "training.log", (9e9, 9e9))
    assert str(usual_log()) == "training.log"


def test_without_a_name_a_run_below_the_usual_folder_counts_too(tmp_path, monkeypatch, capsys):
    """As `luthier init` names them: checkpoints/NAME."""
    monkeypatch.chdir(tmp_path)
    for when, name in enumerate(
        ("checkpoints/first", "checkpoints-tries/newest", "checkpoints/third", "checkpoints/none")
    ):
        Path(name).mkdir(parents=True)
        if name != "checkpoints/none":
            shutil.copy(RECORDED, Path(name) / "events.jsonl")
            os.utime(Path(name) / "events.jsonl", (1e9 + (9 if "newest" in name else when),) * 2)
    assert usual_log() == Path("checkpoints-tries/newest")
    done = run_here(capsys, "watch", "--once")
    assert done.code == 0 and "checkpoints-tries/newest" in done.out
    Path("training.log").touch()
    assert usual_log() == Path("training.log"), "it was written last"


@pytest.mark.parametrize("command", ["watch", "doctor", "report"])
def test_a_misspelt_run_is_told_the_one_that_was_meant(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    for name in ("labels", "other"):
        Path("checkpoints", name).mkdir(parents=True)
        shutil.copy(RECORDED, Path("checkpoints", name, "events.jsonl"))
        os.utime(Path("checkpoints", name, "events.jsonl"), (1e9 + len(name),) * 2)
    done = run_here(capsys, command, "checkpoints/lables")
    assert done.code == 2 and "E-RUN-005" in done.err and "did you mean checkpoints/labels?" in done.err
    done = run_here(capsys, command, "nothing-like-it.log")
    assert f"its log: luthier {command} checkpoints/labels" in done.err, "and no folder in which there is none"


@pytest.mark.parametrize("name", ["checkpoint-9/trainer_state.json", "trainer_log.jsonl", "logs/events.out.tfevents.1"])
def test_the_folder_counts_whatever_log_it_has(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.touch()
    assert str(usual_log()) == "checkpoints"


class Terminal:
    """A command on a terminal of 80 x 24 cells."""

    def __init__(self, *arguments, cwd, **changes):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [*LUTHIER, *map(str, arguments)], cwd=cwd, stdin=slave, stdout=slave, stderr=slave, close_fds=True,
            env=environment(TERM="xterm-256color", COLUMNS="80", LINES="24", **changes), start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def read_until(self, words, seconds=60):
        end = time.monotonic() + seconds
        while words not in self.seen and time.monotonic() < end:
            if not self._read():
                break
        assert words in self.seen, self.seen[-3000:]

    def _read(self):
        try:
            part = os.read(self.master, 65536)
        except OSError:
            return False
        self.seen += part.decode("utf-8", "replace")
        return bool(part)

    def write(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        while self._read():
            pass
        os.close(self.master)
        return self.process.wait(timeout=60)


def test_on_a_terminal_it_waits_shows_and_leaves_the_summary(tmp_path):
    terminal = Terminal("watch", "--log", "training.log", cwd=tmp_path)
    terminal.read_until("waiting for the file")
    write(tmp_path / "training.log", whole_run(""))
    terminal.read_until("352.0 k")
    terminal.write("q")
    code = terminal.end()
    assert code == 0
    assert terminal.seen.rfind("\x1b[?1049l") > terminal.seen.rfind("\x1b[?1049h") >= 0
    left = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.seen[terminal.seen.rfind("\x1b[?1049l") :])
    assert "run-1a2b  done" in left


@pytest.mark.parametrize("command", [("watch", "--log", "training.log"), ("gpu",)])
def test_it_ends_with_its_terminal(tmp_path, command):
    """A terminal that is not its own (a nohup, a parent that died) sends no signal when it closes."""
    terminal = Terminal(*command, cwd=tmp_path)
    terminal.read_until("waiting for the file" if "watch" in command else "Ctrl-C ends")
    os.close(terminal.master)
    assert terminal.process.wait(timeout=60) >= 0


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(tmp_path, kill):
    write(tmp_path / "events.jsonl", whole_run(""))
    terminal = Terminal("watch", tmp_path, cwd=tmp_path, NO_COLOR="1")
    terminal.read_until("tokens/s")
    terminal.process.send_signal(kill)
    terminal.end()
    assert terminal.seen.rfind("\x1b[?1049l") > terminal.seen.rfind("\x1b[?1049h") >= 0
    assert "Traceback" not in terminal.seen
