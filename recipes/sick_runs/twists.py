"""What is done to the code while a labelled run goes on: the sicknesses that no key of the config can give."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from luthier import api
from luthier.data import loader
from luthier.training import engine


@contextmanager
def slow_rows() -> Iterator[None]:
    """Each micro-batch takes twice as long to pack as to compute, as from a slow disk."""
    collate, backward, seconds = loader.collate_packed, engine.backward, [0.05]

    def slowly(rows: Any) -> Any:
        time.sleep(2 * seconds[-1])
        return collate(rows)

    def timed(*arguments: Any) -> Any:
        started = time.monotonic()
        result = backward(*arguments)
        seconds.append(time.monotonic() - started)
        return result

    with patch.object(loader, "collate_packed", slowly), patch.object(engine, "backward", timed):
        yield


@contextmanager
def optimizer_does_nothing() -> Iterator[None]:
    """The update is forgotten: gradients are there, and no weight moves."""

    def forget(trained: Any, optimizer: Any, *_: Any) -> None:
        optimizer.zero_grad(set_to_none=True)

    with patch.object(engine, "update", forget):
        yield


@contextmanager
def adapter_is_not_restored() -> Iterator[None]:
    """A resume puts everything back but the weights."""
    restore = api.restore

    def forgetful(checkpoint: Any, model: Any, optimizer: Any) -> Any:
        fresh = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        state = restore(checkpoint, model, optimizer)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in fresh:
                    parameter.copy_(fresh[name])
        return state

    with patch.object(api, "restore", forgetful):
        yield


@contextmanager
def weight_overflows() -> Iterator[None]:
    """From step 15 on one update is beyond all bounds, as after a bit that flipped."""
    update, steps = engine.update, [0]

    def careless(trained: Any, optimizer: Any, plan: Any, rate: float, norm: Any) -> None:
        steps[0] += 1
        update(trained, optimizer, plan, rate * (1e35 if steps[0] > 15 else 1.0), norm)

    with patch.object(engine, "update", careless):
        yield
