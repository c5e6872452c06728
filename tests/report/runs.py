"""Folders of runs made of plain events and of a record that a plan was really dumped into."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.config.load import from_dict
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes
from luthier.config.record import seal
from luthier.config.render import dump_plan_yaml, plan_as_dict
from luthier.config.resolve import resolve
from luthier.events.record import to_record
from luthier.events.types import Evaluated, Log, RunFinished, RunStarted

HOSTILE = '</pre><script>alert("1")</script>\x1b[31m\u202e<b onload=x>&"\''
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"model_name_or_path": "small/model"},
    "lora": {"r": 8},
    "data": {"datasets": [{"path": "rows.jsonl", "format": "alpaca"}]},
    "training": {"learning_rate": 1e-3, "max_steps": 40, "num_train_epochs": 3},
}


def plan_of(**training: Any) -> Any:
    settings = {**SETTINGS, "training": {**SETTINGS["training"], **training}}
    return resolve(
        from_dict(settings),
        MachineFacts("cpu", "a CPU", 1, False, 16.0, 12.0, 4, True),
        ModelFacts("LlamaForCausalLM", 1_000_000, 20_000, 4, 64, 500, 512, True),
        DataFacts(950, 50, 70_000, 30_000, 120, "chat", "ab" * 32),
        passes=Passes(1024, 0, True, "1,024 tokens, in 12.0 GiB of free memory"),
    )


def write_record(folder: Path, plan: Any, **facts: Any) -> None:
    """A plan.yaml as a run writes it."""
    record = {
        "version": 1,
        "commands": ["luthier train my.yaml"],
        "resumed_with": [],
        "differs": [],
        "surroundings": {"luthier": "0.1.0", "torch": "2.13.0"},
        "inputs": {"rows": "cd" * 32, "files": {"rows.jsonl": "ef" * 32}},
        "passes": {"micro_batch_tokens": 1024, "checkpointed_layers": 0, "unpack_once": True, "lowered": False},
        "lean_path": True,
        **facts,
    }
    (folder / "plan.yaml").write_text(seal(dump_plan_yaml(plan, {"record": record})), "utf-8")


def write_events(folder: Path, *told: Any, seconds: float = 5.0) -> Path:
    """An events.jsonl: events that many seconds apart; a string starts another attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    attempt, now, lines = "first", 1_767_225_600.0, []
    for item in told:
        if isinstance(item, str):
            attempt = item
            continue
        for event in item if isinstance(item, list) else [item]:
            lines.append(json.dumps(to_record(event, time=now, attempt=attempt)))
            now += seconds
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


def started(plan: Any, first_step: int = 0, name: str = "run") -> RunStarted:
    return RunStarted(name, plan.total_steps, first_step, 0.7, plan_as_dict(plan))


def logs(first: int, last: int, every: int = 2, start: float = 3.0) -> list[Log]:
    return [
        Log(step, step / 60, start / (1 + step / 10) + 0.02 * (step % 3), 0.4 + 0.01 * (step % 7),
            1e-3 * (1 - step / 50), 100 * step, 50.0, 20.0, 2.0, 1.25, 60.0)
        for step in range(first, last + 1, every)
    ]  # fmt: skip


def evaluated(step: int, loss: float, best: bool = True) -> Evaluated:
    return Evaluated(step, step / 60, loss, 900, 1.0, best)


def finished(step: int = 40, **changes: Any) -> RunFinished:
    values = {"status": "done", "step": step, "epoch": 0.7, "train_loss": 1.1, "train_runtime": 200.0,
              "num_tokens": 4000, "peak_memory_gib": 1.25, "final_model": "run/final_model",
              "predicted_runtime": 250.0}  # fmt: skip
    return RunFinished(**{**values, **changes})
