"""Make a small base model's ingredients from what every Python installation has: no network, no account.

    python examples/small_base.py            writes models/small_base: config.json, tokenizer, functions.jsonl
    luthier train configs/small_base.yaml    trains it from scratch (a few minutes on two CPU cores)
    luthier train configs/mbpp_small.yaml    QLoRA on top of it

The text is the functions of the standard library with their docstrings. The model is a Llama of about 8 million
parameters: large enough for every real code path, far too small to be useful.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, PreTrainedTokenizerFast

FOLDER = Path("models/small_base")
VOCABULARY = 8192
SHORTEST, LONGEST = 120, 2400  # characters of a function


def functions() -> Iterator[str]:
    """Source of each top-level function and method of the standard library that has a docstring."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(path.relative_to(library).parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                text = ast.unparse(node)
                if SHORTEST <= len(text) <= LONGEST:
                    yield text


def main() -> None:
    """Write tokenizer, configuration and rows."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = list(dict.fromkeys(functions()))
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False)
    bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(FOLDER)
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
