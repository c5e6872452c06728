"""`luthier watch --web`: its requests, what it says, and how it ends; as processes, for signals are part of it."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from tests.cli.support import LUTHIER, ROOT, run_here, start
from tests.events.stream import log, started, whole_run
from tests.monitor.dash import RECORDED, write

LAUNCHER = [sys.executable, str(ROOT / "src" / "utils" / "training_dashboard.py")]


@contextmanager
def watching(*arguments, cwd, command=LUTHIER):
    """The process and the address that it names."""
    child = start(*arguments, "--port", 0, cwd=cwd, command=command)
    try:
        said = child.stdout.readline()
        yield child, re.search(r"http://\S+:\d+/", said)[0]
    finally:
        child.kill()
        child.communicate()


def read(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_a_run_until_it_is_told_to_end(tmp_path, kill):
    write(tmp_path / "events.jsonl", whole_run(""))
    with watching("watch", tmp_path, "--web", cwd=tmp_path) as (child, address):
        assert address.startswith("http://127.0.0.1:") and "run-1a2b" in read(address)
        child.send_signal(kill)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out, err) == (0, "ended; the run was not touched\n", "")
    with pytest.raises(urllib.error.URLError):
        read(address)


def test_the_command_of_the_guide_and_a_log_that_is_yet_to_come(tmp_path):
    with watching("--log", "training.log", "--web", cwd=tmp_path, command=LAUNCHER) as (_, address):
        assert "waiting for the file" in read(address)
        line = "{'loss': 2.451, 'grad_norm': 0.91, 'learning_rate': 0.0002, 'epoch': 0.01}\n"
        (tmp_path / "training.log").write_text(line * 3, "utf-8")
        end = time.monotonic() + 30
        while "2.4510" not in (html := read(address)) and time.monotonic() < end:
            time.sleep(0.1)
        assert "2.4510" in html


def test_a_folder_of_runs_is_all_of_them(tmp_path):
    for name in ("trial-000", "trial-001"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "events.jsonl", [started(), log(10)])
    with watching("watch", tmp_path, "--web", cwd=tmp_path) as (_, address):
        assert "<h2>2 runs</h2>" in read(address)


def test_a_replay_goes_on(tmp_path):
    with watching("watch", RECORDED, "--replay", "--speed", 1000, "--web", cwd=tmp_path) as (_, address):
        end = time.monotonic() + 30
        while "done</small>" not in (html := read(address)) and time.monotonic() < end:
            time.sleep(0.1)
        assert "done</small>" in html and "replay of" in html


def test_an_open_door_is_warned_of(tmp_path):
    with watching("watch", RECORDED, "--web", "--host", "0.0.0.0", cwd=tmp_path) as (child, _):
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0 and "anyone on the network can read" in err and "ssh -L" in err


def test_e_serve_002_a_port_in_use_is_one_error_with_one_that_is_free(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run_here(capsys, "watch", RECORDED, "--web", "--port", taken.getsockname()[1])
    assert result.code == 2 and result.out == "" and "E-SERVE-002" in result.err
    assert re.search(r"--port \d+, which is free", result.err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--web", "--once"), "--once"),
        (("--port", "8090"), "--web"),
        (("--host", "localhost"), "--web"),
        (("--web", "--port", "70000"), "--port"),
        (("--web", "--refresh", "0"), "--refresh"),
        (("--web", "--host", "no.such.host.invalid"), "E-SERVE-002"),
    ],
)
def test_wrong_requests(capsys, arguments, said):
    result = run_here(capsys, "watch", RECORDED, *arguments)
    assert result.code == 2 and said in result.err and result.out == "" and "Traceback" not in result.err


def test_what_can_be_no_log_is_one_error(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("training:\n  seed: 1\n", "utf-8")
    result = run_here(capsys, "watch", tmp_path / "run.yaml", "--web")
    assert result.code == 2 and "E-RUN-005" in result.err and "a config is not a log" in result.err
    result = run_here(capsys, "watch", tmp_path / "nothing.log", "--web", "--replay")
    assert result.code == 2 and "E-RUN-005" in result.err


def test_help_tells_of_the_page(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = run_here(capsys, "watch", "--help")
    assert result.code == 0
    for words in ("--web", "--port", "--host", "127.0.0.1", "8090", "0.0.0.0"):
        assert words in result.out, words
