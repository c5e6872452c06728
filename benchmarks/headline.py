"""The headline job's model and rows, of which nothing is fetched.

Llama-3.2-1B's exact shape, and rows as many and as long as those of python_code_instructions_18k, out of Python's own
library.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from luthier.bench.base import functions

LLAMA_3_2_1B = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
}  # fmt: skip
TOY = {
    "vocab_size": 640, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
ROWS, MEAN_TOKENS, TRAINED_SHARE, SPREAD = 18_612, 220, 0.65, 0.4
"""SPREAD is that of a lognormal: the longest of four rows is then about 1.4 times as long as the mean."""
SHORTEST, LONGEST = 32, 1000


def write_rows(path: Path, base: Path, count: int) -> None:
    """So many rows of prompt and completion, with lengths as those of the dataset, out of Python's library."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    rng, pool = random.Random(0), []
    for text in functions():
        pool += tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]
        if len(pool) > 2_000_000 or (count < ROWS and len(pool) > 50_000):
            break

    def piece(tokens: int) -> str:
        start = rng.randrange(len(pool) - tokens)
        return str(tokenizer.decode(pool[start : start + tokens]))

    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            tokens = min(LONGEST, max(SHORTEST, round(rng.lognormvariate(0, SPREAD) * MEAN_TOKENS / 1.083)))
            trained = round(tokens * TRAINED_SHARE)
            # its number keeps equal pieces apart, which would count as one question
            line = {"prompt": f"# {number}\n{piece(tokens - trained)}", "completion": piece(trained)}
            file.write(json.dumps(line) + "\n")


def job_keys(base: Path, rows: Path, steps: int, lane: str) -> list[str]:
    """The user's config, `key=value`: rank 16 on all linear layers, 4 x 4 examples a step; `lane` nf4, or bf16."""
    return [
        f"model_name_or_path={base}",
        f"data.datasets=[{{path: {rows}, format: prompt-completion}}]",
        f"cache_dir={rows.parent / 'cache'}",
        f"load_in_4bit={str(lane == 'nf4').lower()}",
        f"max_steps={steps}",
        "r=16", "lora_alpha=32", "lora_dropout=0", "target_modules=all-linear", "learning_rate=2e-4",
        "per_device_train_batch_size=4", "gradient_accumulation_steps=4", "val_set_size=0", "max_seq_length=1024",
        "lean_path=true", "rehearsal=false",
    ]  # fmt: skip
