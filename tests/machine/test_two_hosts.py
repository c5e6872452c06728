"""Two machines, each a network namespace with an address of its own, that lose the network between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.errors import EXIT_FAILED, EXIT_RESUMABLE
from luthier.training.checkpoint import checkpoints
from tests.cli.support import LUTHIER, environment
from tests.torture.commands import write
from tests.torture.runs import config, losses, weights

PORT = 29507
STEPS = 300
WITHIN_SECONDS = 60


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts():
    """Their names; 10.213.77.1 and .2 are their addresses. Each sees itself and the other, and nothing else."""
    if not sys.platform.startswith("linux") or not shutil.which("ip"):
        pytest.skip("network namespaces are Linux's, and made by ip (iproute2)")
    names = [f"luthier-{os.getpid()}-{i}" for i in (1, 2)]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for i, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.213.77.{i}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_model_dir, alpaca_file, hosts):
    folder = tmp_path_factory.mktemp("straight") / "run"
    machines = start(hosts, values(folder, tiny_model_dir, alpaca_file))
    assert ended(machines, 200) == [0, 0], said(folder)
    return folder


def values(folder: Path, model: Path, rows: Path) -> dict:
    made = config(folder, model, rows, max_steps=STEPS, rehearsal=False)
    made["checkpointing"]["save_steps"] = 20
    made["evaluation"]["eval_steps"] = 100
    return made


def start(hosts: list[str], made: dict, *words: str, only: int | None = None) -> list[subprocess.Popen[bytes]]:
    """The same command on both machines; what each says goes to a file of its own beside the run."""
    folder = Path(made["training"]["output_dir"])
    command = [*LUTHIER, "train", str(write(made, folder.with_suffix(".yaml"))), "--nnodes", "2", "--resume", "auto"]
    command += ["--rdzv-endpoint", f"10.213.77.1:{PORT}", *words]
    started = []
    for i, host in enumerate(hosts):
        if only in (None, i):
            with log_of(folder, i).open("ab") as file:
                words_here = ["ip", "netns", "exec", host, *command]
                started.append(subprocess.Popen(words_here, env=environment(), stdout=file, stderr=file))
    return started


def log_of(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}-{number}.log")


def said(folder: Path, number: int | None = None) -> str:
    return "\n".join(log_of(folder, i).read_text() for i in ((0, 1) if number is None else (number,)))


def ended(machines: list[subprocess.Popen[bytes]], seconds: float) -> list[int]:
    """Their exit codes, within so many seconds."""
    end = time.monotonic() + seconds
    try:
        return [machine.wait(timeout=max(0.1, end - time.monotonic())) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()


def cut_off_at(step: int, folder: Path, hosts: list[str]) -> None:
    """The second machine loses its network after a step."""
    end = time.monotonic() + 120
    while max(losses(folder)["log"], default=0) < step:
        assert time.monotonic() < end, said(folder)
        time.sleep(0.05)
    ip("-n", hosts[1], "link", "set", "eth0", "down")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_machine_that_is_cut_off_ends_both_and_started_again_they_go_on(
    tmp_path, tiny_model_dir, alpaca_file, hosts, straight
):
    folder = tmp_path / "run"
    made = values(folder, tiny_model_dir, alpaca_file)
    machines = start(hosts, made)
    try:
        cut_off_at(70, folder, hosts)
        codes = ended(machines, WITHIN_SECONDS)
    finally:
        ip("-n", hosts[1], "link", "set", "eth0", "up")
    assert all(code in (EXIT_FAILED, EXIT_RESUMABLE) for code in codes), (codes, said(folder))
    for i in (0, 1):
        text = said(folder, i)
        assert f"E-ENV-007  rank {i} goes down with another one: no sign of life from rank {1 - i} for 4" in text, text
        assert "Traceback" not in text
    assert checkpoints(folder)
    assert ended(start(hosts, made), 200) == [0, 0], said(folder)
    assert losses(folder) == losses(straight) and weights(folder) == weights(straight)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_with_restarts_they_go_on_by_themselves_when_the_network_is_back(
    tmp_path, tiny_model_dir, alpaca_file, hosts, straight
):
    folder = tmp_path / "run"
    machines = start(hosts, values(folder, tiny_model_dir, alpaca_file), "--max-restarts", "1")
    try:
        cut_off_at(70, folder, hosts)
        time.sleep(WITHIN_SECONDS)
        assert "no sign of life" in said(folder, 0) and "no sign of life" in said(folder, 1)
    finally:
        ip("-n", hosts[1], "link", "set", "eth0", "up")
    assert ended(machines, 200) == [0, 0], said(folder)
    assert losses(folder) == losses(straight) and weights(folder) == weights(straight)


@pytest.mark.long
def test_e_env_004_a_machine_where_nobody_answers(tmp_path, tiny_model_dir, alpaca_file, hosts, monkeypatch):
    folder = tmp_path / "run"
    began = time.monotonic()
    machines = start(hosts, values(folder, tiny_model_dir, alpaca_file), only=1)
    assert ended(machines, 100) == [EXIT_FAILED]
    assert time.monotonic() - began < 80
    assert "E-ENV-004" in said(folder, 1) and "nobody answers at 10.213.77.1:29507 for 6" in said(folder, 1)
