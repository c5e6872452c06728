"""Draws the pictures of the guide from runs of the small model, and writes down every number that its pages tell.

    python guide/measure.py            all of it: about ten minutes on two cores
    python guide/measure.py rank mask  only these; the others keep their pictures and numbers

Writes docs/pictures/*.svg and guide/measured.json. Runs lie in build/measure and may be deleted. The first
experiment, `base`, makes the model that the others adapt; it runs whenever that is not there.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from measuring import (
    dashboard,
    exercises,
    export,
    forecast,
    headline,
    learning,
    mechanics,
    one_step,
    performance,
    quickstart,
    report,
    sweep,
    tensorboard,
    text,
)
from measuring.runs import WORK

from luthier.version import __version__

EXPERIMENTS = {
    "quickstart": quickstart.quickstart,
    "tensorboard": tensorboard.tensorboard,
    "report": report.report,
    "one_step": one_step.one_step,
    "text": text.text,
    "base": learning.base,
    "overfitting": learning.overfitting,
    "untouched": learning.untouched,
    "learning_rates": learning.learning_rates,
    "schedules": learning.schedules,
    "adamw": learning.adamw,
    "rank": learning.rank,
    "four_bits": mechanics.four_bits,
    "gradients": mechanics.gradients,
    "panel": mechanics.panel,
    "mask": mechanics.mask,
    "packing": mechanics.packing,
    "resume": mechanics.resume,
    "dashboard": dashboard.dashboard,
    "performance": performance.performance,
    "bfloat": performance.bfloat,
    "pairs": performance.pairs,
    "writing": performance.writing,
    "gpu": performance.gpu,
    "forecast": forecast.forecast,
    "headline": headline.headline,
    "export": export.export,
    "sweep": sweep.sweep,
    "finder": sweep.finder,
    **exercises.EXPERIMENTS,
}
ALONE = {
    "base", "one_step", "text", "report", "performance", "bfloat", "pairs", "writing", "gpu", "forecast", "headline",
    "export", "adamw",
}  # fmt: skip
"""Those that need no run of `base`."""
MEASURED = Path("guide/measured.json")


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise SystemExit(f"no experiment {', '.join(unknown)}; there are {', '.join(EXPERIMENTS)}")
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}
    if set(names) - ALONE and not (WORK / "base" / "final_model").is_dir():
        names = ["base", *(name for name in names if name != "base")]
    for name in names or EXPERIMENTS:
        started = time.monotonic()
        measured[name] = EXPERIMENTS[name]()
        write(measured)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def write(measured: dict[str, dict[str, Any]]) -> None:
    """Keep the numbers, and what they were measured with."""
    measured["machine"] = {
        "luthier": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    ordered = {name: measured[name] for name in (*EXPERIMENTS, "machine") if name in measured}
    MEASURED.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
