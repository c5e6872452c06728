"""Real little runs for the suites: their configs, what they leave behind, and a process that forks them off.

To start fast, each attempt is a fork of a process that has imported torch and has run nothing of it, so that no thread
of torch is lost in the fork; `forked` refuses to fork a process that has more threads than its first.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import importlib
import json
import multiprocessing
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tests.torture.outcome import made_once, workshop

STEPS = 12
NAMES = ("lora", "nf4", "lean", "full")
"""The four ways to train that the suites go through."""


def config(folder: Path, model: Path, rows: Path, **changes: Any) -> dict[str, Any]:
    """A run of 12 steps with dropout, accumulation, evaluation and rotation."""
    training = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 3,
        "max_tokens_per_micro_batch": 200,
    }
    return {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "lora": {"r": 4, "lora_dropout": 0.1},
        "data": {"datasets": [{"path": str(rows)}], "max_seq_length": 200, "cache_dir": str(rows.parent / "cache"),
                 "val_set_size": 6, "dataloader_num_workers": 1},
        "training": {**training, **changes},
        "evaluation": {"eval_steps": 5},
        "checkpointing": {"save_steps": 2, "save_total_limit": 2},
        "logging": {"logging_steps": 1, "histogram_steps": 0, "report_to": []},
    }  # fmt: skip


def variant(name: str, folder: Path) -> dict[str, Any]:
    """The config of one of `NAMES`, as short as can be while everything that a checkpoint holds matters.

    Two of them log the mean of three steps, which a save in between must not lose. In one the first
    evaluation is the best, thanks to its learning rate; one stops early, by its patience.
    """
    model, rows = material()
    values = config(folder, model, rows, max_steps=8)
    values["evaluation"] |= {
        "eval_steps": 3,
        "sample_prompts": ["add two"],
        "sample_steps": [5],
        "sample_max_new_tokens": 3,
    }
    if name != "full":
        values["quantization"] = {"load_in_4bit": name != "lora"}
    if name == "lean":
        values["lora"]["lora_dropout"] = 0.0
        values["training"]["lean_path"] = True
    if name in ("nf4", "full"):
        values["logging"]["logging_steps"] = 3
    if name == "nf4":
        values["training"]["learning_rate"] = 30.0
    if name == "full":
        del values["lora"]
        values["training"]["finetuning_type"] = "full"
        values["evaluation"] |= {"eval_steps": 2, "early_stopping_patience": 2, "early_stopping_threshold": 50.0}
    return values


@functools.cache
def material() -> tuple[Path, Path]:
    """A tiny model and a file of rows, made by a fork so that this process runs nothing of torch."""

    def build(folder: Path) -> None:
        from tests.tiny import build_model, write_rows

        (folder / "rows").mkdir(parents=True)
        build_model(folder / "model", hidden_size=32, intermediate_size=64)
        write_rows(folder / "rows" / "rows.jsonl", 64)

    folder = made_once(workshop() / "material", lambda folder: succeeded(functools.partial(build, folder), folder))
    return folder / "model", folder / "rows" / "rows.jsonl"


def train(values: dict[str, Any], **options: Any) -> None:
    """Train; in a child."""
    from luthier import api

    for _ in api.train(values, **options):
        pass


@functools.cache
def ready() -> None:
    """Import now what a run would import, so that a fork has it."""
    importlib.import_module("tests.torture.warm")
    multiprocessing.set_start_method("fork", force=True)  # a fork that is killed cannot give back a named lock
    gc.collect()
    gc.freeze()


def succeeded(work: Callable[[], None], folder: Path) -> None:
    """Do `work` in a fork; it must not fail. Its output lies beside the folder."""
    log = folder.with_name(f"{folder.name}.log")
    code = forked(work, log)
    if code:
        raise RuntimeError(f"exit code {code}:\n{tail(log)}")


def tail(log: Path, lines: int = 25) -> str:
    """The end of what a fork wrote."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) if log.exists() else ""


def threads() -> list[str]:
    """Names of this process's threads, but for one of pyarrow's allocator, which minds a fork."""
    names = [(path / "comm").read_text().strip() for path in Path("/proc/self/task").iterdir()]
    return [name for name in names if name != "jemalloc_bg_thd"]


def forked(
    work: Callable[[], None], log: Path, kill_after: float | None = None, *, longest: float = 120.0, strict: bool = True
) -> int:
    """Do `work` in a fork of this process; what it writes goes to `log`.

    Returns:
        0, or 1 when it raised (the traceback is in the log), or minus the signal that killed it: SIGKILL after
        `kill_after` seconds; SIGABRT after `longest`.
    """
    child = start(work, log, strict=strict)
    if kill_after is not None:
        return ended(child, kill_after, signal.SIGKILL)
    return ended(child, longest, signal.SIGABRT)


def start(work: Callable[[], None], log: Path, *, strict: bool = True) -> int:
    """Begin `work` in a fork; its process. `strict`: this process must have run nothing of torch."""
    ready()
    assert not strict or len(threads()) == 1, f"a fork would lose threads: {threads()}"
    child = os.fork()
    if child == 0:
        in_fork(work, log)
    return child


def ended(child: int, seconds: float, then: int) -> int:
    """Wait for a child; after `seconds`, send it a signal. Its exit code, or minus the signal that ended it."""
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], seconds)[0]:
            os.kill(child, then)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(descriptor)


def in_fork(work: Callable[[], None], log: Path) -> NoReturn:
    """Do `work`, and never return."""
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import torch

        torch.set_num_threads(1)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def records(folder: Path) -> Iterator[dict[str, Any]]:
    """The events of all attempts of a run; a line that was cut off by a kill is left out."""
    path = folder / "events.jsonl"
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def losses(folder: Path) -> dict[str, dict[int, Any]]:
    """Kind -> step -> numbers, in full precision; later attempts win."""
    found: dict[str, dict[int, Any]] = {"log": {}, "evaluated": {}, "sampled": {}}
    for record in records(folder):
        if record["event"] == "log":
            numbers = ("loss", "grad_norm", "learning_rate", "num_tokens")
            found["log"][record["step"]] = tuple(record[name] for name in numbers)
        if record["event"] == "evaluated":
            found["evaluated"][record["step"]] = (record["eval_loss"], record["best"])
        if record["event"] == "sampled":
            found["sampled"][record["step"]] = record["text"]
    return found


def weights(folder: Path) -> str:
    """SHA-256 of the trained weights in `final_model`."""
    paths = [folder / "final_model" / name for name in ("adapter_model.safetensors", "model.safetensors")]
    return hashlib.sha256(next(path for path in paths if path.exists()).read_bytes()).hexdigest()


@functools.cache
def straight(name: str) -> tuple[Path, float]:
    """Folder of the uninterrupted run of a variant, and the seconds that it took."""
    material()

    def make(folder: Path) -> None:
        started = time.monotonic()
        succeeded(functools.partial(train, variant(name, folder)), folder)
        (folder / "seconds").write_text(str(time.monotonic() - started))

    folder = made_once(workshop() / "straight" / name, make)
    return folder, float((folder / "seconds").read_text())


def difference(name: str, folder: Path, holes: bool = False) -> str:
    """How a finished run differs from the straight one of its variant; empty: in no bit.

    A sample may be missing: when the kill came between the save of a step and its sample. `holes`: so may anything in
    the log, which is given up when the disk is full.
    """
    return unlike(straight(name)[0], folder, holes)


def unlike(whole: Path, folder: Path, holes: bool = False) -> str:
    """How the run in `folder` differs from the one in `whole`."""
    wanted, found = losses(whole), losses(folder)
    for kind, steps in wanted.items():
        partly = holes or kind == "sampled"
        compared = steps.keys() & found[kind].keys() if partly else steps.keys() | found[kind].keys()
        for step in sorted(compared):
            if steps.get(step) != found[kind].get(step):
                return f"{kind} at step {step}: {found[kind].get(step)} instead of {steps.get(step)}"
    return "" if weights(folder) == weights(whole) else "the final weights differ"
