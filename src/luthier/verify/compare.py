"""Two runs of the same plan, compared in everything that decides how they go on.

    events.jsonl       loss, gradient norm and learning rate of each step, evaluations
    checkpoint-<step>  trained weights, optimizer, random generators, counters, the hash over the rows of all steps

Equal means: the same bits. Not covered: times and memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from luthier.config.outputs import EVENTS
from luthier.events.read import read
from luthier.events.types import Evaluated, Log
from luthier.model.store import ADAPTER, WEIGHTS
from luthier.training.checkpoint import PREFIX, STATE


@dataclass(frozen=True)
class Quantity:
    """One thing that was compared.

    Attributes:
        name: In words.
        same: Whether every bit is the same.
        largest: Largest difference; inf where one of the runs lacks a value.
        first: The first step or tensor that differs; empty when none does.
        compared: How many values (of a step) or tensors.
    """

    name: str
    same: bool
    largest: float
    first: str
    compared: int


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common.

    Attributes:
        quantities: In the order of the table.
        rows: Step of a checkpoint -> whether all rows up to it were the same, in the same order.
    """

    quantities: tuple[Quantity, ...]
    rows: dict[int, bool]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return all(quantity.same for quantity in self.quantities) and all(self.rows.values())


def compare(first: Path, second: Path, step: int) -> Comparison:
    """Compare two runs by their folders.

    Args:
        first: Output folder of a run.
        second: Output folder of another.
        step: Both have a checkpoint of this step.
    """
    logs = [_series(folder) for folder in (first, second)]
    a, b = (folder / f"{PREFIX}{step}" for folder in (first, second))
    weights = ADAPTER if (a / ADAPTER).is_file() else WEIGHTS
    quantities = [_numbers(name, logs[0][name], logs[1][name]) for name in logs[0]]
    quantities.append(_tensors("trained weights", a / weights, b / weights))
    quantities.append(_tensors("optimizer", a / "optimizer.safetensors", b / "optimizer.safetensors"))
    quantities.append(_tensors("random generators", a / "rng.safetensors", b / "rng.safetensors"))
    quantities.append(_numbers("counters", _counters(a), _counters(b)))
    return Comparison(tuple(quantities), _rows(first, second))


def _series(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of the last attempt that took the step."""
    found: dict[str, dict[int, float]] = {"loss": {}, "learning rate": {}, "gradient norm": {}, "eval loss": {}}
    for event, _ in read(folder / EVENTS):
        if isinstance(event, Log):
            found["loss"][event.step] = event.loss
            found["learning rate"][event.step] = event.learning_rate
            found["gradient norm"][event.step] = event.grad_norm
        if isinstance(event, Evaluated):
            found["eval loss"][event.step] = event.eval_loss
    return found


def _counters(checkpoint: Path) -> dict[str, Any]:
    """What the loop carries from step to step, but for times and the hash over the rows."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    names = [name for name in state if "seconds" not in name and name not in ("identity", "data_hash")]
    return {name: state[name] for name in names}


def _numbers(name: str, first: Mapping[Any, Any], second: Mapping[Any, Any]) -> Quantity:
    """Compare two tables by step or by name."""
    keys = sorted({*first, *second})
    apart = {key: _difference(first.get(key), second.get(key)) for key in keys}
    differing = [key for key in keys if apart[key]]
    where = f"step {differing[0]}" if differing and isinstance(differing[0], int) else "".join(map(str, differing[:1]))
    return Quantity(name, not differing, max(apart.values(), default=0.0), where, len(keys))


def _difference(a: Any, b: Any) -> float:
    """Between two numbers; inf where one of them is none."""
    if a == b or (a != a and b != b):
        return 0.0
    if not (isinstance(a, int | float) and isinstance(b, int | float)):
        return math.inf
    difference = abs(a - b)
    return math.inf if math.isnan(difference) else difference


def _tensors(name: str, first: Path, second: Path) -> Quantity:
    """Compare two safetensors files, tensor by tensor."""
    a, b = load_file(first), load_file(second)
    names = sorted({*a, *b})
    differing = [key for key in names if key not in a or key not in b or not _same_bits(a[key], b[key])]
    largest = max((_apart(a.get(key), b.get(key)) for key in differing), default=0.0)
    return Quantity(name, not differing, largest, differing[0] if differing else "", len(names))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _apart(a: torch.Tensor | None, b: torch.Tensor | None) -> float:
    if a is None or b is None or a.shape != b.shape:
        return math.inf
    largest = float((a.double() - b.double()).abs().max())
    return math.inf if math.isnan(largest) else largest


def _rows(first: Path, second: Path) -> dict[int, bool]:
    hashes = [_data_hashes(folder) for folder in (first, second)]
    return {step: hashes[0][step] == hashes[1][step] != "" for step in sorted(hashes[0].keys() & hashes[1].keys())}


def _data_hashes(folder: Path) -> dict[int, str]:
    states: list[dict[str, Any]] = [
        json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"{PREFIX}*/{STATE}")
    ]
    return {int(state["step"]): str(state["data_hash"]) for state in states}
