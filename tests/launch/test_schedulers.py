"""Jobs on a real Slurm and a real Ray of this machine's own: stopped, queued again, gone on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.cli.support import process, write_config
from tests.launch import slurm

SOURCE = Path(__file__).parents[2] / "src"
RAY = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def config(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return write_config(tmp_path / "c.yaml", tiny_model_dir, alpaca_file, tmp_path / "out", rehearsal=False)


@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not())
def test_slurm_queues_a_stopped_job_again_and_a_cancelled_one_not(config, tmp_path):
    folder = tmp_path / "slurm"
    folder.mkdir()
    with slurm.cluster(folder) as environment:
        said = slurm.output(environment, "sbatch", "--version")
        launch = ("launch", config, "max_steps=100000", "--on", "slurm", "--gpus-per-node", "0", "--time", "60")
        done = process(*launch, cwd=tmp_path)
        assert done.code == 0, done.err
        assert "to start at" in slurm.output(environment, "sbatch", "--test-only", str(tmp_path / "luthier-out.sbatch"))
        done = process(*launch, "--submit", cwd=tmp_path, **environment)
        job = re.search(r"Submitted batch job (\d+)", done.out)[1]
        log = tmp_path / f"luthier-out-{job}.log"

        def told(*words):
            return log.is_file() and all(word in log.read_text() for word in words)

        def state(what):
            return re.search(rf"{what}=(\S+)", slurm.output(environment, "scontrol", "show", "job", job))[1]

        slurm.wait(lambda: told("'step': 5,"), 120)
        slurm.output(environment, "scancel", "--signal=TERM", "--batch", job)  # as `--signal=B:TERM@180` does
        slurm.wait(lambda: (state("Restarts"), state("JobState")) == ("1", "PENDING"), 60)
        assert told("go on with --resume auto", "exit code 75"), said
        slurm.wait(lambda: "idle" in slurm.output(environment, "sinfo", "-h", "-o", "%T"), 60)
        slurm.output(environment, "scontrol", "update", f"JobId={job}", "StartTime=now")
        slurm.wait(lambda: told("resumed at step"), 300)
        slurm.output(environment, "scancel", job)
        slurm.wait(lambda: state("JobState") == "CANCELLED", 60)
        slurm.wait(lambda: "idle" in slurm.output(environment, "sinfo", "-h", "-o", "%T"), 60)
        assert state("JobState") == "CANCELLED" and log.read_text().count("go on with --resume auto") == 2


def agent(address):
    """The process of torchrun that belongs to this Ray."""
    for one in psutil.process_iter(["cmdline", "environ"]):
        ours = address.items() <= (one.info["environ"] or {}).items()
        if ours and one.info["cmdline"][1:3] == ["-m", "luthier.machine.torchrun"]:
            return one.pid
    raise AssertionError("no torchrun at work")


@pytest.mark.skipif(RAY is None, reason='ray is not installed (pip install "ray[default]")')
def test_ray_starts_a_stopped_job_again(config, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PATH", f"{Path(RAY).parent}{os.pathsep}{os.environ['PATH']}")
    ports = [slurm.free_port() for _ in range(2)]
    start = ["ray", "start", "--head", "--num-cpus=2", f"--port={ports[0]}", f"--dashboard-port={ports[1]}"]
    sockets = tempfile.mkdtemp(prefix="ray")  # the names of sockets are short
    start += [f"--temp-dir={sockets}", "--disable-usage-stats", "--block"]
    mark = {"LUTHIER_TEST": str(tmp_path)}  # the workers inherit it
    head = subprocess.Popen(start, env={**os.environ, **mark}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = {"RAY_ADDRESS": f"http://127.0.0.1:{ports[1]}"}
    try:
        slurm.wait(lambda: slurm.output(address, "ray", "job", "list").strip().endswith("[]"), 90)
        (tmp_path / "here").mkdir()
        config = Path(shutil.copy(config, tmp_path / "here"))
        command = ("launch", "c.yaml", "max_steps=60", "--on", "ray", "--gpus-per-node", "0", "--submit")
        done = process(*command, cwd=config.parent, **address)
        job = re.search(r"raysubmit_\w+", done.out)[0]
        log = tmp_path / "out" / "events.jsonl"
        slurm.wait(lambda: log.is_file() and '"step":5,' in log.read_text(), 180)
        os.kill(agent(mark), signal.SIGTERM)
        slurm.wait(lambda: re.search("SUCC.*succeeded|failed", slurm.output(address, "ray", "job", "status", job)), 240)
        said = slurm.output(address, "ray", "job", "logs", job)
        assert "start 1 ended with [75]" in said and "start 2 ended with [0]" in said
        assert (tmp_path / "out" / "final_model").is_dir()
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(sockets, ignore_errors=True)
