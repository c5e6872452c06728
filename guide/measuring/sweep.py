"""A sweep and the learning-rate finder on the small model, as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from luthier.events.types import Evaluated
from measuring.drawing import PICTURES
from measuring.runs import WORK, config, of, run

Numbers = dict[str, Any]
CAPTURED = Path("guide/captured")
STEPS, WHOLE = 80, 200
RANGES = ["learning_rate=log:3e-4..1e-1", "lora.r=4,8,16"]


def _sections(steps: int, every: int) -> dict[str, dict[str, Any]]:
    return {
        "training": {"max_steps": steps, "min_learning_rate": 0.0, "lr_scheduler_type": "cosine"},
        "evaluation": {"eval_steps": every, "load_best_model_at_end": False},
    }


def _sweep(name: str, steps: int, every: int, *words: str) -> tuple[dict[str, Any], str]:
    """Run the command in a folder of its own; its JSON and what it wrote."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    content = config(name, **_sections(steps, every))
    content["model"]["model_name_or_path"] = str(Path(content["model"]["model_name_or_path"]).absolute())
    content["data"]["datasets"][0]["path"] = str(Path(content["data"]["datasets"][0]["path"]).absolute())
    content["data"]["cache_dir"] = str((WORK / "cache").absolute())
    content["training"]["output_dir"] = "checkpoints"
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "luthier", "sweep", "config.yaml", *words, "--json", "sweep.json"]
    ended = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    said = "\n".join(line.rstrip() for line in ended.stdout.splitlines()) + "\n"
    return json.loads((folder / "sweep.json").read_text()), said


def sweep() -> Numbers:
    """12 trials over two keys."""
    content, said = _sweep("sweep", STEPS, STEPS // 4, *RANGES, "--trials", "12")
    CAPTURED.mkdir(parents=True, exist_ok=True)
    (CAPTURED / "sweep.txt").write_text(said)
    shutil.copy(WORK / "sweep" / "checkpoints-sweep" / "sweep.png", PICTURES / "sweep.png")
    trials = content["trials"]
    best = trials[content["best"]]
    return {
        "trials": len(trials),
        "steps": STEPS,
        "pruned": sum(t["state"] == "pruned" for t in trials),
        "saved_share": sum(t["total_steps"] - t["step"] for t in trials) / (STEPS * len(trials)),
        "best_rate": best["values"]["training.learning_rate"],
        "best_rank": best["values"]["lora.r"],
        "best_eval_loss": best["eval_loss"],
    }


def finder() -> Numbers:
    """The learning-rate finder, and then whole runs at its rate and ten times off."""
    content, said = _sweep("finder", WHOLE, WHOLE, "learning_rate")
    CAPTURED.mkdir(parents=True, exist_ok=True)
    (CAPTURED / "finder.txt").write_text(said)
    best = content["trials"][content["best"]]
    rate = best["values"]["training.learning_rate"]
    after = {}
    for factor, name in ((0.1, "lower"), (1.0, "found"), (10.0, "higher")):
        sections = _sections(WHOLE, WHOLE)
        sections["training"]["learning_rate"] = rate * factor
        evaluated = of(run(f"finder-{name}", **sections), Evaluated)
        after[f"{name}_eval_loss"] = evaluated[-1].eval_loss
    return {
        "rate": rate,
        "trials": len(content["trials"]),
        "steps": best["total_steps"],
        "whole_steps": WHOLE,
        **after,
    }
