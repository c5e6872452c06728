"""Luthier beside TRL's SFTTrainer at its defaults: same base, 4-bit weights, adapter, rows and order, same machine.

    python benchmarks/beside_trl.py CONFIG [KEY=VALUE]... [--repeats 3] [--json FILE]

Each arm runs in a fresh process, in turns (A B A B ...); the first WARM_UP steps are left out of the rate. Tokens are
real tokens: padding counts for nobody. The losses of both arms are compared, because speed that changes the result
does not count. TRL gets the tokens that Luthier made, so that templates and masks are the same.

Not covered: TRL tuned by hand, other trainers, GPUs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP = 5


def luthier_arm(config: str, overrides: list[str], folder: str) -> dict[str, Any]:
    """Train through the public API; returns step times, tokens and losses."""
    import luthier
    from luthier.events.types import Log

    keys = [f"output_dir={folder}/luthier", "logging_steps=1", "histogram_steps=0", "eval_steps=0", "save_steps=0"]
    keys += ["report_to=[]", "sample_prompts=[]", "load_best_model_at_end=false"]
    logs = [event for event in luthier.train(config, [*overrides, *keys]) if isinstance(event, Log)]
    tokens = [b.num_tokens - a.num_tokens for a, b in zip([None, *logs], logs, strict=False) if a is not None]
    return {
        "seconds": [log.step_seconds for log in logs],
        "tokens": [logs[0].num_tokens, *tokens],
        "losses": [log.loss for log in logs],
    }


def trl_arm(config: str, overrides: list[str], folder: str) -> dict[str, Any]:
    """The same through SFTTrainer with what its documentation calls the defaults."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from luthier import api
    from luthier.config.load import load
    from luthier.config.resolve import resolve
    from luthier.data.order import step_rows
    from luthier.machine.probe import probe

    loaded = load(config, overrides)
    parts = api.ingredients(loaded, resolve(loaded, probe(), None, None), None)
    plan, rows, training = parts.plan, parts.data.train, parts.plan.config.training
    order = [
        i for step in range(plan.total_steps) for i in step_rows(len(rows), plan.examples_per_step, training.seed, step)
    ]
    read = [rows.row(i) for i in order]
    steps = [read[i : i + plan.examples_per_step] for i in range(0, len(read), plan.examples_per_step)]
    dataset = Dataset.from_list(
        [{"input_ids": row.input_ids.tolist(), "completion_mask": row.trained.astype(int).tolist()} for row in read]
    )
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append(time.monotonic() - self.started)

    quantization = plan.config.quantization
    lora = plan.config.lora
    trainer = SFTTrainer(
        plan.config.model.model_name_or_path,
        args=SFTConfig(
            output_dir=f"{folder}/trl",
            per_device_train_batch_size=training.per_device_train_batch_size,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            max_steps=plan.total_steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type="constant",
            logging_steps=1,
            use_cpu=not torch.cuda.is_available(),
            completion_only_loss=True,
            save_strategy="no",
            report_to=[],
            max_length=None,
            train_sampling_strategy="sequential",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=parts.tokenizer,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        peft_config=LoraConfig(
            r=lora.r, lora_alpha=lora.lora_alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM"
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    return {
        "seconds": times,
        "tokens": [sum(len(row.input_ids) for row in step) for step in steps],
        "losses": [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
    }


def summary(arm: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median over the repeats, with the spread."""
    rates = [sum(run["tokens"][WARM_UP:]) / sum(run["seconds"][WARM_UP:]) for run in runs]
    return {
        "system": arm,
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_all": rates,
        "wall_seconds": statistics.median(run["wall_seconds"] for run in runs),
        "peak_memory_gib": statistics.median(run["peak_memory_gib"] for run in runs),
        "first_loss": runs[0]["losses"][0],
        "last_loss": runs[0]["losses"][-1],
        "losses": runs[0]["losses"],
    }


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured, with which versions, on what."""
    from importlib.metadata import version

    from luthier.machine.record import surroundings

    command = [Path(arguments.config).name, *arguments.overrides]
    return {"config": command, "repeats": arguments.repeats, "trl": version("trl"), **surroundings()}


def main() -> None:
    """Run both arms in turns and print the comparison; exit 3 when the losses differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    # one rate in both arms: the schedules are compared in the tests
    overrides = [*arguments.overrides, "lr_scheduler_type=constant", "warmup_ratio=0", "min_learning_rate=0"]
    if arguments.arm:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            arm = {"luthier": luthier_arm, "trl": trl_arm}[arguments.arm]
            result = arm(arguments.config, overrides, folder)
        result["wall_seconds"] = time.monotonic() - started
        result["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print("RESULT " + json.dumps(result))
        return
    runs: dict[str, list[dict[str, Any]]] = {"luthier": [], "trl": []}
    for _ in range(arguments.repeats):
        for name in runs:
            command = [sys.executable, __file__, arguments.config, *arguments.overrides, "--arm", name]
            output = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in output.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{name} failed:\n{output.stdout[-2000:]}\n{output.stderr[-4000:]}")
            runs[name].append(json.loads(lines[-1].removeprefix("RESULT ")))
    rows = [summary(name, runs[name]) for name in runs]
    for row in rows:
        print(
            f"{row['system']:8} {row['tokens_per_second']:9,.0f} tokens/s   {row['wall_seconds']:6.1f} s   "
            f"{row['peak_memory_gib']:5.2f} GiB   loss {row['first_loss']:.3f} -> {row['last_loss']:.3f}"
        )
    difference = max(abs(a - b) for a, b in zip(rows[0]["losses"], rows[1]["losses"], strict=True))
    ratio = rows[0]["tokens_per_second"] / rows[1]["tokens_per_second"]
    print(f"speed-up {ratio:.2f}, losses differ by {difference:.3f}")
    if arguments.json:
        record = {"setting": setting(arguments), "rows": rows, "largest_loss_difference": difference}
        arguments.json.write_text(json.dumps(record, indent=1))
    sys.exit(3 if difference > 0.05 else 0)


if __name__ == "__main__":
    main()
