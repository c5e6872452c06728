"""Weak scaling: tokens a second of two processes on one run, beside one process with half as many rows a step.

    python benchmarks/ranks.py [--rounds 5] [--steps 12] [--json benchmarks/results/ranks_cpu.json]

Each process has one thread and the same tokens a step (the base of `luthier bench`, QLoRA, rank 16). A round has three
cases, in turns, each in fresh processes:

    one      one process
    two      two processes, one run: `luthier train --nproc-per-node 2`
    apart    two processes, each a run of its own, at once

`efficiency` is two / (2 x one). Two processes share memory and caches, whatever they do: `machine` is
apart / (2 x one), what this machine would allow, and `ranks` is two / apart, what dealing, waiting and adding gradients
leave of it.
The median over the rounds is what counts; a round's three cases are minutes apart at most. Rates leave out the first
steps. Needs two cores of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from luthier.bench.base import make_base
from luthier.bench.setting import DEFAULTS, RUN_KEYS
from luthier.machine.record import surroundings

WARM_UP = 4
CASES = ("one", "two", "apart")


def begin(folder: Path, name: str, steps: int, processes: int) -> subprocess.Popen[str]:
    """A run of the command line."""
    config = folder / "empty.yaml"
    config.write_text("{}\n", encoding="utf-8")
    keys = [*DEFAULTS, *RUN_KEYS, f"max_steps={steps}", "rehearsal=false"]
    keys += [f"model_name_or_path={folder / 'base'}", f"output_dir={folder / name}", f"cache_dir={folder / 'cache'}"]
    command = [sys.executable, "-m", "luthier", "train", str(config), *keys, "--plain", "--overwrite"]
    return subprocess.Popen(
        [*command, *(["--nproc-per-node", str(processes)] if processes > 1 else [])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rate(folder: Path) -> dict[str, float]:
    """Tokens a second and a step, after the first steps."""
    records = map(json.loads, (folder / "events.jsonl").read_text(encoding="utf-8").splitlines())
    logs = [record for record in records if record["event"] == "log"][WARM_UP - 1 :]
    tokens = logs[-1]["num_tokens"] - logs[0]["num_tokens"]
    seconds = sum(log["step_seconds"] for log in logs[1:])
    return {"tokens_per_second": tokens / seconds, "tokens_per_step": tokens / (len(logs) - 1)}


def measure(folder: Path, case: str, steps: int) -> dict[str, float]:
    """One case; of several runs the sum."""
    runs = {"one": {"one": 1}, "two": {"two": 2}, "apart": {"left": 1, "right": 1}}[case]
    processes = [begin(folder, name, steps, count) for name, count in runs.items()]
    for process in processes:
        said = process.communicate()[1]
        if process.returncode:
            sys.exit(f"{case} failed:\n{said[-4000:]}")
    rates = [rate(folder / name) for name in runs]
    return {key: sum(each[key] for each in rates) for key in rates[0]}


def ratios(measured: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of one round."""
    one, two, apart = (measured[case]["tokens_per_second"] for case in CASES)
    return {"efficiency": two / (2 * one), "machine": apart / (2 * one), "ranks": two / apart}


def main() -> None:
    """Measure all rounds, print each and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP:
        sys.exit(f"--steps: more than {WARM_UP}, which are left out")
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base")
        measure(folder, "one", WARM_UP + 1)  # tokenizes the rows
        for number in range(arguments.rounds):
            order = CASES[number % 3 :] + CASES[: number % 3]
            measured = {case: measure(folder, case, arguments.steps) for case in order}
            rounds.append({**ratios(measured), "cases": measured})
            print("   ".join(f"{key} {value:.3f}" for key, value in ratios(measured).items()), flush=True)
    medians = {key: median(one[key] for one in rounds) for key in ("efficiency", "machine", "ranks")}
    print("medians: " + "   ".join(f"{key} {value:.3f}" for key, value in medians.items()))
    if arguments.json:
        record = {"surroundings": surroundings(), "steps": arguments.steps, **medians, "rounds": rounds}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
