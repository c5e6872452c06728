"""Checks of the place: where the run writes, what room there is, and what it will need from elsewhere."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from luthier.config.numbers import LEAST_KEPT
from luthier.config.plan import Plan
from luthier.errors.extras import install
from luthier.events.sinks.extra import missing_extras, missing_login
from luthier.gate.check import Result, Subject, check, fails, passed, warns

WEIGHT_BYTES = 4
"""Trained weights are kept, and saved, in float32."""
STATE_BYTES = {"paged_adamw_8bit": 2.2}
"""Optimizer state per trained parameter: two moments of one byte and their scales; else two of float32."""
OTHER_BYTES = 64 * 2**20
"""Tokenizer, events.jsonl, TensorBoard files."""
TIGHT = 1.2
"""Less room than this many times the need is worth a word: others write to the same disk."""


@check
def output_writable(subject: Subject) -> Result:
    """The output folder can be written.

    Everything that the run makes goes there. Some disks take small writes and refuse what a checkpoint needs: a flush
    to the device, a rename, a lock. All of them are done there once, with a file of a few bytes.

    Fails when one of them does not work.

    Write another output_dir, or mend the folder.
    """
    folder = Path(subject.plan.config.training.output_dir).expanduser()
    try:
        _probe(nearest(folder))
    except OSError as error:
        return fails(f"{folder}: {error.strerror or error}")
    return passed(f"{folder}: written, flushed, renamed and locked")


def nearest(folder: Path) -> Path:
    """The folder, or the closest one above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _probe(folder: Path) -> None:
    """Do with a small file what a checkpoint is written with.

    Raises:
        OSError: What did not work.
    """
    first = folder / f".luthier-probe-{uuid.uuid4().hex[:8]}"
    second = first.with_suffix(".renamed")
    try:
        with first.open("wb") as file:
            file.write(b"luthier")
            file.flush()
            os.fsync(file.fileno())
            _lock(file.fileno())
        first.rename(second)
        if second.read_bytes() != b"luthier":
            raise OSError("what was written does not come back")
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks of this kind
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass(frozen=True)
class Need:
    """Room that a run takes on disk at most.

    Attributes:
        checkpoint_bytes: One checkpoint: trained weights and optimizer state.
        checkpoints: How many lie there at once, the one that is being written included.
        final_bytes: The trained weights once more.
    """

    checkpoint_bytes: int
    checkpoints: int
    final_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, with tokenizer and logs."""
        return self.checkpoint_bytes * self.checkpoints + self.final_bytes + OTHER_BYTES


def disk_need(plan: Plan) -> Need:
    """What a run writes, from its trained parameters P.

        checkpoint = P (4 + 8) bytes, 4 + 2.2 with an 8-bit optimizer;  at once = kept + best + one being written

    Args:
        plan: With the model's facts.
    """
    assert plan.model is not None and plan.model.trainable_parameters is not None
    parameters = plan.model.trainable_parameters
    state = STATE_BYTES.get(plan.config.training.optim, 8.0)
    checkpoint = math.ceil(parameters * (WEIGHT_BYTES + state))
    return Need(checkpoint, _checkpoints_at_once(plan), parameters * WEIGHT_BYTES)


def _checkpoints_at_once(plan: Plan) -> int:
    """The kept ones, the best and the one that is being written; fewer in a run that does not save so often."""
    settings, total = plan.config.checkpointing, plan.total_steps
    best = plan.evaluations if plan.config.evaluation.load_best_model_at_end else ()  # each of them may be
    saves = len({*plan.saves, *best})
    if settings.save_total_limit is None:
        return saves
    if _saves_by_the_clock(plan):  # nobody knows how often that is
        saves = total
    return min(saves, max(settings.save_total_limit, LEAST_KEPT) + bool(plan.eval_every) + 1)


def _saves_by_the_clock(plan: Plan) -> bool:
    return plan.save_every > 0 and plan.config.checkpointing.save_minutes > 0


@check
def disk_space(subject: Subject) -> Result:
    """Room for all checkpoints and the final model.

    A disk that fills up in the night costs the checkpoint that was to be written, and at the end the result itself.
    What the run will write is known before it starts: size and number of checkpoints follow from the plan.

    Warns when there is less than 1.2 times that room; fails when there is less than that. Checkpoints that are in the
    folder already count as room, because newer ones replace them.

    Make room, write another output_dir, or keep fewer checkpoints.
    """
    folder = Path(subject.plan.config.training.output_dir).expanduser()
    need = disk_need(subject.plan)
    free = shutil.disk_usage(nearest(folder)).free
    there = sum(file.stat().st_size for file in folder.glob("checkpoint-*/**/*") if file.is_file())
    keep = subject.plan.config.checkpointing.save_total_limit
    least = "at least " * (keep is None and _saves_by_the_clock(subject.plan))
    told = (
        f"{least}{need.checkpoints} checkpoint{'s' * (need.checkpoints != 1)} of {size(need.checkpoint_bytes)} at once"
    )
    found = f"{told}, the final model and the logs take {size(need.total_bytes)}; {size(free)} free in {folder}"
    found += f", and {size(there)} in checkpoints that are there" * bool(there)
    fewest = min(need.checkpoints, LEAST_KEPT + bool(subject.plan.eval_every) + 1)
    helps = free + there >= replace(need, checkpoints=fewest).total_bytes and (keep is None or keep > LEAST_KEPT)
    change = f"checkpointing.save_total_limit: {LEAST_KEPT}" * helps
    if free + there < need.total_bytes:
        return fails(found, change=change)
    return warns(found, change=change) if free + there < TIGHT * need.total_bytes else passed(found)


def size(number: float) -> str:
    """`812 MB`, `1.24 GB`, as `df -H` and file managers count."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= 0.9995 * scale:  # what three digits would round up to it
            return f"{number / scale:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


@check
def trackers(subject: Subject) -> Result:
    """Trackers are installed, and somebody is logged in.

    A run whose metrics go nowhere is noticed when it is over; one that waits for a password at night does not start.

    Fails when a tracker in report_to is not installed; warns when it has no login on this machine.

    Install it, log in before the run starts, or take its name out of report_to.
    """
    named = list(dict.fromkeys(subject.plan.config.logging.report_to))
    if missing := missing_extras(named):
        fix = f"{install(*missing)}, or take the name out of report_to"
        return fails(f"{', '.join(missing)} is named in report_to and not installed", fix)
    if lacking := [text for name in named if (text := missing_login(name))]:
        return warns("; ".join(lacking))
    return passed(f"{', '.join(named) or 'none'} in report_to")


@check
def base_weights(subject: Subject) -> Result:
    """The base weights are here, or can be.

    The config and the tokenizer of a model are small and come first; its weights are large and come last, when all
    rows are prepared.

    Fails when they are not on this machine and the hub is switched off, or when there is no room for them; warns when
    they have yet to be fetched.

    Fetch them before the run starts.
    """
    model, facts = subject.plan.config.model, subject.plan.model
    name = model.model_name_or_path
    assert facts is not None
    if model.from_scratch:
        return passed("none are needed: it starts from random ones")
    if Path(name).expanduser().is_dir():
        return passed(f"in {name}")
    if _cached(name, model.revision):
        return passed(f"{name} is in the hub's cache")
    from huggingface_hub.constants import HF_HUB_CACHE

    if os.environ.get("HF_HUB_OFFLINE", "").lower() not in ("", "0", "false", "no", "off"):
        return fails(f"{name} is not on this machine, and HF_HUB_OFFLINE is set", f"hf download {name}")
    expected, free = 2 * facts.parameters, shutil.disk_usage(nearest(Path(HF_HUB_CACHE))).free
    found = f"{name} has yet to be fetched: about {size(expected)} in 16 bits; {size(free)} free in {HF_HUB_CACHE}"
    if free < expected:
        return fails(found, "make room, or set HF_HUB_CACHE to a folder on a larger disk")
    return warns(found, f"hf download {name}")


def _cached(name: str, revision: str | None) -> bool:
    """Whether the hub's cache on this machine has all weights; touches no network."""
    from huggingface_hub import try_to_load_from_cache

    def has(file: str) -> str | None:
        path = try_to_load_from_cache(name, file, revision=revision)
        return path if isinstance(path, str) else None

    if has("model.safetensors"):
        return True
    index = has("model.safetensors.index.json")
    if not index:
        return False
    try:
        files = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(has(str(file)) for file in files)


CHECKS = (output_writable, disk_space, trackers, base_weights)
