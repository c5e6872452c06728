"""`luthier train --nproc-per-node`: real processes under PyTorch's agent."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest

from luthier.errors import EXIT_RESUMABLE
from luthier.machine import worker
from tests.cli.support import LUTHIER, environment, run_here, write_config

KEYS = ("max_steps=400", "logging_steps=1", "save_steps=5", "save_total_limit=2", "rehearsal=false", "report_to=[]")


def wait_for(log, words, process, seconds=120):
    end = time.monotonic() + seconds
    while words not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_rank_is_started_again_and_a_stop_reaches_all(tmp_path, tiny_model_dir, alpaca_file):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "run")
    log = tmp_path / "training.log"
    command = [*LUTHIER, "train", config, *KEYS, "--nproc-per-node", "2", "--max-restarts", "1"]
    with log.open("w") as file, subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=file, stderr=file
    ) as process:  # fmt: skip
        wait_for(log, "'step': 6,", process)
        ranks = [c for c in psutil.Process(process.pid).children(recursive=True) if "train" in c.cmdline()]
        numbers = {int(child.environ()["RANK"]): child for child in ranks}
        assert set(numbers) == {0, 1}
        numbers[1].kill()
        wait_for(log, "resumed at step", process)
        wait_for(log, "'step': 12,", process)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == EXIT_RESUMABLE
    text = log.read_text()
    assert "E-ENV-007" in text and "Traceback" not in text
    assert text.count("stopped at step") == 1 and text.count("stopping: this step") <= 1
    assert not [child for child in numbers.values() if child.is_running()], "nobody is left behind"


@pytest.fixture
def handlers_put_back():
    """The launcher's own are for the rest of a process."""
    before = {number: signal.getsignal(number) for number in worker.signals_to_stop()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers_put_back")
def test_what_is_wrong_is_said_once(capsys, tmp_path, tiny_model_dir, alpaca_file):
    config = write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "run")
    result = run_here(capsys, "train", config, "lerning_rate=1", "--nproc-per-node", "2")
    assert result.code == 2 and result.err.count("did you mean") == 1
    result = run_here(capsys, "train", config, "--nnodes", "2")
    assert result.code == 2 and "--rdzv-endpoint" in result.err
    for endpoint in ("no-such-machine.invalid:29500", "localhost:port"):
        result = run_here(capsys, "train", config, "--nnodes", "2", "--rdzv-endpoint", endpoint)
        assert result.code == 2 and f"E-ENV-004  --rdzv-endpoint: {endpoint}: no machine" in result.err
