"""Memory and time as they are predicted and as they come: whole runs in fresh processes.

    python benchmarks/forecast.py ROWS.jsonl [--only NAME]...        writes benchmarks/results/forecast_cpu.json

ROWS.jsonl has the columns `text` and `code` (MBPP). Models are made here, with random weights. Memory is predicted
before the model is loaded, and measured as the peak resident set of the process up to the end; the rehearsal's own peak
stands beside it. Time is predicted after 20 steps, so not in shorter runs, and measured at the end. The file is written
after each run; runs that are there already and not named by --only stay.

Not covered: a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "forecast_cpu.json"
SMALL = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
MIDDLE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
          "num_key_value_heads": 4}  # fmt: skip
VOCABULARY = {"small": 8192, "middle": 32_000}
LONG = 4
"""Rows of `long` are so many in one."""
CASES: dict[str, tuple[str, str, list[str]]] = {
    "LoRA": ("small", "short", []),
    "LoRA, long rows": ("small", "long", []),
    "LoRA, 4 examples a step": ("middle", "short", ["gradient_accumulation_steps=1"]),
    "LoRA, middle": ("middle", "short", []),
    "QLoRA": ("small", "short", ["load_in_4bit=true"]),
    "QLoRA, middle": ("middle", "short", ["load_in_4bit=true"]),
    "QLoRA, middle, long rows": ("middle", "long", ["load_in_4bit=true"]),
    "QLoRA, middle, checkpointed": ("middle", "short", ["load_in_4bit=true", "gradient_checkpointing=true"]),
    "LoRA, peft's layers": ("small", "short", ["lean_path=false"]),
    "LoRA, middle, peft's layers": ("middle", "short", ["lean_path=false"]),
    "LoRA, middle, peft's layers, checkpointed": (
        "middle", "short", ["lean_path=false", "gradient_checkpointing=true"]
    ),
    "QLoRA, middle, peft's layers, dropout": ("middle", "short", ["load_in_4bit=true", "lora.lora_dropout=0.05"]),
    "LoRA, middle, padded": ("middle", "short", ["auto=false"]),
    "all weights": ("small", "short", ["finetuning_type=full"]),
    "all weights, middle": ("middle", "short", ["finetuning_type=full"]),
    "all weights, middle, checkpointed": (
        "middle", "short", ["finetuning_type=full", "gradient_checkpointing=true"]
    ),
}  # fmt: skip
"""Name -> model, rows, and what is changed."""


def main() -> None:
    """Run all, or those that are asked for, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--only", action="append", choices=CASES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    before = json.loads(arguments.out.read_text("utf-8"))["runs"] if arguments.out.is_file() else []
    runs = {run["name"]: run for run in before if run["name"] in CASES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in arguments.only or CASES:
            kind, length, overrides = CASES[case]
            make(kind, length, arguments.rows, folder)
            run = one(kind, length, overrides, folder, arguments.steps)
            surroundings = run.pop("surroundings")
            runs[case] = {"name": case, "model": kind, "rows": length, "overrides": overrides, **run}
            print(line(runs[case]), flush=True)
            command = f"python benchmarks/forecast.py {arguments.rows.name}"
            content = {
                "command": command, "surroundings": surroundings,
                "runs": [runs[name] for name in CASES if name in runs],
            }  # fmt: skip
            arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def make(kind: str, length: str, rows: Path, folder: Path) -> None:
    """A model and rows, once each."""
    if not (folder / kind).is_dir():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from luthier.bench.base import functions, make_tokenizer

        make_tokenizer(list(dict.fromkeys(functions())), VOCABULARY[kind], folder / kind)
        torch.manual_seed(0)
        shape = SMALL if kind == "small" else MIDDLE
        config = LlamaConfig(
            vocab_size=VOCABULARY[kind], max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=0,
            eos_token_id=1, pad_token_id=2, **shape,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / kind)
    target = folder / f"{length}.jsonl"
    if not target.is_file():
        read = [json.loads(text) for text in rows.read_text("utf-8").splitlines()]
        many = 1 if length == "short" else LONG
        groups = [read[start : start + many] for start in range(0, len(read) - many + 1, many)]
        joined = [{key: "\n\n".join(row[key] for row in group) for key in ("text", "code")} for group in groups]
        target.write_text("".join(json.dumps(row) + "\n" for row in joined), encoding="utf-8")


def one(kind: str, length: str, overrides: list[str], folder: Path, steps: int) -> dict[str, Any]:
    """One run in a fresh process."""
    source = {"path": str(folder / f"{length}.jsonl"), "format": "alpaca"}
    columns = {"instruction": "text", "output": "code"}
    values = {
        "model": {"model_name_or_path": str(folder / kind)},
        "data": {
            "datasets": [{**source, "columns": columns}], "max_seq_length": 2048, "val_set_size": 64,
            "cache_dir": str(folder / "cache"),
        },
        "training": {"output_dir": str(folder / "run"), "max_steps": steps, "rehearsal": True},
        "evaluation": {"eval_steps": steps // 2},
        "checkpointing": {"save_steps": steps // 2},
        "logging": {"report_to": []},
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(values), *overrides]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    if result.returncode:
        sys.exit(result.stderr[-3000:])
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


CHILD = """
import json, math, sys
from luthier import api
from luthier.events.line import format_line
from luthier.events.types import MemoryForecast, Rehearsed, RunFinished, TimeForecast
from luthier.machine.record import surroundings
found = {}
for event in api.train(json.loads(sys.argv[1]), sys.argv[2:], overwrite=True):
    if not (isinstance(event, TimeForecast) and event.fitted_steps):  # the one before step 1
        found[type(event)] = event
before = found[TimeForecast].remaining_seconds
memory, rehearsed, finished = found[MemoryForecast], found[Rehearsed], found[RunFinished]
seconds = finished.predicted_runtime if math.isfinite(finished.predicted_runtime) else None
print(json.dumps({
    "tokens": memory.tokens, "moment": memory.moment, "parts_gib": memory.parts, "predicted_gib": memory.gib,
    "rehearsed_gib": rehearsed.measured_gib, "measured_by": rehearsed.measured_by,
    "rehearsal": format_line(rehearsed), "room_gib": memory.room_gib,
    "peak_gib": finished.peak_memory_gib, "memory_error": memory.gib / finished.peak_memory_gib - 1,
    "steps": finished.step, "predicted_seconds": seconds, "seconds": finished.train_runtime,
    "time_error": seconds and seconds / finished.train_runtime - 1,
    "rehearsed_seconds": before, "rehearsed_time_error": before / finished.train_runtime - 1,
    "rehearsal_seconds": rehearsed.step_seconds + rehearsed.eval_seconds + rehearsed.save_seconds,
    "surroundings": surroundings(),
}))
"""


def line(run: dict[str, Any]) -> str:
    """One run for the eye."""
    memory = f"{run['predicted_gib']:6.2f} GiB predicted {run['peak_gib']:6.2f} measured {run['memory_error']:+6.1%}"
    seconds = f"{run['seconds']:.1f} s"
    if run["predicted_seconds"]:
        seconds = (
            f"{run['predicted_seconds']:6.1f} s predicted {run['seconds']:6.1f} measured {run['time_error']:+6.1%}"
        )
    return f"{run['name']:44} {memory} (rehearsal {run['rehearsed_gib']:.2f})   {seconds}"


if __name__ == "__main__":
    main()
