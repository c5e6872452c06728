"""What each choice of the lean path is worth, on this machine: the figures behind docs/performance.md.

    python benchmarks/choices.py [--json FILE] [KEY=VALUE]...

Steps   the same optimizer step (16 examples, QLoRA rank 16, the base of `luthier bench`) with one thing changed at a
        time, in turns, the best of several; seconds of forward and backward.
Pieces  a stacked linear layer with its adapter, forward and backward, written three ways; milliseconds.

Not covered: whole runs and other trainers (`luthier bench`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luthier.bench.setting import ingredients, request_keys
from luthier.data.collate import MicroBatch, collate_packed, collate_padded
from luthier.data.order import step_rows
from luthier.data.pack import pack, pad
from luthier.machine.probe import probe
from luthier.machine.record import surroundings
from luthier.model.forward import DTYPES, LEAN, autocast, summed_loss, unwrap
from luthier.model.lean.decoder import LeanDecoder
from luthier.model.load import load_model

REPEATS = 4


def steps(overrides: list[str], folder: Path) -> dict[str, float]:
    """Seconds of one step, by what was changed."""
    _, keys = request_keys(overrides, 4, folder)
    parts = ingredients([*keys, "lean_path=true"])
    plan, rows = parts.plan, parts.data.train
    model: Any = load_model(plan, parts.model_config)
    delattr(model, LEAN)
    dtype, causal_lm = DTYPES[plan.config.model.dtype], unwrap(model)
    read = [rows.members(i)[0] for i in step_rows(len(rows), plan.examples_per_step, plan.config.training.seed, 1)]
    lengths = [len(row.input_ids) for row in read]

    def packed(tokens: int, *, share: bool) -> list[MicroBatch]:
        return [collate_packed([read[i] for i in group], share=share) for group in pack(lengths, tokens)]

    padded = [collate_padded([read[i] for i in group]) for group in pad(lengths, 4 * max(lengths), 4)]
    budget = plan.max_tokens_per_micro_batch
    whole, apart = packed(budget, share=True), packed(budget, share=False)
    lean = LeanDecoder(causal_lm, dtype)
    at_each_use = LeanDecoder(causal_lm, dtype, keep_unpacked=False)
    checkpointed = LeanDecoder(causal_lm, dtype)
    checkpointed.checkpointed_layers = len(lean.layers)

    def through(decoder: LeanDecoder | None, batches: list[MicroBatch]) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            for batch in batches:
                with autocast(plan):
                    if decoder is None:
                        loss = summed_loss(model, batch)
                    else:
                        loss = decoder.summed_loss(batch.model_inputs(), batch.positions_N, batch.targets_N)
                loss.backward()  # type: ignore[no-untyped-call]

        return run

    cases = {
        "as planned": through(lean, whole),
        "beginnings not shared": through(lean, apart),
        "unpacked at each use": through(at_each_use, whole),
        "all layers checkpointed": through(checkpointed, whole),
        "passes of 512 tokens": through(lean, packed(max(512, *lengths), share=True)),
        "peft's layers, packed": through(None, apart),
    }
    seconds = _best(cases)
    causal_lm.set_attn_implementation("sdpa")
    return seconds | _best({"peft's layers, padded 4 x 4": through(None, padded)})


def pieces(dtype: torch.dtype, tokens: int = 1600, inputs: int = 512, outputs: int = 3072, rank: int = 32) -> Any:
    """Milliseconds of gate|up with two adapters of rank 16, forward and backward, by how the adapter is added."""
    x, grad = torch.randn(tokens, inputs).to(dtype), torch.randn(tokens, outputs).to(dtype)
    weight, a, b = (torch.randn(*s).to(dtype) for s in ((outputs, inputs), (rank, inputs), (outputs, rank)))
    wide = torch.cat([weight, b], dim=1)  # [W | B]
    tall = torch.cat([weight, a], dim=0)  # [W; A]

    def accumulated() -> None:
        z = x @ a.T
        (z @ b.T).addmm_(x, weight.T)
        dz = grad @ b
        (dz @ a).addmm_(grad, weight)
        dz.T @ x, grad.T @ z

    def augmented() -> None:
        z = x @ a.T
        torch.cat([x, z], dim=1) @ wide.T
        dz = grad @ b
        torch.cat([grad, dz], dim=1) @ tall
        dz.T @ x, grad.T @ z

    def added() -> None:
        z = x @ a.T
        x @ weight.T + (z @ b.T) * 2.0
        dz = (grad * 2.0) @ b
        grad @ weight + dz @ a
        dz.T @ x, (grad * 2.0).T @ z

    cases = {"in the accumulator": accumulated, "in a longer inner dimension": augmented, "added apart": added}
    return {name: 1e3 * seconds for name, seconds in _best(cases, repeats=20).items()}


def _best(cases: dict[str, Callable[[], None]], repeats: int = REPEATS) -> dict[str, float]:
    """Seconds of each, the best of several rounds in which all take turns; the first round is not counted."""
    best = dict.fromkeys(cases, float("inf"))
    for number in range(repeats + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if number:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seconds = steps(arguments.overrides, Path(name))
    formats = [torch.float32, torch.bfloat16] if probe().supports_bfloat16 else [torch.float32]
    milliseconds = {str(dtype).removeprefix("torch."): pieces(dtype) for dtype in formats}
    for case, value in seconds.items():
        print(f"{case:32} {value:6.2f} s   {value / seconds['as planned']:.2f}")
    for dtype, cases in milliseconds.items():
        for case, value in cases.items():
            print(f"{case:32} {value:6.1f} ms  {dtype}")
    if arguments.json:
        record = {"surroundings": surroundings(), "step_seconds": seconds, "piece_milliseconds": milliseconds}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
