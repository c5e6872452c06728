"""Finished runs of a tiny model, made by training it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import luthier
from luthier.events.types import Event


def tiny_config(folder: Path, model: Path, rows: Path, sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A short run; `sections` are added. The learning rate is high, so that the answers change."""
    config: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": str(model), "dtype": "float32"},
        "data": {"datasets": [{"path": str(rows)}], "max_seq_length": 200, "cache_dir": str(folder.parent / "cache"),
                 "val_set_size": 8},
        "training": {"output_dir": str(folder), "max_steps": 8, "learning_rate": 1e-2,
                     "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
        "evaluation": {"eval_steps": 8},
        "logging": {"histogram_steps": 0, "report_to": []},
    }  # fmt: skip
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values}
    return config


def train_tiny(folder: Path, model: Path, rows: Path, sections: dict[str, dict[str, Any]] | None = None) -> list[Event]:
    """Train it; returns what the run said."""
    return list(luthier.train(tiny_config(folder, model, rows, sections or {})))


def on_any_base(run: Path) -> None:
    """As a user says that the adapter may go onto other weights than those it was trained on."""
    file = run / "final_model" / "luthier.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_files": {}}))
