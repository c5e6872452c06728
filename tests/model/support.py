"""A Plan from the model's own facts, and transformers' own loss to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from luthier.config.load import from_dict
from luthier.config.plan import DataFacts, Passes, Plan
from luthier.config.resolve import resolve
from luthier.model.describe import describe
from luthier.model.forward import autocast, summed_loss
from luthier.model.hub import load_config
from luthier.model.load import load_model
from tests.rows import MemoryRows, machine, micro_batches

ROWS = MemoryRows(6, longest=24)


def described(folder: Path | str, **keys: Any) -> Any:
    """What `describe` says of a folder under these config keys."""
    config = from_dict({"model": {"model_name_or_path": str(folder)}}, overrides(keys)).config
    return describe(config, load_config(config.model))


def planned(folder: Path | str, tokens: int = 64, **keys: Any) -> Plan:
    """A resolved plan as the application makes it: packed where the model's facts allow it."""
    loaded = from_dict({"model": {"model_name_or_path": str(folder)}}, overrides({"val_set_size": 0, **keys}))
    data = DataFacts(
        train_rows=len(ROWS),
        eval_rows=0,
        train_tokens=int(ROWS.lengths.sum()),
        trained_tokens=int(ROWS.trained.sum()),
        longest_row_tokens=int(ROWS.lengths.max()),
        template="test",
        fingerprint="test",
    )
    return resolve(loaded, machine(), described(folder, **keys), data, passes=Passes(tokens))


def loaded_model(folder: Path | str, **keys: Any) -> tuple[Plan, Any]:
    """The plan and the model it describes, ready to train."""
    plan = planned(folder, **keys)
    torch.manual_seed(0)
    return plan, load_model(plan, load_config(plan.config.model))


def our_loss(plan: Plan, model: Any) -> torch.Tensor:
    """Mean loss of all rows in our micro-batches; differentiable."""
    batches = micro_batches(ROWS, range(len(ROWS)), plan, 3)
    assert len(batches) > 1
    with autocast(plan):
        return sum(summed_loss(model, batch) for batch in batches) / int(ROWS.trained.sum())  # type: ignore[no-any-return]


def plain_loss(model: Any) -> torch.Tensor:
    """The same mean by transformers' own forward pass, each row alone."""
    total = torch.zeros(())
    for row in ROWS.rows:
        ids = torch.tensor(row.input_ids, dtype=torch.long)[None]
        labels = torch.where(torch.tensor(row.trained)[None], ids, -100)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum")
    return total / int(ROWS.trained.sum())


def overrides(keys: dict[str, Any]) -> list[str]:
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in keys.items()]
