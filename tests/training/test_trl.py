"""Twenty steps beside TRL's SFTTrainer: the same rows in the same order give the same loss curve."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from luthier.training.engine import run
from luthier.training.job import Job
from luthier.training.optimizer import build_optimizer
from tests.rows import MemoryRows, plan_for, prepared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
STEPS = 20
ROWS = MemoryRows(16 * STEPS, longest=60, seed=5)


def luthier_losses(folder, tmp_path, load_in_4bit):
    plan = plan_for(
        folder, ROWS, val_set_size=0, load_in_4bit=load_in_4bit, max_steps=STEPS, learning_rate=2e-3,
        lr_scheduler_type="linear", logging_steps=1, histogram_steps=0, save_steps=0,
    )  # fmt: skip
    from luthier.model.load import load_model

    torch.manual_seed(0)
    model = load_model(plan, AutoConfig.from_pretrained(folder))
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    job = Job(plan, prepared(ROWS), model, None, build_optimizer(model, plan), tmp_path, {})
    from luthier.events.types import Log

    losses = []
    for event in run(job):
        if isinstance(event, Log):
            losses.append(event.loss)
        if len(losses) == STEPS:
            break
    return losses, start


def trl_losses(folder, tmp_path, load_in_4bit, start):
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from luthier.data.order import step_rows

    order = [i for step in range(STEPS) for i in step_rows(len(ROWS), 16, 42, step)]
    rows = [
        {"input_ids": row.input_ids.tolist(), "completion_mask": row.trained.astype(int).tolist()}
        for i in order
        for row in ROWS.members(i)
    ]
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantization if load_in_4bit == "true" else None
    )
    settings = SFTConfig(
        output_dir=str(tmp_path / "trl"), per_device_train_batch_size=4, gradient_accumulation_steps=4, max_steps=STEPS,
        learning_rate=2e-3, lr_scheduler_type="linear", logging_steps=1, report_to=[], max_length=None, bf16=False,
        save_strategy="no", weight_decay=0.0, seed=0, disable_tqdm=True, completion_only_loss=True, optim="adamw_torch",
        train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = SFTTrainer(
        model, args=settings, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            # TRL rounds the adapter of a quantized model to bfloat16; the maths is compared in one format.
            parameter.data = start[name].clone()
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("load_in_4bit", ["false", "true"], ids=["lora", "nf4"])
def test_the_loss_curve_is_that_of_trl(tiny_model_dir, tmp_path, load_in_4bit):
    ours, start = luthier_losses(tiny_model_dir, tmp_path, load_in_4bit)
    theirs = trl_losses(tiny_model_dir, tmp_path, load_in_4bit, start)
    assert len(ours) == len(theirs) == STEPS
    assert ours[-1] < ours[0] - 0.2, "something must be learned for the comparison to mean anything"
    assert all(abs(a - b) < 1e-3 for a, b in zip(ours, theirs, strict=True)), list(zip(ours, theirs, strict=True))
