"""Several processes train one run: the same numbers as one process, and none of them hangs when another fails."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier import api
from luthier.config.schema import ModelSection
from luthier.data.order import deal
from luthier.data.pack import evenly
from luthier.errors import EXIT_FAILED, LuthierError
from luthier.events.types import Log, RunFinished
from luthier.machine import ranks
from luthier.machine.gradients import sum_gradients
from luthier.training import alike
from luthier.training.checkpoint import checkpoints
from luthier.training.identity import same_on_all_ranks
from luthier.training.optimizer import gradient_norm
from tests.tiny import write_pairs, write_rows
from tests.torture.outcome import FORKS
from tests.torture.runs import config, losses, weights

DIED = 70
EXAMPLES = {1: (2, 2), 2: (2, 1), 4: (1, 1)}
"""Ranks -> rows of a device and accumulation, for four examples a step."""


def start(
    n: int,
    values: dict | list[dict],
    *,
    fault: str = "",
    at: int = 0,
    of: int | None = 1,
    seconds: float = 120,
    **options,
) -> list[int | None]:
    """Exit codes of `n` ranks, each a fork; `fault` happens on rank `of` (None: all) after step `at`.

    One that is stuck has none.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = values if isinstance(values, list) else [values] * n
    processes = [FORKS.Process(target=_rank, args=(i, n, port, own[i], fault, at, of, options)) for i in range(n)]
    for process in processes:
        process.start()
    stuck = [of] if fault.startswith(("frozen", "stuck")) else []
    end = time.monotonic() + seconds
    for i, process in enumerate(processes):
        process.join(max(0.1, end - time.monotonic()) if i not in stuck else 0)
    codes = [process.exitcode for process in processes]
    hanging = [i for i, code in enumerate(codes) if code is None]
    for i in hanging:
        processes[i].kill()
    assert hanging == stuck, f"ranks {hanging} hang"
    return codes


def _rank(number: int, n: int, port: int, values: dict, fault: str, at: int, of: int | None, options: dict) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    from luthier import api
    from luthier.machine import pulse

    mine = of in (number, None)
    pulse.SILENT_SECONDS, alike.APPEARS_SECONDS = 6.0, 1.0
    if mine and fault in PLANTED:
        PLANTED[fault](at)
    stopped, done = [False], ""
    try:
        for event in api.train(values, stop=lambda: stopped[0], **options):
            if isinstance(event, Log) and event.step == at and mine:
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault == "frozen":
                    os.kill(os.getpid(), signal.SIGSTOP)
                stopped[0] = fault == "stop"
            done = event.status if isinstance(event, RunFinished) else done
    except LuthierError as error:
        folder = Path(values["training"]["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)  # what a refused run made is gone
        (folder / f"rank{number}.txt").write_text(str(error))
        os._exit(DIED)
    os._exit(75 if done == "stopped" else 0)


def read_with(fault: Callable[[], None]) -> Callable[[int], None]:
    """Reading the rows of a step ends in something."""

    def plant(at: int) -> None:
        from luthier.training import engine

        real = engine.training_steps

        def training_steps(*arguments):
            for step, batches in enumerate(real(*arguments)):
                if step == at:
                    fault()
                yield batches

        engine.training_steps = training_steps

    return plant


def a_read_that_never_ends() -> None:
    time.sleep(3600)


def a_read_that_fails() -> None:
    raise ZeroDivisionError("on purpose")


def too_large(at: int) -> None:
    """The first pass of several rows does not fit into memory."""
    from luthier.training import step

    real, first = step.sums, [True]

    def sums(model, batch, *rest):
        if batch.rows > 1 and first[0]:
            first[0] = False
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch, *rest)

    step.sums = sums


def once_too_large(module: str, name: str) -> Callable[[int], None]:
    """The first call of a function does not fit into memory."""

    def plant(at: int) -> None:
        place, first = importlib.import_module(module), [True]
        real = getattr(place, name)

        def fails(*arguments, **options):
            if first[0]:
                first[0] = False
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(*arguments, **options)

        setattr(place, name, fails)

    return plant


def an_infinite_moment(at: int) -> None:
    """After a step; the weights stay numbers."""
    from luthier.training import engine

    real, steps = engine.update, []

    def update(trained, optimizer, *arguments):
        real(trained, optimizer, *arguments)
        steps.append(1)
        if len(steps) == at:
            next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(math.inf)

    engine.update = update


def sent(number: int, module: str, name: str) -> Callable[[int], None]:
    """The call after `at` others of a function begins with a signal."""

    def plant(at: int) -> None:
        place, calls = importlib.import_module(module), []
        real = getattr(place, name)

        def signalled(*arguments):
            calls.append(1)
            if len(calls) > at:
                os.kill(os.getpid(), number)
            return real(*arguments)

        setattr(place, name, signalled)

    return plant


def in_another_folder(at: int) -> None:
    """As on a machine that has files of its own under the same names."""
    os.chdir("other")


PLANTED = {
    "elsewhere": in_another_folder,
    "memory": too_large,
    "memory for the sum": once_too_large("luthier.machine.gradients", "_in_a_row"),
    "memory for the rehearsal": once_too_large("luthier.training.rehearsal", "collate"),
    "memory for the rehearsal's checkpoint": once_too_large("luthier.training.rehearsal", "save_checkpoint"),
    "memory for the rows": once_too_large("luthier.ingredients", "prepare"),
    "memory for the norm": once_too_large("luthier.training.step", "gradient_norm"),
    "memory for the update": once_too_large("luthier.training.engine", "prepare_step"),
    "moment": an_infinite_moment,
    "frozen in a pass": sent(signal.SIGSTOP, "luthier.training.step", "sums"),
    "frozen in the norm": sent(signal.SIGSTOP, "luthier.training.step", "gradient_norm"),
    "frozen in a save": sent(signal.SIGSTOP, "luthier.machine.shards", "whole"),
    "killed in the norm": sent(signal.SIGKILL, "luthier.training.step", "gradient_norm"),
    "threads": lambda _: setattr(torch, "get_num_threads", lambda: 8),
    "arithmetic": lambda _: setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OLD"),
    "stuck": read_with(a_read_that_never_ends),
    "error": read_with(a_read_that_fails),
}


def of_ranks(n: int, folder: Path, model: Path, rows: Path, **changes) -> dict:
    """The config of a run of four examples a step, without dropout."""
    batch, accumulation = EXAMPLES[n]
    values = config(folder, model, rows, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    values["training"] |= changes
    values["lora"]["lora_dropout"] = 0.0
    return values


def said(folder: Path, number: int) -> str:
    return (folder / f"rank{number}.txt").read_text()


def told(folder: Path, event: str, field: str) -> list[float]:
    """A field of every event of a kind."""
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [record[field] for record in map(json.loads, lines) if record["event"] == event]


def curve(folder: Path) -> list[float]:
    """The loss of each step, attempts one after the other."""
    return told(folder, "log", "loss")


@pytest.fixture(scope="module")
def one(tmp_path_factory, tiny_model_dir, alpaca_file):
    folder = tmp_path_factory.mktemp("one") / "run"
    assert start(1, of_ranks(1, folder, tiny_model_dir, alpaca_file)) == [0]
    return folder


@pytest.mark.parametrize("n", [2, 4])
def test_many_ranks_train_what_one_trains(tmp_path, tiny_model_dir, alpaca_file, one, n):
    folder = tmp_path / "run"
    assert start(n, of_ranks(n, folder, tiny_model_dir, alpaca_file)) == [0] * n
    assert told(folder, "log", "step") == told(one, "log", "step") and len(curve(one)) == 12
    assert curve(folder) == pytest.approx(curve(one), rel=2e-6)
    assert told(folder, "log", "num_tokens") == told(one, "log", "num_tokens")
    assert told(folder, "log", "grad_norm") == pytest.approx(told(one, "log", "grad_norm"), rel=2e-4)
    assert told(folder, "evaluated", "eval_loss") == pytest.approx(told(one, "evaluated", "eval_loss"), rel=2e-6)
    assert {len(seconds) for seconds in told(folder, "timing", "own_seconds")} == {n}
    name = "final_model/adapter_model.safetensors"
    wanted, found = load_file(one / name), load_file(folder / name)
    assert all(torch.allclose(found[key], wanted[key], atol=2e-5) for key in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4", "lean", "full"])
def test_the_same_in_4_bits_on_the_lean_path_and_in_full_fine_tuning(tmp_path, tiny_model_dir, alpaca_file, name):
    curves = []
    for n in (1, 2):
        values = of_ranks(n, tmp_path / str(n), tiny_model_dir, alpaca_file, max_steps=6)
        values["training"]["lean_path"] = name == "lean"
        values["quantization"] = {"load_in_4bit": name != "full"}
        if name == "full":
            del values["lora"]
            values["training"]["finetuning_type"] = "full"
        assert start(n, values) == [0] * n
        curves.append(curve(tmp_path / str(n)))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


@pytest.mark.slow
def test_pairs_on_two_ranks_train_what_one_trains(tmp_path, tiny_model_dir):
    write_pairs(tmp_path / "pairs.jsonl", 40)
    folders = [tmp_path / str(n) for n in (1, 2)]
    for n, folder in enumerate(folders, 1):
        values = of_ranks(n, folder, tiny_model_dir, tmp_path / "pairs.jsonl", max_steps=6, objective="dpo")
        assert start(n, values) == [0] * n
    for event, field in (("log", "loss"), ("log", "reward_margin"), ("evaluated", "eval_loss")):
        one, two = (told(folder, event, field) for folder in folders)
        assert len(one) > 1 and two == pytest.approx(one, abs=1e-5)
    assert told(folders[1], "evaluated", "reward_accuracy") == told(folders[0], "evaluated", "reward_accuracy")


@pytest.mark.parametrize("fault", ["kill", "error"])
def test_who_is_left_behind_ends_and_the_resume_is_exact(tmp_path, tiny_model_dir, alpaca_file, fault):
    """With dropout: every rank has random generators of its own, and all of them are in the checkpoint."""

    def values(name):
        made = of_ranks(2, tmp_path / name, tiny_model_dir, alpaca_file)
        made["lora"]["lora_dropout"] = 0.1
        return made

    assert start(2, values("straight")) == [0, 0]
    assert start(2, values("run"), fault=fault, at=7) == [DIED, -signal.SIGKILL if fault == "kill" else DIED]
    text = said(tmp_path / "run", 0)
    named = (
        "rank 1 is gone; last seen at"
        if fault == "kill"
        else "rank 1 has failed: E-RUN-004 ZeroDivisionError: on purpose"
    )
    assert "E-ENV-007" in text and named in text, text
    assert start(2, values("run"), resume="auto") == [0, 0]
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("of", [0, 1])
def test_a_rank_that_is_frozen_is_given_up_on(tmp_path, tiny_model_dir, alpaca_file, of):
    """As one whose machine has lost its network; rank 0 keeps the signs of life of all."""
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file)
    codes = start(2, values, fault="frozen", at=4, of=of, seconds=60)
    assert codes[1 - of] == DIED
    text = said(tmp_path / "run", 1 - of)
    assert "E-ENV-007" in text and f"no sign of life from rank {of} for 6" in text, text


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("where", ["a pass", "the norm", "a save"])
def test_nobody_waits_where_a_sharded_model_is_gathered_for_a_rank_that_is_frozen(
    tmp_path, tiny_model_dir, alpaca_file, where
):
    """There it is torch that waits, and nothing can interrupt it: the process ends."""
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, fsdp=True, rehearsal=False)
    codes = start(2, values, fault=f"frozen in {where}", at=2, seconds=60)
    assert codes == [EXIT_FAILED, None]


@pytest.mark.slow
def test_a_rank_that_is_killed_where_a_sharded_model_is_gathered_is_named(tmp_path, tiny_model_dir, alpaca_file):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, fsdp=True, rehearsal=False)
    assert start(2, values, fault="killed in the norm", at=2) == [DIED, -signal.SIGKILL]
    assert "E-ENV-007" in said(tmp_path / "run", 0) and "rank 1 is gone" in said(tmp_path / "run", 0)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("of", [0, 1])
def test_a_rank_that_does_not_come_is_named_with_its_stack(tmp_path, tiny_model_dir, alpaca_file, of):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, hang_seconds=3)
    codes = start(2, values, fault="stuck", at=4, of=of, seconds=60)
    assert codes[1 - of] == DIED
    text = said(tmp_path / "run", 1 - of)
    assert f"E-ENV-007  rank {1 - of}" in text and f"rank {of} has not come for 9 s; last seen at fetched" in text, text
    stacks = (tmp_path / "run" / ("stacks.rank1.log" if of == 0 else "stacks.log")).read_text()
    assert f"rank {of}, as rank {1 - of} waits for it" in stacks and "a_read_that_never_ends" in stacks
    assert start(2, values, resume="auto") == [0, 0]


def test_a_stop_on_one_rank_stops_all_at_one_step(tmp_path, tiny_model_dir, alpaca_file, one):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file)
    assert start(2, values, fault="stop", at=3) == [75, 75]
    assert checkpoints(tmp_path / "run")[-1].name in ("checkpoint-3", "checkpoint-4")
    assert start(2, values, resume="auto") == [0, 0]
    assert curve(tmp_path / "run") == pytest.approx(curve(one), rel=2e-6)


def test_when_one_rank_goes_on_all_do(tmp_path, tiny_model_dir, alpaca_file):
    """As on a machine whose launcher alone knows of the attempt before."""
    values = [of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=6) for _ in range(2)]
    assert start(2, values, fault="stop", at=1) == [75, 75]
    values[1]["checkpointing"]["resume_from_checkpoint"] = "auto"
    assert start(2, values) == [0, 0]
    assert told(tmp_path / "run", "log", "step") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("fault", "of"),
    [
        ("memory", 1),
        ("memory for the sum", 1),
        ("memory for the norm", 1),
        ("memory for the update", 1),
        ("memory for the rehearsal", 1),
        ("memory for the rehearsal's checkpoint", 0),
    ],
)
def test_memory_that_runs_out_on_one_rank_is_given_up_on_all(tmp_path, tiny_model_dir, alpaca_file, one, fault, of):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, rehearsal="rehearsal" in fault)
    assert start(2, values, fault=fault, of=of) == [0, 0]
    lines = (tmp_path / "run" / "events.jsonl").read_text()
    assert lines.count("ran out of memory (E-RUN-002)") == 1
    assert curve(tmp_path / "run") == pytest.approx(curve(one), rel=2e-6)


def test_memory_that_runs_out_where_nothing_can_be_given_up_ends_all_and_who_had_none_says_so_first(
    tmp_path, tiny_model_dir, alpaca_file
):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file)
    assert start(2, values, fault="memory for the rows", of=0) == [DIED, DIED]
    assert "E-RUN-004" in said(tmp_path / "run", 0) and "out of memory" in said(tmp_path / "run", 0)
    assert "E-ENV-007" in said(tmp_path / "run", 1) and "rank 0 ran out of memory" in said(tmp_path / "run", 1)
    at = [(tmp_path / "run" / f"rank{number}.txt").stat().st_mtime_ns for number in range(2)]
    assert at[0] < at[1]


def test_a_moment_that_is_no_number_ends_all_ranks_alike(tmp_path, tiny_model_dir, alpaca_file):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=6, rehearsal=False)
    assert start(2, values, fault="moment", at=2, of=None) == [DIED, DIED]
    assert all("E-RUN-001" in said(tmp_path / "run", number) for number in range(2))


def test_e_env_008_ranks_with_other_rows_do_not_train_together(tmp_path, tiny_model_dir, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, 3)
    values = of_ranks(4, tmp_path / "run", tiny_model_dir, rows)
    values["data"]["val_set_size"] = 0
    del values["evaluation"]
    assert start(4, values) == [DIED] * 4
    assert "E-ENV-008" in said(tmp_path / "run", 0) and "3 rows for 4 ranks" in said(tmp_path / "run", 0)


@pytest.fixture
def two_folders(tmp_path, tiny_model_dir, monkeypatch):
    """Of two machines: this one, and `other`, with other weights."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    shutil.copytree(tiny_model_dir, tmp_path / "other" / "model")
    tensors = load_file(tiny_model_dir / "model.safetensors")
    tensors["model.norm.weight"] *= 1.5
    save_file(tensors, tmp_path / "other" / "model" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "other" / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_e_env_008_ranks_with_other_weights_do_not_train_together(two_folders, alpaca_file):
    values = of_ranks(2, two_folders / "run", Path("model"), alpaca_file, rehearsal=False)
    assert start(2, values, fault="elsewhere") == [DIED, DIED]
    text = said(two_folders / "run", 0)
    hashes = [hashlib.sha256((two_folders / name / "model.safetensors").read_bytes()).hexdigest()[:12]
              for name in ("other/model", "model")]  # fmt: skip
    assert "E-ENV-008" in text and "the base model of rank 1 has model.safetensors" in " ".join(text.split())
    assert all(each in text for each in hashes), text


def test_e_env_008_ranks_that_do_not_see_one_output_folder(two_folders, alpaca_file):
    values = of_ranks(2, Path("run"), Path("model"), alpaca_file)
    assert start(2, values, fault="elsewhere") == [DIED, DIED]
    for folder, number in ((two_folders, 0), (two_folders / "other", 1)):
        text = " ".join(said(folder / "run", number).split())
        assert "E-ENV-008  training.output_dir" in said(folder / "run", number)
        assert f"{two_folders}/other/run of rank 1 on " in text and f"is not {two_folders}/run of rank 0" in text, text


def test_each_folder_of_a_machine_is_hashed_once(two_folders, monkeypatch):
    """The first rank of each machine hashes, and whoever reads other files."""
    section = ModelSection(model_name_or_path="model")
    host = socket.gethostname()
    ours, theirs = (host, str(two_folders / "model")), (host, str(two_folders / "other" / "model"))

    def hashes(number: int, local: int, *before: tuple[str, str]) -> bool:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        monkeypatch.setattr(alike, "of_all_ranks", lambda place: [*before, place])
        return bool(alike.hashing(section)())

    assert hashes(0, 0) and hashes(1, 1, theirs) and hashes(2, 0, ours, theirs)
    assert not hashes(1, 1, ours) and not hashes(2, 2, theirs, ours)


@pytest.mark.parametrize(
    ("other", "fits"),
    [
        ({}, True),
        ({"config.json": "a" * 64, "model.safetensors": "b" * 64, "consolidated.safetensors": "c" * 64}, True),
        ({"config.json": "a" * 64, "model-00001-of-00002.safetensors": "b" * 64}, False),
        ({"config.json": "d" * 64, "model.safetensors": "b" * 64}, False),
    ],
)
def test_what_is_another_base_model(monkeypatch, other, fits):
    own = {"config.json": "a" * 64, "model.safetensors": "b" * 64}
    monkeypatch.setattr(alike, "of_all_ranks", lambda _: [own, other])
    with nullcontext() if fits else pytest.raises(LuthierError, match="E-ENV-008"):
        assert alike.require_one_base(other) == own


def test_e_env_004_a_promised_rank_that_does_not_come(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    from luthier import api

    with pytest.raises(LuthierError, match="E-ENV-004"):
        list(api.train(of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file)))


def test_e_env_004_a_process_without_a_gpu_of_its_own(tmp_path, tiny_model_dir, alpaca_file, monkeypatch):
    """Said before any GPU is looked at: here there is none that could be."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LuthierError, match=r"E-ENV-004  process 2 of this machine has no GPU of its own: it sees 1"):
        list(api.train(of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file)))


def test_a_step_is_dealt_evenly_by_tokens():
    lengths = [500, 480, 20, 10, 30, 25, 15, 490, 470]
    rows = list(range(100, 109))
    shares = [deal(rows, lengths, rank, 2) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == rows
    tokens = [sum(lengths[row - 100] for row in share) for share in shares]
    assert max(tokens) <= 1.3 * min(tokens)
    assert deal(rows, lengths, 0, 1) == rows
    assert all(evenly(lengths, 8)), "as many rows as ranks: each has one"


def test_a_rank_with_another_config_is_named(tmp_path, tiny_model_dir, alpaca_file):
    values = [of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, learning_rate=rate) for rate in (1e-3, 2e-3)]
    assert start(2, values) == [DIED, DIED]
    assert "rank 1 has config.training.learning_rate 0.002, and rank 0 0.001" in said(tmp_path / "run", 0)


def test_machines_may_have_other_numbers_of_cores(tmp_path, tiny_model_dir, alpaca_file):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file, max_steps=6, rehearsal=False)
    assert start(2, values, fault="threads") == [0, 0]


def test_e_env_008_cpus_that_round_otherwise_are_named(tmp_path, tiny_model_dir, alpaca_file):
    values = of_ranks(2, tmp_path / "run", tiny_model_dir, alpaca_file)
    assert start(2, values, fault="arithmetic") == [DIED, DIED]
    text = said(tmp_path / "run", 0)
    assert "rank 1 has surrounding.arithmetic OLD, and rank 0 " in text and "ATEN_CPU_CAPABILITY" in text
    plan, _ = api.plan(values)
    assert "surrounding.arithmetic" in same_on_all_ranks(plan)
    on_gpu = same_on_all_ranks(replace(plan, machine=replace(plan.machine, device="cuda")))
    assert "surrounding.arithmetic" not in on_gpu and on_gpu["surrounding.torch"] == torch.__version__


def _writes_norm(number: int, port: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(size)) for size in (1013, 77, 4001)]
    if number == 0:  # in one buffer, in another order; rank 1 has none
        whole = torch.randn(sum(p.numel() for p in params), generator=generator)
        for p, part in zip(params[::-1], torch.split(whole, [p.numel() for p in params[::-1]]), strict=True):
            p.grad = part.view_as(p)
    with ranks.connected(0, Path("stacks.log")):
        sum_gradients(params)
    (folder / str(number)).write_text(gradient_norm(params).item().hex())


def test_ranks_whose_gradients_lay_elsewhere_round_their_length_alike(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [FORKS.Process(target=_writes_norm, args=(i, port, tmp_path)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()
