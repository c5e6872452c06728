"""A healthy subject of the gate, and what the checks say of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from luthier.config.load import from_dict
from luthier.config.plan import ModelFacts, Passes
from luthier.config.resolve import resolve
from luthier.data.cache import _record_batch
from luthier.data.prepare import prepare
from luthier.data.rows import RowStore, Selection
from luthier.data.tokenize import Batch
from luthier.events.types import Checked
from luthier.gate.check import Subject
from luthier.gate.gate import examine
from tests.data.support import alpaca, make_tokenizer, write_jsonl
from tests.rows import machine

VOCABULARY = 263
PARAMETERS, TRAINED = 99_648, 32_768


def subject(
    folder: Path,
    rows: list[Any] | None = None,
    tokenizer: Any = None,
    *,
    vocabulary: int = VOCABULARY,
    box: dict[str, Any] | None = None,
    **keys: Any,
) -> Subject:
    """What the gate takes: 20 small rows and a tokenizer with BOS and EOS, unless told otherwise.

    `keys` are config keys, bare where unique.
    """
    tokenizer = tokenizer or make_tokenizer()
    path = write_jsonl(folder / "rows.jsonl", alpaca(20) if rows is None else rows)
    config = {
        "model": {"model_name_or_path": str(folder), "dtype": "float32"},
        "data": {"datasets": [{"path": str(path)}], "val_set_size": 0, "cache_dir": str(folder / "cache")},
        "training": {"output_dir": str(folder / "out")},
    }
    loaded = from_dict(config, [f"{key}={value}" for key, value in keys.items()])
    data = prepare(loaded.config, tokenizer)
    model = ModelFacts("LlamaForCausalLM", PARAMETERS, TRAINED, 2, 64, vocabulary, 9000, can_isolate_documents=True)
    plan = resolve(loaded, machine(**(box or {})), model, data.facts, passes=Passes(9000))
    return Subject(plan, data, tokenizer)


def told(what: Subject, *allow: str) -> dict[str, Checked]:
    """The checks that did not pass, by name."""
    return {check.name: check for check in examine(what, frozenset(allow)) if check.verdict != "passed"}


def verdicts(what: Subject, *allow: str) -> dict[str, str]:
    """Their names and verdicts."""
    return {name: check.verdict for name, check in told(what, *allow).items()}


def with_spans(what: Subject, change: Any) -> Subject:
    """The same with the trained spans of each row changed, counted again as preparing them does."""
    store, limit = what.data.train.store, what.data.train.limit
    batch = Batch()
    for number in range(len(store)):
        row = store.row(number, limit)
        start = int(row.trained.argmax())
        batch.input_ids.append(row.input_ids.tolist())
        batch.spans.append(change(number, [start, len(row.input_ids)]))
        batch.prompt_keys.append(int(store.prompt_keys[number]))
        batch.row_keys.append(int(store.row_keys[number]))
        batch.places.append(row.place)
    fresh = RowStore([pa.Table.from_batches([_record_batch(batch)])])
    stop = what.data.template.stop_ids(what.tokenizer)
    report = replace(what.data.report, eos_share=float(fresh.ends_trained(stop, limit).mean()))
    return replace(what, data=replace(what.data, train=Selection(fresh, what.data.train.chosen, limit), report=report))
