"""Make a small base model's ingredients from what every Python installation has: no network, no account.

    python examples/small_base.py            writes models/small_base: config.json, tokenizer, functions.jsonl
    luthier train configs/small_base.yaml    trains it from scratch (a few minutes on two CPU cores)
    luthier train configs/mbpp_small.yaml    QLoRA on top of it

The text is the functions of the standard library with their docstrings. The model is a Llama of about 8 million
parameters: large enough for every real code path, far too small to be useful.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import LlamaConfig

from luthier.bench.base import functions, make_tokenizer

FOLDER = Path("models/small_base")
VOCABULARY = 8192


def main() -> None:
    """Write tokenizer, configuration and rows."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = list(dict.fromkeys(functions()))
    make_tokenizer(texts, VOCABULARY, FOLDER)
    LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(FOLDER)
    with (FOLDER / "functions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    sys.stdout.write(
        f"{len(texts):,} functions, {sum(map(len, texts)) / 1e6:.1f} million characters -> {FOLDER}\n"
        "next: luthier train configs/small_base.yaml\n"
        "then: luthier train configs/mbpp_small.yaml\n"
    )


if __name__ == "__main__":
    main()
