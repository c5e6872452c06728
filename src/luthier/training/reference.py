"""What the model thought of both answers of each pair before step 1; `dpo` compares with it at every step.

The reference model of the paper is the model as the run begins, so it needs no memory of its own: its log-probabilities
are asked for once, before the first step, and kept in the folder `reference` beside the checkpoints. A run that goes on
reads them there; where they are gone or of another run they are computed anew, before the checkpoint is read.

Shape letters: P pairs of a selection; the two are the chosen and the rejected answer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from luthier.data.collate import MicroBatch
from luthier.data.loader import collate, split
from luthier.data.rows import Selection
from luthier.events.types import Event, Notice
from luthier.machine.ranks import all_or_none, of_all_ranks, of_rank_0, only_on_rank_0, rank, world_size
from luthier.model.forward import autocast, inference
from luthier.training.commit import commit, verify
from luthier.training.identity import FIXED
from luthier.training.objective import answer_losses

if TYPE_CHECKING:
    from luthier.training.job import Job

FOLDER = "reference"
ASKING = "asking the model as it is"
"""A notice begins so."""
_FILE = "reference.safetensors"
_PAIRS_AT_ONCE = 256
_SAID_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Reference:
    """Negative log-likelihoods (nats, float64) of both answers of the training pairs and of those held out."""

    train_P2: torch.Tensor | None = None
    eval_P2: torch.Tensor | None = None


def ask_reference(job: Job) -> Iterator[Event]:
    """Fill `job.reference`, where the objective has one, from the folder or from the model, which is as before step 1.

    A stop in the middle leaves it as it is: the run then ends before its first step.

    Raises:
        OSError: It could not be written.
    """
    if not job.plan.pairs:
        return
    key, folder = _key(job), job.output_dir / FOLDER
    if known := of_rank_0(only_on_rank_0(lambda: _read(folder, key))):
        job.reference = Reference(**known)
        return
    found: dict[str, torch.Tensor] = {}
    for name, rows in (("train_P2", job.data.train), ("eval_P2", job.data.eval)):
        if rows is not None:
            losses_P2 = yield from _of_all(job, rows, "training pairs" if name == "train_P2" else "held-out pairs")
            if losses_P2 is None:
                return
            found[name] = losses_P2
    job.reference = Reference(**found)
    only_on_rank_0(lambda: commit(folder, lambda inside: save_file(found, inside / _FILE, {"key": key})))


def _of_all(job: Job, rows: Selection, what: str) -> Generator[Notice, None, torch.Tensor | None]:
    """The losses (P, 2) of all pairs, with word of how far it is; None after a stop."""
    yield Notice("info", f"{ASKING} for both answers of {len(rows):,} {what}: the reference of training")
    losses: dict[int, list[float]] = {}
    said, at_once = time.monotonic(), _PAIRS_AT_ONCE * world_size()
    for start in range(0, len(rows), at_once):
        job.agree()
        if job.should_stop():
            return None
        mine = list(range(start, min(start + at_once, len(rows))))[rank() :: world_size()]
        for part in of_all_ranks((yield from _of_some(job, rows, mine))):
            losses |= part
        if time.monotonic() - said > _SAID_EVERY:
            said = time.monotonic()
            yield Notice("info", f"{len(losses):,} of {len(rows):,} {what}")
    return torch.tensor([losses[number] for number in range(len(rows))], dtype=torch.float64)


def _of_some(job: Job, rows: Selection, mine: list[int]) -> Generator[Notice, None, dict[int, list[float]]]:
    """Pair -> losses of its two answers, in passes that fit into memory."""
    device, most = next(job.model.parameters()).device, job.plan.config.training.per_device_train_batch_size

    def losses(tried: list[MicroBatch]) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        with inference(job.model), autocast(job.plan):
            for group in split(rows, mine, job.plan, most):
                tried[:] = [collate(rows, group, job.plan)]
                losses_P2 = answer_losses(job.model, tried[0].to(device)).view(-1, 2)
                found |= dict(zip(group, losses_P2.tolist(), strict=True))
        return found

    return (
        yield from job.within_memory(lambda tried: all_or_none(lambda: losses(tried)), 1, "the reference before step")
    )


def _key(job: Job) -> str:
    """Hash of all that decides these numbers but rounding: rows, base model, and the adapter as it begins."""
    fixed = {name: value for name, value in job.identity["config"].items() if name.startswith(FIXED)}
    decided_by = [job.identity["data"], job.identity.get("base"), fixed]
    return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, key: str) -> dict[str, torch.Tensor]:
    """What was written under this key; nothing where it is not there, not whole, or of something else."""
    if verify(folder):
        return {}
    with suppress(OSError, SafetensorError), safe_open(folder / _FILE, "pt") as file:
        if (file.metadata() or {}).get("key") == key:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return {}
