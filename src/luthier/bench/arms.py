"""What is timed: one training run of one system, in a process of its own.

    python -m luthier.bench.arms FOLDER ARM          reads FOLDER/request.json, writes FOLDER/ARM.json

The arm `prepare` makes what all others share: the tokens of each step in their order, and the adapter's first values.
So every system trains on the same rows in every step, from the same start.

Of pairs (`objective: dpo`) a step's time has its part of what the reference took, whenever a system asks it.

`fp8-gate` is timed by nobody: it says what 8-bit floats cost in held-out loss.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.bench import peers

Result = dict[str, Any]


def prepare(request: dict[str, Any], folder: Path) -> Result:
    """Write rows.json and start.safetensors; returns what the rates are computed from."""
    import torch
    from safetensors.torch import save_file

    from luthier.bench.limit import matmul_limit, work
    from luthier.bench.setting import ingredients
    from luthier.data.loader import training_steps
    from luthier.data.order import step_rows
    from luthier.machine.record import surroundings
    from luthier.machine.seed import seed_everything
    from luthier.model.forward import DTYPES
    from luthier.model.load import load_model

    parts = ingredients(request["overrides"])
    plan, rows = parts.plan, parts.data.train
    config = plan.config
    steps = [step_rows(len(rows), plan.examples_per_step, config.training.seed, s) for s in range(plan.total_steps)]
    read = [[row for i in step for row in rows.members(i)] for step in steps]
    as_peers_read = peers.pairs_of if plan.pairs else peers.rows_of
    (folder / "rows.json").write_text(json.dumps([as_peers_read(step) for step in read]))
    seed_everything(config.training.seed)
    model = load_model(plan, parts.model_config)
    save_file(
        {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad},
        folder / "start.safetensors",
    )
    batches = list(training_steps(rows, plan, 0, 0, 1))
    dtype = DTYPES[config.model.dtype]
    lengths = [[len(r.input_ids) for r in step] for step in read]
    return {
        "computed_on": plan.machine.device,
        "dtype": config.model.dtype,
        "plan": {"tokens_per_pass": plan.max_tokens_per_micro_batch, "step": plan.value("examples_per_step").how},
        "lora": config.lora.model_dump(),
        "quantization": config.quantization.model_dump(),
        "training": config.training.model_dump(),
        "dpo": config.dpo.model_dump(),
        "tokens": [sum(step) for step in lengths],
        "longest": max(max(step) for step in lengths),
        "trained_tokens": [int(sum(r.trained[1:].sum() for r in step)) for step in read],
        "pairs": [sum(n * (n + 1) // 2 for n in step) for step in lengths],
        "computed_tokens": [sum(b.input_ids_BT.numel() for b in step) for step in batches],
        "work": vars(work(parts.model_config, sum(p.numel() for p in model.parameters() if p.requires_grad))),
        "limit_flops": matmul_limit(
            parts.model_config, dtype, min(2048, plan.max_tokens_per_micro_batch), plan.machine.device
        ),
        "threads": torch.get_num_threads(),
        "surroundings": surroundings(),
    }


def luthier(request: dict[str, Any], folder: Path, *keys: str) -> Result:
    """Train through the public API; `keys` stand in place of the request's own."""
    from luthier import api
    from luthier.bench.setting import RUN_KEYS
    from luthier.config.load import changed
    from luthier.events.types import Log, Notice
    from luthier.training.reference import ASKING

    own = (*RUN_KEYS, f"output_dir={folder / 'luthier'}")
    events = api.train({}, changed([*request["overrides"], *own], *keys), overwrite=True)
    logs: list[Log] = []
    asked_at, asking = 0.0, 0.0
    for event in events:
        if asked_at:
            asking, asked_at = asking + time.monotonic() - asked_at, 0.0
        if isinstance(event, Log):
            logs.append(event)
        if isinstance(event, Notice) and event.text.startswith(ASKING):
            asked_at = time.monotonic()
    each = asking / len(logs)  # the rows of a comparison are those of its steps
    return {"seconds": [log.step_seconds + each for log in logs], "losses": [log.loss for log in logs]}


def fp8_gate(request: dict[str, Any], folder: Path) -> Result:
    """Held-out losses after training with and without 8-bit floats, a pair for each seed of the request."""
    from luthier import api
    from luthier.bench.setting import RUN_KEYS
    from luthier.config.load import changed
    from luthier.events.types import Evaluated

    found: dict[str, list[float]] = {"default": [], "fp8": []}
    for seed in request["seeds"]:
        for precision, losses in found.items():
            own = (f"seed={seed}", f"base_precision={precision}", f"output_dir={folder / precision}")
            keys = changed([*request["overrides"], *RUN_KEYS], *request["keys"], *own)
            events = list(api.train({}, keys, overwrite=True))
            losses.append(next(event.eval_loss for event in reversed(events) if isinstance(event, Evaluated)))
    return {"eval_losses": found}


REFERENCE = "float32"
"""The arm that others are compared with where they compute in 16 bits: nothing in it is rounded to them."""

ARMS: dict[str, tuple[str, str, Callable[[dict[str, Any], Path], Result]]] = {
    "luthier": ("luthier", "defaults", luthier),
    # 6 and 3 GB, as cards are sold, are 5.59 and 2.79 GiB
    "luthier-6gb": ("luthier", "in 6 GB", lambda r, f: luthier(r, f, "memory_gib=5.5")),
    "luthier-3gb": ("luthier", "in 3 GB", lambda r, f: luthier(r, f, "memory_gib=2.75")),
    "luthier-torch": ("luthier", "no kernels", lambda r, f: luthier(r, f, "kernels=false")),
    "luthier-fp8": ("luthier", "8-bit floats", lambda r, f: luthier(r, f, "base_precision=fp8")),
    "luthier-peft": ("luthier", "peft's layers", lambda r, f: luthier(r, f, "lean_path=false")),
    REFERENCE: ("luthier", "float32", lambda r, f: luthier(r, f, "lean_path=false", "dtype=float32")),
    "trl": ("trl", "defaults", lambda r, f: peers.trl(r, f)),
    "trl-tuned": ("trl", "tuned", lambda r, f: peers.trl(r, f, tuned=True)),
    "trl-packed": ("trl", "no padding", lambda r, f: peers.trl(r, f, tuned=True, padding_free=True)),
    "trl-liger": ("trl", "tuned, liger", lambda r, f: peers.trl(r, f, tuned=True, use_liger_kernel=True)),
    "unsloth": ("unsloth", "defaults", lambda r, f: peers.unsloth(r, f)),
    "unsloth-best": ("unsloth", "best flags", lambda r, f: peers.unsloth(r, f, best=True)),
}
"""Name -> system, lane and function. Those after trl-tuned need a GPU."""


def main() -> None:
    """Run one arm and write its result."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    request = json.loads((folder / "request.json").read_text())
    function = {"prepare": prepare, "fp8-gate": fp8_gate}.get(name) or ARMS[name][2]
    result = function(request, folder)  # nothing heavy is imported before: unsloth wants to be the first

    import torch

    from luthier.machine.probe import best_device, peak_memory_gib

    result["peak_memory_gib"] = peak_memory_gib(torch.device(best_device()))
    (folder / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
