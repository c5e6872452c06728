"""Rows in memory, and a Plan around a tiny model: for tests of the maths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.config.load import from_dict
from luthier.config.plan import DataFacts, MachineFacts, ModelFacts, Passes, Plan
from luthier.config.resolve import resolve
from luthier.data.cache import _record_batch
from luthier.data.collate import MicroBatch
from luthier.data.loader import collate, split
from luthier.data.pairs import ROWS_OF_A_PAIR
from luthier.data.rows import RowStore, Selection
from luthier.data.tokenize import Batch


@dataclass(frozen=True)
class MemoryRow:
    input_ids: np.ndarray
    trained: np.ndarray


class MemoryRows:
    """Random rows: a prompt that is not trained, then a completion that is. Few tokens are common: learnable."""

    each = 1

    def __init__(self, count: int, vocab_size: int = 400, longest: int = 40, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.rows = []
        for _ in range(count):
            length = int(rng.integers(6, longest))
            prompt = int(rng.integers(2, length - 2))
            ids = (3 + rng.geometric(0.1, length) % (vocab_size - 3)).astype(np.int32)
            self.rows.append(MemoryRow(ids, np.arange(length) >= prompt))
        self.lengths = np.array([len(row.input_ids) for row in self.rows], dtype=np.int32)
        self.row_lengths = self.lengths[:, None]
        self.trained = np.array([int(row.trained.sum()) for row in self.rows], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    def members(self, index: int) -> tuple[MemoryRow]:
        return (self.rows[index],)


def pair_rows(count: int, vocab_size: int = 400, longest: int = 40, seed: int = 0, limit: int = 2048) -> Selection:
    """Random pairs: a prompt, and two different answers to it."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(2, longest // 2)), *rng.integers(2, longest // 2, 2).tolist()) for _ in range(count)]
    return pairs_of_sizes(sizes, vocab_size, seed, limit)


def pairs_of_sizes(
    sizes: list[tuple[int, int, int]], vocab_size: int = 400, seed: int = 0, limit: int = 2048
) -> Selection:
    """Pairs of random tokens: so many of prompt, chosen and rejected answer, each answer with its end."""
    rng = np.random.default_rng(seed)
    batch = Batch()
    for number, (asked, *answers) in enumerate(sizes):
        prompt = rng.integers(3, vocab_size, asked).tolist()
        for side, size in enumerate(answers):
            batch.input_ids.append([*prompt, *rng.integers(3, vocab_size, size - 1).tolist(), 1])
            batch.spans.append([asked, asked + size])
            batch.prompt_keys.append(number)
            batch.row_keys.append(2 * number + side)
            batch.places.append(f"rows.jsonl:{number + 1}")
    store = RowStore([pa.Table.from_batches([_record_batch(batch)])], each=ROWS_OF_A_PAIR)
    return Selection(store, 2 * np.arange(len(sizes)), limit)


def prepared(rows: MemoryRows, held_out: MemoryRows | None = None) -> Any:
    """What the engine reads of `luthier.data.prepare.Prepared`."""
    return SimpleNamespace(train=rows, eval=held_out)


def machine(**changes: Any) -> MachineFacts:
    values: dict[str, Any] = {
        "device": "cpu",
        "device_name": "test CPU",
        "world_size": 1,
        "supports_bfloat16": False,
        "memory_gib": 8.0,
        "free_memory_gib": 4.0,
        "cpu_cores": 2,
        "has_bitsandbytes": True,
        "supports_fp8": True,
    }
    return MachineFacts(**{**values, **changes})


def plan_for(model_dir: Path | str, rows: MemoryRows | Selection, tokens: int = 4096, **keys: Any) -> Plan:
    """A resolved plan; `keys` are config keys, bare where unique. Of pairs one for DPO."""
    pairs = rows.each == ROWS_OF_A_PAIR
    if pairs:
        keys = {"objective": "dpo", "learning_rate": 5e-6} | keys
    loaded = from_dict({"model": {"model_name_or_path": str(model_dir)}}, [f"{k}={v}" for k, v in keys.items()])
    facts = DataFacts(
        train_rows=len(rows),
        eval_rows=0,
        train_tokens=int(rows.lengths.sum()),
        trained_tokens=int(rows.trained.sum()),
        longest_row_tokens=int(rows.row_lengths.max()),
        template="test",
        fingerprint="test",
        pairs=pairs,
    )
    model = ModelFacts("LlamaForCausalLM", 99648, 32768, 2, 64, 400, 512, can_isolate_documents=True)
    return resolve(loaded, machine(), model, facts, passes=Passes(tokens))


def micro_batches(rows: Any, indices: Any, plan: Plan, most_rows: int) -> list[MicroBatch]:
    """The given rows as micro-batches within the plan's token budget."""
    return [collate(rows, group, plan) for group in split(rows, indices, plan, most_rows)]
