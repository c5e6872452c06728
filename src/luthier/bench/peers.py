"""Other trainers on the same rows, in the same steps, from the same adapter.

| lane | what it is |
|---|---|
| trl, defaults | gradient checkpointing, the micro-batches as they come |
| trl, tuned | no checkpointing, the rows of each step sorted by length, so that little is padded |
| trl, no padding | a step is one row without padding, with flash-attn (CUDA) |
| trl, tuned, liger | with the kernels of liger-kernel (CUDA) |
| unsloth, defaults | as its notebooks do it: its own checkpointing (CUDA) |
| unsloth, best flags | no checkpointing, a step is one batch, sorted by length (CUDA) |

Rows of pairs (`objective: dpo`) go through TRL's `DPOTrainer`, which asks the reference in each step. Asked once before
them (`precompute_ref_log_probs`, TRL 1.16) its losses are the same, but for 4-bit weights on a CPU with AVX-512 BF16:
TRL asks before `train()`, while the base's layers are in evaluation mode, and there bitsandbytes packs their weights
for good. The reference is rounded to bfloat16 then, and in training no gradient passes through them
(`luthier.model.forward.to_evaluation`). With those layers kept in training mode, the losses are the same there, too.
The lane without padding has not been run yet.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.bench.turn import wait_for_turn

if TYPE_CHECKING:
    from luthier.data.rows import TokenRow

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rows_of(step: Sequence[TokenRow]) -> list[dict[str, list[int]]]:
    """Rows as `SFTTrainer` reads them when they are token ids already."""
    return [{"input_ids": r.input_ids.tolist(), "completion_mask": r.trained.astype(int).tolist()} for r in step]


def pairs_of(step: Sequence[TokenRow]) -> list[dict[str, list[int]]]:
    """Pairs as `DPOTrainer` reads them when they are token ids already; chosen and rejected answers in turns."""
    found = []
    for pair in zip(step[::2], step[1::2], strict=True):
        prompt = int(pair[0].trained.argmax())
        chosen, rejected = (row.input_ids[prompt:].tolist() for row in pair)
        prompt_ids = pair[0].input_ids[:prompt].tolist()
        found.append({"prompt_ids": prompt_ids, "chosen_ids": chosen, "rejected_ids": rejected})
    return found


def trl(request: dict[str, Any], folder: Path, *, tuned: bool = False, **flags: Any) -> dict[str, Any]:
    """Train through TRL's `SFTTrainer`, or of pairs its `DPOTrainer`.

    The adapter is put into float32, where TRL would round that of a 4-bit model to bfloat16: in two formats the losses
    could not be equal.

    Args:
        request: Of the comparison.
        folder: Where the arm `prepare` has written.
        tuned: See the table above.
        flags: More settings of TRL's `SFTConfig`.
    """
    import torch
    from peft import LoraConfig
    from transformers import AutoTokenizer, BitsAndBytesConfig
    from trl.trainer.sft_trainer import SFTTrainer

    facts = json.loads((folder / "prepare.json").read_text())
    rows = _rows(folder, by_length=tuned)
    quantization, lora = facts["quantization"], facts["lora"]
    seconds: list[float] = []
    trainer = (_dpo_trainer() if facts["training"]["objective"] == "dpo" else SFTTrainer)(
        request["base"],
        args=_settings(facts, folder, tuned=tuned, **flags),
        train_dataset=rows,
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
        callbacks=[_clock(seconds)],
    )
    return _trained(trainer, folder, seconds)


def _dpo_trainer() -> Any:
    """TRL's `DPOTrainer` on rows that are token ids already."""
    from trl.trainer.dpo_trainer import DPOTrainer

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return Tokenized


def unsloth(request: dict[str, Any], folder: Path, *, best: bool = False) -> dict[str, Any]:
    """Train through Unsloth's `FastLanguageModel`, which patches transformers and TRL: it is imported first."""
    from unsloth import FastLanguageModel  # isort: skip
    from trl.trainer.sft_trainer import SFTTrainer

    facts = json.loads((folder / "prepare.json").read_text())
    lora = facts["lora"]
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=request["base"],
        max_seq_length=facts["longest"],
        dtype=None,
        load_in_4bit=facts["quantization"]["load_in_4bit"],
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=lora["r"],
        lora_alpha=lora["lora_alpha"],
        lora_dropout=lora["lora_dropout"],
        target_modules=LINEARS,
        bias="none",
        use_gradient_checkpointing=False if best else "unsloth",
    )
    seconds: list[float] = []
    flags: dict[str, Any] = {"gradient_checkpointing": False} if best else {}
    trainer = SFTTrainer(
        model=model,
        args=_settings(facts, folder, tuned=False, one_batch=best, **flags),
        train_dataset=_rows(folder, by_length=best),
        processing_class=tokenizer,
        callbacks=[_clock(seconds)],
    )
    return _trained(trainer, folder, seconds)


def _rows(folder: Path, *, by_length: bool) -> Any:
    """The rows of all steps in their order; those of a step from the longest to the shortest if asked for."""
    from datasets import Dataset

    steps = json.loads((folder / "rows.json").read_text())
    if by_length:
        steps = [sorted(step, key=lambda row: -sum(map(len, row.values()))) for step in steps]
    return Dataset.from_list([row for step in steps for row in step])


def _clock(seconds: list[float]) -> Any:
    """A callback that appends how long each step took, once the device is done with it."""
    import torch
    from transformers import TrainerCallback

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(now() - self.started)

    return Clock()


def _trained(trainer: Any, folder: Path, seconds: list[float]) -> dict[str, Any]:
    """Give the adapter its first values, train, and return what was measured."""
    from safetensors.torch import load_file

    start = load_file(folder / "start.safetensors")
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            parameter.data = start[name].to(parameter.device, copy=True)
    wait_for_turn()
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "losses": losses}


def _settings(facts: dict[str, Any], folder: Path, *, tuned: bool, one_batch: bool = False, **flags: Any) -> Any:
    """TRL's `SFTConfig`, or of pairs its `DPOConfig`, for the run that `facts` describe."""
    import torch
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.sft_config import SFTConfig

    training = facts["training"]
    pairs = training["objective"] == "dpo"
    batches = [training["per_device_train_batch_size"], training["gradient_accumulation_steps"]]
    if one_batch or "padding_free" in flags:
        batches = [batches[0] * batches[1], 1]
    tuning: dict[str, Any] = {"gradient_checkpointing": False} if tuned else {}
    if tuned or facts["dtype"] == "float32":
        tuning["model_init_kwargs"] = {"dtype": facts["dtype"]}
    if "padding_free" in flags:
        tuning["model_init_kwargs"]["attn_implementation"] = "flash_attention_2"
    own = facts["dpo"] if pairs else {"completion_only_loss": True}
    settings: type[Any] = DPOConfig if pairs else SFTConfig
    return settings(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=batches[0],
        gradient_accumulation_steps=batches[1],
        max_steps=len(facts["tokens"]),
        learning_rate=training["learning_rate"],
        lr_scheduler_type="constant",
        logging_steps=1,
        use_cpu=not torch.cuda.is_available(),
        bf16=facts["dtype"] == "bfloat16",
        save_strategy="no",
        report_to=[],
        max_length=None,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        **(own | tuning | flags),
    )
