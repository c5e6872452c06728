"""What rounding leaves of an adapter that has just begun, with the adapter added in two ways.

    python benchmarks/rounding.py [--json FILE] [KEY=VALUE]...

After the first step of AdamW each number of B is about the learning rate. That step is made once, from gradients in
float32, and the loss of the same examples is measured after it: in float32; in bfloat16 on the lean path; in bfloat16
through peft's own layers. How far the loss falls says how much of the adapter arrives.

On two bases, in 4 bits with rank 16: the random weights of `luthier bench`, and the trained ones of the quickstart.
Not covered: how soon adapters outgrow it.
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

LEARNING_RATES = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
BASES = {"random": (), "trained": ("model_name_or_path=luthier:quickstart/base",)}
EXAMPLES = 128
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
    read = [rows.members(i)[0] for i in step_rows(len(rows), EXAMPLES, plan.config.training.seed, 0)]
    batches = [collate_packed(read[i : i + 16], share=False) for i in range(0, EXAMPLES, 16)]
    count = sum(len(batch.targets_N) for batch in batches)
    found: dict[str, list[float]] = {}
    directions: dict[str, torch.Tensor] = {}
    for name, (holder, loss) in ways(model).items():
        adapters = {n: p for n, p in holder.named_parameters() if "lora_B" in n}
        before = 0.0
        for batch in batches:
            total = loss(batch)
            before += total.item()
            if not found:  # float32 comes first
                total.backward()  # type: ignore[no-untyped-call]
        directions = directions or {n: -p.grad.sign() for n, p in adapters.items() if p.grad is not None}
        found[name] = []
        for rate in LEARNING_RATES:
            _set(adapters, directions, rate)
            with torch.no_grad():
                found[name].append((before - sum(loss(batch).item() for batch in batches)) / count)
        _set(adapters, directions, 0.0)
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
    found = {}
    for base, keys in BASES.items():
        with tempfile.TemporaryDirectory() as name:
            found[base] = drops([*keys, *arguments.overrides], Path(name))
        print(f"{base + ', learning rate':26}", *(f"{rate:9g}" for rate in LEARNING_RATES))
        for way, falls in found[base].items():
            left = (fall / whole for fall, whole in zip(falls, found[base]["float32"], strict=True))
            print(f"{way:26}", *(f"{fall:9.4f}" for fall in falls), "  left:", *(f"{share:.0%}" for share in left))
    if arguments.json:
        record = {
            "surroundings": surroundings(), "examples": EXAMPLES, "learning_rates": LEARNING_RATES, "loss_drops": found,
        }  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
