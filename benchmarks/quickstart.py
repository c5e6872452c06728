"""The quickstart's bar, measured: pass@1 on held-out tasks by split, over seeds, in LoRA bf16 and in QLoRA NF4.

    python benchmarks/quickstart.py --seeds 41 42 43        writes benchmarks/results/quickstart_cpu.json

Each run is `luthier quickstart` in a process of its own. Peak memory is that of the process, as the kernel counted it.
The file is written after each run. All seeds of QLoRA come first, then those of LoRA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "quickstart_cpu.json"
KINDS = {"QLoRA NF4": "quantization.load_in_4bit=true", "LoRA bf16": "quantization.load_in_4bit=false"}


def main() -> None:
    """Run all, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[41, 42, 43])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE for every run")
    arguments = parser.parse_intermixed_args()
    runs: list[dict[str, Any]] = []
    for kind, override in KINDS.items():
        for seed in arguments.seeds:
            run = one([override, f"training.seed={seed}", *arguments.overrides])
            surroundings = run.pop("surroundings")
            del run["answers"]
            runs.append({"kind": kind, **run})
            print(summary(runs), flush=True)
            content = {"command": " ".join(["python", *sys.argv]), "surroundings": surroundings, "runs": runs}
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def one(overrides: list[str]) -> dict[str, Any]:
    """One quickstart in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", "luthier", "quickstart", "--json", str(result), "--overwrite"]
        command += [f"training.output_dir={folder}/run", *overrides]
        started = time.monotonic()
        log = os.open(Path(folder, "log"), os.O_CREAT | os.O_WRONLY)
        actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        child = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        if os.waitstatus_to_exitcode(status):
            sys.exit(Path(folder, "log").read_text("utf-8")[-3000:])
        content: dict[str, Any] = json.loads(result.read_text("utf-8"))
    seconds = time.monotonic() - started
    return content | {"process_seconds": round(seconds, 1), "process_peak_gib": round(usage.ru_maxrss / 2**20, 3)}


def summary(runs: list[dict[str, Any]]) -> str:
    """A table: kind by split, the mean over seeds and the lowest."""
    lines = [f"{'':12}" + "".join(f"{split:>20}" for split in runs[0]["tuned"]) + f"{'minutes':>10}{'GiB':>7}"]
    groups = {"base": [(run["base"], run) for run in runs]}
    for kind in KINDS:
        groups[kind] = [(run["tuned"], run) for run in runs if run["kind"] == kind]
    for name, members in groups.items():
        if not members:
            continue
        cells = ""
        for split in runs[0]["tuned"]:
            shares = [shares[split] for shares, _ in members]
            cells += f"{f'{statistics.mean(shares):.1%} (>= {min(shares):.1%})':>20}"
        minutes = statistics.mean(run["process_seconds"] for _, run in members) / 60
        memory = max(run["process_peak_gib"] for _, run in members)
        lines.append(f"{name:12}{cells}{minutes:10.1f}{memory:7.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
