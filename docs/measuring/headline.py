"""What the headline job would hold on a card that is not here, as `luthier plan --for` draws it; nothing is trained.

Rows and shape are those of benchmarks/gpu.py: as many and as long as the headline job's, and no weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

import luthier
from luthier.bench.base import functions, make_tokenizer
from luthier.config.memory_bar import memory_bar
from measuring.runs import WORK

CARD = "4090"
VOCABULARY, PARAMETERS = 32_000, 1_235_814_400


def headline() -> dict[str, Any]:
    sys.path.insert(0, str(Path("benchmarks").absolute()))
    from gpu import LLAMA_3_2_1B, ROWS, write_rows

    folder = WORK / "headline"
    base, rows = folder / "base", folder / "rows.jsonl"
    if not rows.is_file():
        base.mkdir(parents=True, exist_ok=True)
        make_tokenizer(list(dict.fromkeys(functions())), VOCABULARY, base)
        shape = LlamaConfig(tie_word_embeddings=True, max_position_embeddings=2048, **LLAMA_3_2_1B)
        shape.architectures = ["LlamaForCausalLM"]
        shape.save_pretrained(base)
        empty_weights(base / "model.safetensors")
        write_rows(rows, base, ROWS)
    changes = [
        f"model_name_or_path={base}",
        f"data.datasets=[{{path: {rows}, format: prompt-completion}}]",
        f"cache_dir={WORK / 'cache'}",
    ]
    plan, _ = luthier.plan("configs/training_config.yaml", changes, card=CARD)
    assert plan.memory is not None
    bar = memory_bar(plan.memory, 100)
    return {"card": CARD, "gib": plan.memory.gib, "bar": "\n".join(line.rstrip() for line in bar)}


def empty_weights(path: Path) -> None:
    """A file of that many zeros in bfloat16, of which the disk holds next to nothing."""
    size = 2 * PARAMETERS
    head = json.dumps({"zeros": {"dtype": "BF16", "shape": [PARAMETERS], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + size)
