"""Builders of small real things: a tokenizer, a Llama, a dataset file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ["add", "two", "numbers", "return", "sum", "list", "reverse", "string", "count", "vowels", "def", "if", "else"]
CORPUS = [
    "def add(a, b):\n    return a + b\n",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nWrite a function to reverse a string.\n\n### Response:\n",
    "for i in range(10):\n    print(i)\nif x is None:\n    raise ValueError('x')\n",
    " ".join(WORDS),
]


def build_tokenizer(folder: Path, vocab_size: int = 400) -> Any:
    """Train a byte-level BPE on a few sentences and save it; returns the tokenizer."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        CORPUS * 4, vocab_size=vocab_size, min_frequency=1, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False
    )
    bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def llama_config(**changes: Any) -> Any:
    """The configuration of the tiny Llama."""
    from transformers import LlamaConfig

    values: dict[str, Any] = {
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    return LlamaConfig(**{**values, **changes})


def build_model(folder: Path, **changes: Any) -> None:
    """Write a tiny random Llama and its tokenizer to `folder`."""
    import torch
    from transformers import LlamaForCausalLM

    build_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(llama_config(**changes)).save_pretrained(folder)


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """Write `count` alpaca rows of different lengths as JSON lines."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            words = rng.choices(WORDS, k=rng.randint(2, 14))
            row = {
                "instruction": f"Write a function number {index} to " + " ".join(words),
                "input": rng.choice(["", "", f"x = {index}"]),
                "output": f"def f{index}(x):\n    return " + " + ".join(rng.choices(WORDS, k=rng.randint(1, 12))),
            }
            file.write(json.dumps(row) + "\n")


def write_pairs(path: Path, count: int, seed: int = 0) -> None:
    """Write `count` preference rows as JSON lines; chosen and rejected answers differ in a way that can be learned."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            row = {
                "prompt": f"Write a function number {index} to " + " ".join(rng.choices(WORDS, k=rng.randint(2, 9))),
                "chosen": "return " + " + ".join(rng.choices(WORDS, k=rng.randint(1, 9))),
                "rejected": "print " + " ".join(rng.choices(WORDS, k=rng.randint(1, 12))),
            }
            file.write(json.dumps(row) + "\n")
