"""Signs of life: who is waited for, and who is given up on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from luthier.errors import LuthierError
from luthier.machine import pulse, ranks
from tests.torture.outcome import FORKS

pytestmark = pytest.mark.slow


def two(work: Callable[[int], str], folder: Path, n: int = 2) -> list[str]:
    """What `work` says on each of two ranks (or more), which are forks; or their error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORKS.Process(target=_rank, args=(i, n, port, work, folder / str(i))) for i in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
        process.kill()
    return [(folder / str(i)).read_text() for i in range(n)]


def _rank(number: int, n: int, port: int, work: Callable[[int], str], said: Path) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
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


def rank_0_has_more_to_do(number: int) -> str:
    pulse.SILENT_SECONDS = 4.0
    with ranks.connected(1, Path("stacks.log")):
        ranks.watch_for_hangs()
        ranks.on_any_rank(False)
        time.sleep(0 if number else 7)
    return "done"


def test_at_the_end_others_wait_for_what_rank_0_has_to_upload(tmp_path):
    """Longer than a rank may be silent, or late in training."""
    assert two(rank_0_has_more_to_do, tmp_path) == ["done", "done"]


def rank_0_reads_for_long(number: int) -> str:
    ranks._PATIENCE = timedelta(seconds=5)
    with ranks.connected(0, Path("stacks.log")):
        return ranks.first_on_rank_0(lambda: time.sleep(0 if number else 9) or "read")


def test_rank_0_may_read_rows_for_longer_than_torch_would_wait(tmp_path):
    assert two(rank_0_reads_for_long, tmp_path) == ["read", "read"]


def stopped_early(stops: int, number: int) -> str:
    try:
        with ranks.connected(1, Path("stacks.log")):
            if number == stops:
                raise KeyboardInterrupt
            ranks.on_any_rank(False)
    except KeyboardInterrupt as error:
        return type(error).__name__
    return "done"


@pytest.mark.parametrize("stops", [0, 1])
def test_a_rank_that_is_stopped_before_there_is_anything_to_save_stops_all(tmp_path, stops):
    """It goes to no exchange any more, as a rank that has failed; and yet none of them has."""
    said = two(partial(stopped_early, stops), tmp_path)
    assert said[stops] == "KeyboardInterrupt" and said[1 - stops] == "OtherRankStopped"


def reads_a_cache(number: int) -> str:
    os.environ["LOCAL_RANK"] = "01"[number == 2]  # 0 alone, and 1 with 2

    def read() -> str:
        time.sleep(0.3)
        return str(time.monotonic())

    with ranks.connected(1, Path("stacks.log")):
        return ranks.first_on_rank_0(read)


def test_one_rank_of_each_machine_reads_before_the_others_of_it(tmp_path):
    times = [float(ended) for ended in two(reads_a_cache, tmp_path, 3)]
    assert times[0] + 0.3 <= times[1] <= times[2] - 0.3


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """Of two ranks, in this process, over a real store; an exchange may take 1.5 s."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(pulse, "_EVERY_SECONDS", 0.1)
    with ThreadPoolExecutor() as pool:  # each waits for the other's first sign
        made = pool.map(lambda number: pulse.Pulse("x", number, 2, 0.5, tmp_path / "stacks.log"), range(2))
        own, other = made
    own.watches_hangs = other.watches_hangs = True
    yield own, other
    own.close()
    other.close()


def test_who_comes_to_one_exchange_after_the_other_is_not_late(signs):
    """In the passes of a sharded model: its signs are a little old, and so it is always behind."""
    own, other = signs
    waiting, began = own.wait(), time.monotonic()
    while time.monotonic() < began + 3:
        time.sleep(0.1)
        other.enter()
        own.enter()
        assert not waiting.why_not(works=True)
    own.enter()
    while not (said := waiting.why_not(works=True)):
        assert time.monotonic() < began + 30
        time.sleep(0.1)
    assert said.startswith("rank 1 has not come for ") and "rank 1, as rank 0 waits" in own.stacks.read_text()
