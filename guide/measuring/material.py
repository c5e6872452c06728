"""What the experiments train on: functions of Python's standard library, and a small Llama to begin from.

Nothing is downloaded. Another Python version has other functions, so its numbers differ in the digits.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.bench.base import library_functions, make_tokenizer

VOCABULARY = 2048
LONGEST_CHARACTERS = 420
SHAPE: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\nWrite a Python function\n\n### Response:\n"
)


@dataclass(frozen=True)
class Material:
    """Where things lie: `model` (config.json and tokenizer), `texts` (text rows), `tasks` (alpaca rows)."""

    model: Path
    texts: Path
    tasks: Path


def functions() -> Iterator[tuple[str, str]]:
    """(instruction, source) of each short function of the standard library that has a docstring."""
    for node in library_functions({"test", "tests", "site-packages", "idlelib"}):
        if len(node.body) < 2 or not ast.get_docstring(node):
            continue
        purpose = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        node.body, node.decorator_list = node.body[1:], []
        source = ast.unparse(node)
        if 40 <= len(source) <= LONGEST_CHARACTERS and 10 <= len(purpose) <= 90:
            yield f"Write a Python function: {purpose}", source


def gather(folder: Path) -> Material:
    """Write tokenizer, model configuration and rows into `folder`, once."""
    from transformers import LlamaConfig

    material = Material(folder / "model", folder / "texts.jsonl", folder / "tasks.jsonl")
    if material.tasks.is_file():
        return material
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(dict(functions()).items())
    random.Random(0).shuffle(pairs)
    make_tokenizer([source for _, source in pairs] + [PREAMBLE] * 200, VOCABULARY, material.model)
    LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        tie_word_embeddings=True, architectures=["LlamaForCausalLM"], **SHAPE,
    ).save_pretrained(material.model)  # fmt: skip
    half = len(pairs) // 2
    _write(material.texts, ({"text": source} for _, source in pairs[:half]))
    _write(material.tasks, ({"instruction": task, "output": source} for task, source in pairs[half:]))
    return material


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
