"""Signs of life: who is waited for, and who is given up on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from luthier.errors import LuthierError
from luthier.machine import ranks
from tests.torture.outcome import FORKS

pytestmark = pytest.mark.slow


def two(work: Callable[[int], str], folder: Path) -> list[str]:
    """What `work` says on each of two ranks, which are forks; or their error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORKS.Process(target=_rank, args=(i, port, work, folder / str(i))) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return [(folder / str(i)).read_text() for i in range(2)]


def _rank(number: int, port: int, work: Callable[[int], str], said: Path) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    said.write_text("nothing")
    try:
        said.write_text(work(number))
    except LuthierError as error:
        said.write_text(str(error))


def counts_for_itself(number: int) -> str:
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(number)
    with ranks.connected(0, Path("stacks.log")):
        return ",".join(ranks.of_all_ranks(str(number)))


def test_ranks_whose_agents_count_other_restarts_find_each_other(tmp_path):
    """The agent of a machine that starts its ranks again because those of another one died has counted none."""
    assert two(counts_for_itself, tmp_path) == ["0,1", "0,1"]
