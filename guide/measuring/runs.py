"""Runs of Luthier, as the experiments need them: keys in, events out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeVar

import luthier
from luthier.events.types import Event
from measuring.material import Material, gather

E = TypeVar("E", bound=Event)
WORK = Path("build/measure")


def material() -> Material:
    return gather(WORK / "material")


def config(name: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """A config of the small model and its rows, with some keys changed."""
    made: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": str(WORK / "base" / "final_model"), "dtype": "float32"},
        "data": {
            "datasets": [{"path": str(material().tasks), "format": "alpaca", "split": "train[:800]"}],
            "max_seq_length": 256,
            "val_set_size": 100,
            "dataloader_num_workers": 0,
            "cache_dir": str(WORK / "cache"),
        },
        "training": {
            "output_dir": str(WORK / name),
            "num_train_epochs": 3,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 2e-3,
            "min_learning_rate": 2e-4,
            "warmup_ratio": 0.03,
        },
        "evaluation": {"eval_steps": 0, "load_best_model_at_end": False},
        "checkpointing": {"save_steps": 0, "save_total_limit": 1},
        "logging": {"logging_steps": 1, "histogram_steps": 0, "report_to": []},
    }
    for section, changes in sections.items():
        made.setdefault(section, {}).update(changes)
    return made


def run(name: str, **sections: dict[str, Any]) -> list[Event]:
    """Train afresh in a folder of that name; all events."""
    shutil.rmtree(WORK / name, ignore_errors=True)
    return list(luthier.train(config(name, **sections)))


def of(events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]
