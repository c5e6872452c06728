"""What is timed: one training run of one system, in a process of its own.

    python -m luthier.bench.arms FOLDER ARM          reads FOLDER/request.json, writes FOLDER/ARM.json

The arm `prepare` makes what all others share: the tokens of each step in their order, and the adapter's first values.
So every system trains on the same rows in every step, from the same start.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.bench.setting import RUN_KEYS, ingredients

Result = dict[str, Any]


def prepare(request: dict[str, Any], folder: Path) -> Result:
    """Write rows.json and start.safetensors; returns what the rates are computed from."""
    import torch
    from safetensors.torch import save_file

    from luthier.bench.limit import matmul_limit, work
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
    read = [[rows.row(i) for i in step] for step in steps]
    rows_file = [
        [{"input_ids": r.input_ids.tolist(), "completion_mask": r.trained.astype(int).tolist()} for r in step]
        for step in read
    ]
    (folder / "rows.json").write_text(json.dumps(rows_file))
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
        "dtype": config.model.dtype,
        "plan": {"tokens_per_pass": plan.max_tokens_per_micro_batch, "step": plan.value("examples_per_step").how},
        "lora": config.lora.model_dump(),
        "quantization": config.quantization.model_dump(),
        "training": config.training.model_dump(),
        "tokens": [sum(step) for step in lengths],
        "trained_tokens": [int(sum(r.trained[1:].sum() for r in step)) for step in read],
        "pairs": [sum(n * (n + 1) // 2 for n in step) for step in lengths],
        "computed_tokens": [sum(b.input_ids_BT.numel() for b in step) for step in batches],
        "work": vars(work(parts.model_config, sum(p.numel() for p in model.parameters() if p.requires_grad))),
        "limit_flops": matmul_limit(parts.model_config, dtype, min(2048, plan.max_tokens_per_micro_batch)),
        "threads": torch.get_num_threads(),
        "surroundings": surroundings(),
    }


def luthier(request: dict[str, Any], folder: Path, *keys: str) -> Result:
    """Train through the public API."""
    from luthier import api
    from luthier.events.types import Log

    output = f"output_dir={folder / 'luthier'}"
    events = api.train({}, [*request["overrides"], *RUN_KEYS, output, *keys], overwrite=True)
    logs = [event for event in events if isinstance(event, Log)]
    return {"seconds": [log.step_seconds for log in logs], "losses": [log.loss for log in logs]}


def trl(request: dict[str, Any], folder: Path, *, tuned: bool) -> Result:
    """The same through TRL's SFTTrainer.

    Its defaults: gradient checkpointing, the micro-batches as they come. Tuned: none, and the rows of each step sorted
    by length, so that little is padded. The adapter is put into float32, where TRL would round that of a 4-bit model to
    bfloat16: in two formats the losses could not be equal.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl.trainer.sft_trainer import SFTTrainer

    facts = json.loads((folder / "prepare.json").read_text())
    steps = json.loads((folder / "rows.json").read_text())
    if tuned:
        steps = [sorted(step, key=lambda row: -len(row["input_ids"])) for step in steps]
    quantization, lora = facts["quantization"], facts["lora"]
    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.monotonic()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.monotonic() - self.started)

    trainer = SFTTrainer(
        request["base"],
        args=_trl_settings(facts, folder, len(steps), tuned=tuned),
        train_dataset=Dataset.from_list([row for step in steps for row in step]),
        processing_class=AutoTokenizer.from_pretrained(request["base"]),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization["bnb_4bit_quant_type"],
            bnb_4bit_use_double_quant=quantization["bnb_4bit_use_double_quant"],
            bnb_4bit_compute_dtype=getattr(torch, facts["dtype"]),
        )
        if quantization["load_in_4bit"]
        else None,
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            **{
                key: lora[key]
                for key in ("r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora", "use_dora")
            },
        ),
        callbacks=[Clock()],
    )
    start = load_file(folder / "start.safetensors")
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.data = start[name].clone()
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "losses": losses}


def _trl_settings(facts: dict[str, Any], folder: Path, steps: int, *, tuned: bool) -> Any:
    """TRL's `SFTConfig` for the run that `facts` describe."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    training = facts["training"]
    tuning: dict[str, Any] = {"gradient_checkpointing": False} if tuned else {}
    if tuned or facts["dtype"] == "float32":
        tuning["model_init_kwargs"] = {"dtype": facts["dtype"]}
    return SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=training["per_device_train_batch_size"],
        gradient_accumulation_steps=training["gradient_accumulation_steps"],
        max_steps=steps,
        learning_rate=training["learning_rate"],
        lr_scheduler_type="constant",
        logging_steps=1,
        use_cpu=not torch.cuda.is_available(),
        bf16=facts["dtype"] == "bfloat16",
        completion_only_loss=True,
        save_strategy="no",
        report_to=[],
        max_length=None,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        **tuning,
    )


ARMS: dict[str, tuple[str, str, Callable[[dict[str, Any], Path], Result]]] = {
    "luthier": ("luthier", "defaults", luthier),
    "luthier-peft": ("luthier", "peft's layers", lambda r, f: luthier(r, f, "lean_path=false")),
    "trl": ("trl", "defaults", lambda r, f: trl(r, f, tuned=False)),
    "trl-tuned": ("trl", "tuned", lambda r, f: trl(r, f, tuned=True)),
}
"""Name -> system, lane and function."""


def main() -> None:
    """Run one arm and write its result."""
    import torch

    from luthier.machine.probe import best_device, peak_memory_gib

    folder, name = Path(sys.argv[1]), sys.argv[2]
    request = json.loads((folder / "request.json").read_text())
    function = prepare if name == "prepare" else ARMS[name][2]
    result = function(request, folder)
    result["peak_memory_gib"] = peak_memory_gib(torch.device(best_device()))
    (folder / f"{name}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
