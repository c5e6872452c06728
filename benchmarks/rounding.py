"""What rounding leaves of an adapter that has just begun, with the adapter added in two ways.

    python benchmarks/rounding.py [--json FILE] [KEY=VALUE]...

After the first step of AdamW each number of B is about the learning rate. That step is made once, from gradients in
float32, and the loss of the same examples is measured after it: in float32; in bfloat16 on the lean path; in bfloat16
through peft's own layers. How far the loss falls says how much of the adapter arrives.

The base is the one of `luthier bench`: random weights, 4 bits, rank 16. Not covered: how soon adapters outgrow it.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luthier.bench.setting import ingredients, request_keys
from luthier.data.collate import MicroBatch, collate_packed
from luthier.data.order import step_rows
from luthier.machine.record import surroundings
from luthier.model.forward import LEAN, summed_loss, unwrap
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.load import load_model

LEARNING_RATES = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
Loss = Callable[[MicroBatch], torch.Tensor]


def widened(causal_lm: Any) -> Any:
    """The same numbers with nothing in 16 bits; 4-bit layers stay as they are."""
    wide = copy.deepcopy(causal_lm)
    for module in wide.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dtype is torch.bfloat16:
                parameter.data = parameter.data.float()
    return wide


def ways(model: Any) -> dict[str, tuple[Any, Loss]]:
    """Three ways to a loss, and the model whose adapter each reads."""
    narrow, wide = unwrap(model), widened(unwrap(model))
    decoders = {"float32": LeanDecoder(wide, torch.float32), "bfloat16": LeanDecoder(narrow, torch.bfloat16)}

    def lean(name: str) -> Loss:
        return lambda batch: decoders[name].summed_loss(batch.model_inputs(), batch.positions_N, batch.targets_N)

    def through_peft(batch: MicroBatch) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return summed_loss(model, batch)

    return {
        "float32": (wide, lean("float32")),
        "bfloat16, lean path": (narrow, lean("bfloat16")),
        "bfloat16, peft's layers": (narrow, through_peft),
    }


def drops(overrides: list[str], folder: Path) -> dict[str, list[float]]:
    """How far the mean loss (nats) falls at each learning rate, by the way it is computed."""
    _, keys = request_keys([*overrides, "dtype=bfloat16", "lean_path=true"], 4, folder)
    parts = ingredients(keys)
    plan, rows = parts.plan, parts.data.train
    model: Any = load_model(plan, parts.model_config)
    delattr(model, LEAN)
    read = [rows.row(i) for i in step_rows(len(rows), plan.examples_per_step, plan.config.training.seed, 0)]
    batch = collate_packed(read, share=False)
    found: dict[str, list[float]] = {}
    adapters, directions = {}, {}
    for name, (holder, loss) in ways(model).items():
        adapters[name] = {n: p for n, p in holder.named_parameters() if "lora_B" in n}
        total = loss(batch)
        if not directions:
            total.backward()  # type: ignore[no-untyped-call]
            directions = {n: -p.grad.sign() for n, p in adapters[name].items() if p.grad is not None}
        before, found[name] = float(total), []
        for rate in LEARNING_RATES:
            _set(adapters[name], directions, rate)
            found[name].append((before - float(loss(batch))) / len(batch.targets_N))
        _set(adapters[name], directions, 0.0)
    return found


@torch.no_grad()
def _set(adapters: dict[str, Any], directions: dict[str, torch.Tensor], rate: float) -> None:
    for name, parameter in adapters.items():
        parameter.copy_(rate * directions[name])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = drops(arguments.overrides, Path(name))
    print(f"{'learning rate':24}", *(f"{rate:10g}" for rate in LEARNING_RATES))
    for name, values in found.items():
        arrived = (value / whole for value, whole in zip(values, found["float32"], strict=True))
        print(f"{name:24}", *(f"{value:10.4f}" for value in values), "   arrived:", *(f"{x:.0%}" for x in arrived))
    if arguments.json:
        record = {"surroundings": surroundings(), "learning_rates": LEARNING_RATES, "loss_drops": found}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
