"""How long a checkpoint holds the steps up, and how long it takes until it is whole.

    python benchmarks/saving.py [--repeats 7] [--json benchmarks/results/saving_cpu.json]

The checkpoint is that of a QLoRA of Llama-3.2-1B with rank 16 on all linear layers: 11.3 million trained numbers and
AdamW's moments of each. `pause` is what happens between two steps, `whole` that and what a thread does beside them:
flush, hash, name, read back. The folder is on the disk of the working directory. Not covered: what the thread takes
from the steps beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.machine.record import surroundings
from luthier.training.checkpoint import save_checkpoint
from luthier.training.state import TrainState

SHAPE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128}  # fmt: skip


def main() -> None:
    """Save in turns with nothing else to do; print and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.bfloat16)  # of the base, which is not saved
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), LoraConfig(r=16, target_modules="all-linear"))
    torch.set_default_dtype(torch.float32)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    pauses, wholes, size = [], [], 0
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for step in range(1, arguments.repeats + 1):
            started = time.perf_counter()
            make_whole = save_checkpoint(Path(folder), model, optimizer, TrainState(step=step), {}, 2)
            pauses.append(time.perf_counter() - started)
            size = make_whole().bytes
            wholes.append(time.perf_counter() - started)
    record = {
        "surroundings": surroundings(), "trained": sum(p.numel() for p in trained), "bytes": size,
        "pause_seconds": median(pauses), "whole_seconds": median(wholes), "pauses": pauses, "wholes": wholes,
    }  # fmt: skip
    print(f"{size / 1e6:.0f} MB   pause {median(pauses):.3f} s   whole after {median(wholes):.3f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
