"""Make the labelled set of runs: tests/doctor/runs/<label>/<name>-<seed>.jsonl.gz.

    python recipes/sick_runs/make.py                 all of them that are not there yet: an hour on one core
    python recipes/sick_runs/make.py times_100 lora  those, anew

Every file is the events.jsonl of a real run of `luthier.train` on a tiny model. What is large (histograms, the list of
modules) and what would name this machine (paths, the processor) is taken out; no number is changed.

Then: python recipes/sick_runs/score.py
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import material
import runs
import torch
from labels import LENGTH, SEEDS

import luthier
from luthier.errors import LuthierError
from luthier.events.types import Log

TARGET = Path(__file__).resolve().parents[2] / "tests" / "doctor" / "runs"
SCRATCH = Path(tempfile.gettempdir()) / "luthier_sick_runs"


def config(run: runs.Run, seed: int, found: dict[str, Path], folder: Path, rows: str) -> dict[str, Any]:
    """The config of a run."""
    values = material.settings(found[run.model], found[f"{rows}{seed}"], folder)
    for key, value in {"training.seed": seed, **run.keys}.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    if "max_steps" in values["training"]:
        values["training"]["max_steps"] = round(LENGTH[seed] * values["training"]["max_steps"])
    if values["training"].get("finetuning_type") == "full":
        values.pop("lora")
    if values["data"].get("prompt_template") == "odd":
        values["data"]["prompt_template"] = str(found["odd"])
    if "eval_split" in values["data"]:
        values["data"]["datasets"][0]["split"] = "train[:300]"
    return values


def events(run: runs.Run, seed: int, found: dict[str, Path], folder: Path) -> list[str]:
    """Run it; the lines of its events.jsonl."""
    shutil.rmtree(folder, ignore_errors=True)
    steps = [0]
    values = config(run, seed, found, folder, run.rows)
    twist = run.twist or nullcontext
    try:
        with nullcontext() if run.then is not None else twist():
            stop_at = round(LENGTH[seed] * run.stop_at) if run.stop_at and not run.killed else sys.maxsize
            for event in luthier.train(values, stop=lambda: steps[0] >= stop_at):
                steps[0] = event.step if isinstance(event, Log) else steps[0]
                if run.killed and steps[0] >= LENGTH[seed] * run.stop_at:
                    break
        if run.then is not None:
            changed = {**run.keys, **{key: value for key, value in run.then.items() if key != "rows"}}
            later = runs.Run(run.name, run.label, changed, run.model)
            values = config(later, seed, found, folder, run.then.get("rows", run.rows))
            with twist():
                for _ in luthier.train(values, resume="auto", allow_changes=True):
                    pass
    except LuthierError as error:
        sys.stdout.write(f"  {str(error).splitlines()[0][:150]}\n")
    return (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()


def cleaned(line: str, scratch: str) -> str | None:
    """A line without what is large and what names this machine; None for a line that says only that."""
    record = json.loads(line.replace(scratch, "sick_runs"))
    if record["event"] == "notice" and record["severity"] == "info":
        return None
    if record["event"] == "architecture":
        record["modules"] = [module for module in record["modules"] if module["type"] == "Embedding"]
    if record["event"] == "gradients":
        record["histograms"] = {}
    if record["event"] == "run_started":
        record["plan"]["machine.device_name"] = "CPU"
    return json.dumps(record)


def place(run: runs.Run, seed: int) -> Path:
    """The file of a run."""
    return TARGET / run.label / f"{run.name}-{seed}.jsonl.gz"


def make(run: runs.Run, seed: int, found: dict[str, Path]) -> None:
    """Run one and write its file."""
    folder = SCRATCH / "runs" / f"{run.name}-{seed}"
    started = time.monotonic()
    lines = [cleaned(line, str(SCRATCH)) for line in events(run, seed, found, folder)]
    target = place(run, seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(line for line in lines if line) + "\n"
    target.write_bytes(gzip.compress(text.encode(), mtime=0))
    seconds = time.monotonic() - started
    sys.stdout.write(f"{run.label}/{target.name}: {len(lines)} lines, {seconds:.1f} s\n")
    sys.stdout.flush()
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Make all runs, or those that are named."""
    torch.set_num_threads(1)  # two threads gain nothing on models of this size
    found = material.prepare(SCRATCH)
    for run in runs.runs():
        for seed in SEEDS:
            if run.name in sys.argv[1:] or (len(sys.argv) == 1 and not place(run, seed).is_file()):
                make(run, seed, found)


if __name__ == "__main__":
    main()
