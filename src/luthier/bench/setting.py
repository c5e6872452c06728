"""What is compared unless the user says otherwise: QLoRA of rank 16, 16 examples a step, a small base."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.bench.base import make_base
from luthier.config.load import changed, from_dict, name_of
from luthier.config.schema import Config
from luthier.errors import ConfigError, Problem
from luthier.machine.libraries import library_output_to

if TYPE_CHECKING:
    from luthier.ingredients import Ingredients

RUN_KEYS = (
    "logging_steps=1", "histogram_steps=0", "eval_steps=0", "save_steps=0", "report_to=[]", "sample_prompts=[]",
    "load_best_model_at_end=false", "lr_scheduler_type=constant", "warmup_ratio=0", "min_learning_rate=0",
)  # fmt: skip
"""One learning rate, and nothing but steps: schedules are compared in the tests."""

DEFAULTS = (
    "load_in_4bit=true", "r=16", "lora_alpha=32", "target_modules=all-linear", "learning_rate=2e-4",
    "per_device_train_batch_size=4", "gradient_accumulation_steps=4", "val_set_size=0", "max_seq_length=1024",
    "data.datasets=[{path: 'luthier:quickstart/rows/train.jsonl', format: alpaca}]",
)  # fmt: skip


def request_keys(overrides: Sequence[str], steps: int, folder: Path) -> tuple[str, tuple[str, ...]]:
    """The base model's folder and all keys of the run; makes the base in `folder` when no other is named.

    Raises:
        ConfigError: An override is wrong.
    """
    written = {name_of(key) for key in overrides}
    keys = tuple(changed([*DEFAULTS, f"max_steps={steps}"], *overrides))
    loaded = from_dict({}, [*keys, *RUN_KEYS])
    if loaded.config.model.dtype == "float16":
        found, fix = "systems are compared in bfloat16 or float32", "write dtype=auto, or dtype=float32"
        raise ConfigError(Problem("E-CFG-023", found, fix, "model.dtype"))
    if loaded.config.training.objective == "dpo" and not written & {"data.datasets", "datasets"}:
        rows = _pairs(loaded.config, steps, folder)
        keys = tuple(changed(keys, f"data.datasets=[{{path: {rows}, format: preference}}]"))
    if "model_name_or_path" in written:
        return loaded.config.model.model_name_or_path, keys
    base = folder / "base"
    with library_output_to(Path(os.devnull)):
        make_base(base)
    return str(base), (*keys, f"model_name_or_path={base}")


def _pairs(config: Config, steps: int, folder: Path) -> Path:
    """The shipped rows as pairs, one for each that is trained on: their own answer, and that of the row after."""
    count = steps * config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    source = Path(config.data.datasets[0].path)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    path = folder / "pairs.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row, other = rows[number % len(rows)], rows[(number + 1) % len(rows)]
            pair = {"prompt": row["instruction"], "chosen": row["output"], "rejected": other["output"]}
            file.write(json.dumps(pair) + "\n")
    return path


def ingredients(keys: Sequence[str]) -> Ingredients:
    """Plan, rows and tokenizer of the run of these keys; nothing is trained and no weights are read."""
    from luthier.config.resolve import resolve
    from luthier.ingredients import ingredients as gathered
    from luthier.machine.probe import probe

    loaded = from_dict({}, [*keys, *RUN_KEYS])
    return gathered(loaded, resolve(loaded, probe(), None, None), None)
