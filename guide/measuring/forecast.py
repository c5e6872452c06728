"""The benchmark of predicted memory and time as numbers; nothing is measured here.

python benchmarks/forecast.py ROWS.jsonl
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHOWN = "QLoRA"
"""The run whose rehearsal the page shows."""
RESULTS = Path("benchmarks/results/forecast_cpu.json")


def forecast() -> dict[str, Any]:
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    runs, surroundings = content["runs"], content["surroundings"]
    memory = [abs(run["memory_error"]) for run in runs]
    seconds = [abs(run["time_error"]) for run in runs if run["time_error"] is not None]
    numbers: dict[str, Any] = {
        "runs": len(runs),
        "timed": len(seconds),
        "device": surroundings["device"],
        "threads": surroundings["threads"],
        "torch": surroundings["torch"],
        "memory_worst": max(memory),
        "memory_mean": sum(memory) / len(memory),
        "memory_within": sum(error <= 0.1 for error in memory),
        "time_worst": max(seconds),
        "time_mean": sum(seconds) / len(seconds),
        "time_within": sum(error <= 0.1 for error in seconds),
        "table": table(runs),
        "rehearsal": next(run["rehearsal"] for run in runs if run["name"] == SHOWN),
    }
    return numbers


def table(runs: list[dict[str, Any]]) -> str:
    """A row for each run."""
    head = "| run | GiB predicted | rehearsed | peak | off | seconds predicted | real | off |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for run in runs:
        memory = f"{run['predicted_gib']:.2f} | {run['rehearsed_gib']:.2f} | {run['peak_gib']:.2f}"
        seconds = f"– | {run['seconds']:.0f} | –"
        if run["time_error"] is not None:
            seconds = f"{run['predicted_seconds']:.0f} | {run['seconds']:.0f} | {run['time_error']:+.0%}"
        lines.append(f"| {run['name']} | {memory} | {run['memory_error']:+.1%} | {seconds} |")
    return "\n".join(lines)
