"""torchrun with the exit code of the run: what a scheduler sees when a run ends, is wrong, or is told to go."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode

import psutil
import pytest
from torch.distributed import TCPStore

from luthier.errors import EXIT_RESUMABLE, EXIT_WRONG_REQUEST
from luthier.machine.worker import begin, leave, was_restarted
from tests.cli.support import LUTHIER, environment, write_config
from tests.launch.slurm import free_port

TORCHRUN = [sys.executable, "-m", "luthier.machine.torchrun", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0"]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals")]


def torchrun(*words, cwd):
    return subprocess.Popen(
        [*TORCHRUN, *map(str, words)], cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def train(tmp_path, tiny_model_dir, alpaca_file):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out")
    return ["-m", "luthier", "train", config, "rehearsal=false", "--resume", "auto"]


@pytest.mark.long
@pytest.mark.parametrize("by", [signal.SIGUSR1, signal.SIGHUP])
def test_told_to_go_it_saves_says_75_and_goes_on(tmp_path, train, by):
    with torchrun(*train, "max_steps=40", cwd=tmp_path) as run:
        for line in run.stdout:
            if line.startswith("{'loss'"):
                run.send_signal(by)
                break
        said = run.stdout.read()
    assert run.returncode == EXIT_RESUMABLE, said
    assert f"stopped by {by.name}" in said and "go on with --resume auto" in said
    run = torchrun(*train, "max_steps=40", cwd=tmp_path)
    said = run.communicate(timeout=120)[0]
    assert run.returncode == 0 and "resumed at step" in said and (tmp_path / "out" / "final_model").is_dir(), said


def test_a_worker_that_stops_for_itself_and_one_that_is_wrong(tmp_path, train):
    stops = tmp_path / "stops.py"
    stops.write_text("import sys\nsys.exit(75)\n")
    run = torchrun(stops, cwd=tmp_path)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == EXIT_RESUMABLE and "rank 0 ended first, with exit code 75" in said
    run = torchrun(*train, "learning_rte=1", cwd=tmp_path)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == EXIT_WRONG_REQUEST and 'did you mean "learning_rate"' in said and "Traceback" not in said


@pytest.mark.parametrize("by", ["luthier", "torchrun"])
def test_ctrl_c_before_there_are_workers(tmp_path, train, by):
    """While it looks for the other machines; the one that it has just found says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"127.0.0.1:{other.getsockname()[1]}"
        words = ["--nnodes", "2", "--rdzv-endpoint", endpoint]
        command = [*LUTHIER, *map(str, train[2:]), *words] if by == "luthier" else [*TORCHRUN, *words, "x.py"]
        with subprocess.Popen(command, cwd=tmp_path, env=environment(), text=True, stderr=subprocess.PIPE) as run:
            other.settimeout(100)
            with other.accept()[0]:
                run.send_signal(signal.SIGINT)
                said = run.communicate(timeout=100)[1]
    assert run.returncode == EXIT_RESUMABLE and "Traceback" not in said, said


def test_a_worker_is_started_again_where_one_had_begun(tmp_path, monkeypatch):
    """Whatever its agent counts; one that died before it began has left nothing to go on from."""
    monkeypatch.setenv("LUTHIER_EXIT_FILE", str(tmp_path / "code"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not was_restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    begin()
    assert was_restarted() and leave(0) == 0 and was_restarted()


def test_what_an_earlier_attempt_left_behind_does_not_count(tmp_path):
    """Rank 0 is told to go because rank 1 has failed; then both are started again, and are done."""
    two = tmp_path / "two.py"
    two.write_text(
        "import os, signal, sys, time\n"
        "from luthier.machine.worker import begin, leave, was_restarted\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(leave(75)))\n"
        "if not was_restarted():\n"
        "    time.sleep(2 if os.environ['RANK'] == '1' else 60)\n"
        "    begin()\n"
        "    sys.exit(3)\n"
        "sys.exit(leave(0))\n"
    )
    run = torchrun("--nproc-per-node", "2", "--max-restarts", "1", two, cwd=tmp_path)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 0, said


def test_a_terminal_that_is_closed_changes_no_exit_code(tmp_path):
    """What it then says nobody can read, and the system says so."""
    stops = tmp_path / "stops.py"
    stops.write_text(
        "import pathlib, signal, sys, time\n"
        "from luthier.machine.worker import leave\n"
        "signal.signal(signal.SIGHUP, lambda *_: sys.exit(leave(75)))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    terminal, inner = os.openpty()
    with subprocess.Popen([*TORCHRUN, stops], cwd=tmp_path, env=environment(), stdout=inner, stderr=inner) as run:
        os.close(inner)
        end = time.monotonic() + 100
        while not (tmp_path / "ready").exists():
            assert run.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        os.close(terminal)
        run.send_signal(signal.SIGHUP)
        assert run.wait(60) == EXIT_RESUMABLE


def test_the_first_of_several_decides(tmp_path):
    two = tmp_path / "two.py"
    two.write_text(
        "import os, signal, sys, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "time.sleep(60)\n"
    )
    run = torchrun("--nproc-per-node", "2", two, cwd=tmp_path)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 1 and "rank 1 ended first, with exit code -9" in said


@pytest.mark.long
def test_machines_go_on_after_one_rank_was_killed(tmp_path, train):
    """Its agent counts a failure, and the other none: that one starts its rank again because a machine waits."""
    words = [word for word in map(str, train[2:]) if word not in ("--resume", "auto")]
    words += ["max_steps=80", "--overwrite", "--max-restarts", "1", "--nnodes", "2"]
    command = [*LUTHIER, *words, "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    machines = []
    for log in logs:
        with log.open("wb") as file:
            machines.append(subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=file, stderr=file))
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "out" / "checkpoint-4").is_dir():
            assert time.monotonic() < end and all(machine.poll() is None for machine in machines)
            time.sleep(0.05)
        (worker,) = psutil.Process(machines[1].pid).children()
        worker.kill()
        codes = [machine.wait(timeout=120) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    said = "\n".join(log.read_text() for log in logs)
    assert codes == [0, 0], said
    assert "resumed at step" in said and not list(tmp_path.glob("out.old-*")), said


def test_a_node_that_comes_when_the_others_are_at_work(tmp_path):
    """A command that is given again while the attempt before it still ends. The place where all meet outlives them."""
    meeting = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    waits = tmp_path / "waits.py"
    waits.write_text("import pathlib, time\nprint('at work', flush=True)\n"
                     "while not pathlib.Path('go').exists(): time.sleep(0.1)\n")  # fmt: skip
    words = ["--nnodes", "1", "--rdzv-id", "x", "--rdzv-endpoint", f"127.0.0.1:{meeting.port}", waits]
    with torchrun(*words, cwd=tmp_path) as first:
        assert first.stdout.readline() == "at work\n"
        with torchrun(*words, cwd=tmp_path) as late:
            end = time.monotonic() + 100
            while not pickle.loads(b64decode(meeting.get("torch.rendezvous.x"))).redundancy_list:
                assert time.monotonic() < end
                time.sleep(0.1)
            (tmp_path / "go").touch()
            said = late.communicate(timeout=100)[0]
    assert first.returncode == 0 and late.returncode == EXIT_RESUMABLE, said
    assert "Traceback" not in said and "give the command again" in said, said


def test_the_node_that_keeps_the_rendezvous_is_lost(tmp_path):
    endpoint = f"127.0.0.1:{free_port()}"
    sleeps = tmp_path / "sleeps.py"
    sleeps.write_text("import os, time\nprint('rank', os.environ['RANK'], flush=True)\ntime.sleep(120)\n")
    words = ["--nnodes", "2", "--rdzv-id", "x", "--rdzv-endpoint", endpoint, "--rdzv-conf", "timeout=5", sleeps]
    with torchrun(*words, cwd=tmp_path) as first, torchrun(*words, cwd=tmp_path) as second:
        assert first.stdout.readline().startswith("rank") and second.stdout.readline().startswith("rank")
        listening = {c.laddr.port for c in psutil.Process(first.pid).net_connections() if c.status == "LISTEN"}
        keeper, other = (first, second) if int(endpoint.rpartition(":")[2]) in listening else (second, first)
        lost = [*psutil.Process(keeper.pid).children(recursive=True), keeper]  # a whole machine
        for process in lost:
            process.kill()
        said = other.communicate(timeout=100)[0]
        assert other.returncode == EXIT_RESUMABLE, said
