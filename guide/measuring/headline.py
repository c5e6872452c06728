"""What the headline job would hold on a card that is not here, as `luthier plan --for` draws it; nothing is trained.

Rows and shape are those of benchmarks/headline.py: as many and as long as the headline job's, and no weights.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

import luthier
from luthier.bench.base import functions, make_tokenizer
from luthier.config.plan import Memory, Plan
from luthier.config.render import memory_bar
from measuring.runs import WORK

CARD, SMALL_CARD, LARGE_CARD = "4090", "4060", "H200"
ASKED = ("auto", "6", "3", "2")
VOCABULARY, PARAMETERS = 32_000, 1_235_814_400
LLAMA_3_1_8B = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
}  # fmt: skip


def headline() -> dict[str, Any]:
    sys.path.insert(0, str(Path("benchmarks").absolute()))
    from headline import LLAMA_3_2_1B, ROWS, write_rows

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
    large = folder / "large"
    if not large.is_dir():
        shutil.copytree(base, large, ignore=shutil.ignore_patterns("*.safetensors"))
        shape = LlamaConfig(max_position_embeddings=2048, **LLAMA_3_1_8B)
        shape.architectures = ["LlamaForCausalLM"]
        shape.save_pretrained(large)
        empty_weights(large / "model.safetensors")
    qlora, lora = memory_of(planned(base, rows, CARD, True)), memory_of(planned(base, rows, CARD, False))
    bar = memory_bar(qlora, 100)
    numbers = {"card": CARD, "gib": qlora.gib, "bar": "\n".join(line.rstrip() for line in bar)}
    numbers |= held("qlora", qlora) | held("lora", lora) | {"small_card": SMALL_CARD}
    numbers |= held("large_qlora", memory_of(planned(large, rows, SMALL_CARD, True)))
    numbers |= held("large_lora", memory_of(planned(large, rows, SMALL_CARD, False)))
    within = {asked: planned(base, rows, LARGE_CARD, True, f"memory_gib={asked}") for asked in ASKED}
    return numbers | {"large_card": LARGE_CARD, "within": table(within)}


def table(within: dict[str, Plan]) -> str:
    """What each memory_gib makes of a run: a row for each."""
    heads = ["`memory_gib`", "GiB predicted", "tokens a pass, at most", "layers computed again", "weights unpacked"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
    for asked, plan in within.items():
        unpacked = "once, and kept" if plan.unpack_once else "at each use"
        passes = f"{plan.max_tokens_per_micro_batch:,} | {plan.checkpointed_layers} | {unpacked}"
        lines.append(f"| `{asked}` | {memory_of(plan).gib:.2f} | {passes} |")
    return "\n".join(lines)


def planned(base: Path, rows: Path, card: str, four_bits: bool, *keys: str) -> Plan:
    """Such a run on that card."""
    changes = [
        f"model_name_or_path={base}",
        f"data.datasets=[{{path: {rows}, format: prompt-completion}}]",
        f"cache_dir={WORK / 'cache'}",
        f"load_in_4bit={str(four_bits).lower()}",
        *keys,
    ]
    return luthier.plan("configs/training_config.yaml", changes, card=card)[0]


def memory_of(plan: Plan) -> Memory:
    """What it would hold."""
    assert plan.memory is not None
    return plan.memory


def held(name: str, memory: Memory) -> dict[str, float]:
    """Its weights, their unpacked copies, both together, the whole, and what the card has; all in GiB."""
    parts = {part.name: part.gib for part in memory.parts}
    weights, copies = parts["weights"], parts.get("copies", 0.0)
    return {
        f"{name}_weights": weights, f"{name}_copies": copies, f"{name}_both": weights + copies,
        f"{name}_gib": memory.gib, f"{name}_room": memory.room_gib,
    }  # fmt: skip


def empty_weights(path: Path) -> None:
    """A file of that many zeros in bfloat16, of which the disk holds next to nothing."""
    size = 2 * PARAMETERS
    head = json.dumps({"zeros": {"dtype": "BF16", "shape": [PARAMETERS], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + size)
