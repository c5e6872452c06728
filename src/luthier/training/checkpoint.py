"""Checkpoints: everything that decides the rest of the run, in a folder that is whole or not there.

    checkpoint-<step>/
        adapter_model.safetensors, adapter_config.json    the adapter in peft's format (model.safetensors when full)
        optimizer.safetensors, optimizer.json             AdamW's moments and counters
        rng.safetensors                                   random number generators
        trainer_state.json                                counters, data position, best evaluation, identity of the run
        manifest.json                                     SHA-256 of each of them

No file is a pickle: loading a checkpoint runs no code. The learning rate and the order of the data are pure functions
of the step and need no state. Sharded or not, with any number of ranks, the files are the same: of what is sharded rank
0 writes one tensor after the other, lent by all, and each rank reads its own rows.

Resume is exact on the same machine, threads and versions (shown on a CPU); `identity` names what is not. A checkpoint
that is damaged is passed over and kept as `damaged-...`; two that were read back whole are never deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from luthier.config.numbers import LEAST_KEPT
from luthier.config.outputs import FINAL
from luthier.errors import CheckpointError, Problem, RunError
from luthier.events.types import CheckpointSaved
from luthier.machine.ranks import of_all_ranks, of_rank_0, only_on_rank_0, rank
from luthier.machine.seed import rng_state, set_rng_state
from luthier.machine.shards import GatherTensor, fill, is_sharded, own_part
from luthier.model.store import load_trained, save_trained, trained, write_tensors
from luthier.training.commit import ABANDONED, DAMAGED, remove, set_aside, verify, written
from luthier.training.state import TrainState

PREFIX = "checkpoint-"
STATE = "trainer_state.json"
_ASKED = ("weight_decay", "betas", "eps")


class NotFiniteError(RunError):
    """E-RUN-001: what would be written holds numbers that are not finite. Nothing was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        path: Its folder.
        step: Optimizer steps done when it was written.
        identity: What decided the run's numbers then; see `luthier.training.identity`.
        state: Counters, as `TrainState.as_dict`.
        passed_over: Newer checkpoints that were not whole, each with the reason.
    """

    path: Path
    step: int
    identity: dict[str, Any]
    state: dict[str, Any]
    passed_over: tuple[str, ...] = ()


def save_checkpoint(
    output_dir: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    identity: dict[str, Any],
    keep: int | None,
    generators: dict[str, torch.Tensor] | None = None,
    gather: GatherTensor | None = None,
) -> Callable[[], CheckpointSaved]:
    """Write the files of `checkpoint-<step>` now; call what is returned, in any thread, to make it whole.

    That call also deletes the oldest ones beyond `keep`. The best one, the newest one and the newest two that are whole
    always stay. `generators` are those of all ranks (`generators_of_all`); None: this process is alone. `gather` gives
    what `shared_tensors` names, of a sharded model.

    Raises:
        OSError: It could not be written; older ones are as before.
        NotFiniteError: A number that would be written is not finite.
    """
    started = time.monotonic()
    target = path_of(output_dir, state.step)

    def fill(folder: Path) -> None:
        tensors, plain = _flatten(optimizer.state_dict())
        require_finite(model, tensors, state.step)
        save_trained(model, folder, gather)
        write_tensors(folder / "optimizer.safetensors", tensors, gather or (lambda path: tensors[path].cpu()))
        (folder / "optimizer.json").write_text(json.dumps(plain), encoding="utf-8")
        save_file(rng_state() if generators is None else generators, folder / "rng.safetensors")
        record = {"identity": identity, **state.as_dict()}
        (folder / STATE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    name_it, step, best = written(target, fill), state.step, state.best_step  # the state goes on meanwhile

    def make_whole() -> CheckpointSaved:
        size = name_it()
        removed = _rotate(output_dir, keep, step, best)
        return CheckpointSaved(step, str(target), size, time.monotonic() - started, removed)

    return make_whole


def shared_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What a checkpoint of a sharded model asks of all ranks: weights by their names, moments by their paths."""
    return trained(model) | moments_of(optimizer)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors of its state, by their paths."""
    return _flatten(optimizer.state_dict())[0]


def find_checkpoint(output_dir: Path, wanted: str, before: int | None = None) -> Checkpoint | None:
    """The checkpoint to go on from.

    Args:
        output_dir: The run's folder.
        wanted: ``auto`` for the newest whole one (None if there is none at all), or a checkpoint's folder, or its
            name in `output_dir`.
        before: Only those of earlier steps than this.

    Raises:
        CheckpointError: E-CKPT-001 no such checkpoint, E-CKPT-002 not whole, or none of several is.

    Damaged ones that are newer than the one it finds are put into quarantine.
    """
    if wanted != "auto":
        path = Path(wanted).expanduser()
        path = path if path.is_dir() else output_dir / path
        if found := _no_checkpoint(path, wanted):
            newest = "".join(f"write --resume auto, or {last}" for last in checkpoints(output_dir)[-1:])
            fix = newest or f"there is none in {output_dir}: leave --resume out, or write the output_dir of the run"
            raise CheckpointError(Problem("E-CKPT-001", found, fix, "--resume"))
        if broken := verify(path):
            raise CheckpointError(Problem("E-CKPT-002", broken, "write --resume auto", str(path)))
        return _read(path)
    damaged: dict[Path, str] = {}
    for path in reversed(checkpoints(output_dir)):
        if before is not None and _step(path) >= before:
            continue
        broken = verify(path)
        if not broken:
            for other in damaged:
                set_aside(other, DAMAGED)
            return _read(path, tuple(f"{other.name}: {reason}" for other, reason in damaged.items()))
        damaged[path] = broken
    if damaged:
        fix = "start over with --overwrite (the old folder is kept beside it)"
        found = "; ".join(f"{path.name}: {reason}" for path, reason in damaged.items())
        raise CheckpointError(Problem("E-CKPT-002", found, fix, str(output_dir)))
    return None


def _no_checkpoint(path: Path, wanted: str) -> str:
    """Why a folder is not even a broken checkpoint; empty: it may be one."""
    if not path.is_dir():
        return f"no folder {wanted}"
    if path.name == FINAL:
        return f"{wanted} is a result, not a checkpoint"
    return "" if path.name.startswith(PREFIX) or (path / STATE).is_file() else f"{wanted} is no checkpoint: no {STATE}"


def path_of(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies, or would lie."""
    return output_dir / f"{PREFIX}{step}"


def checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    found = [p for p in output_dir.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit() and p.is_dir()]
    return sorted(found, key=_step)


def abandon_after(output_dir: Path, step: int) -> list[str]:
    """Set checkpoints of later steps aside; returns their names."""
    later = [path for path in checkpoints(output_dir) if _step(path) > step]
    for path in later:
        set_aside(path, ABANDONED)
    return [path.name for path in later]


def _step(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Put model, optimizer and random generators back; returns the counters.

    Raises:
        CheckpointError: E-CKPT-004 when the tensors do not fit.
    """
    fix = "start a new run in another training.output_dir"
    try:
        load_trained(model, checkpoint.path)
        tensors = _moments(checkpoint.path / "optimizer.safetensors", optimizer)
        plain = json.loads((checkpoint.path / "optimizer.json").read_text(encoding="utf-8"))
        asked = [{name: group[name] for name in _ASKED if name in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(_unflatten(tensors, plain))
        for group, options in zip(optimizer.param_groups, asked, strict=True):
            group.update(options)  # a changed one was allowed, and shall then have an effect
    except (ValueError, LookupError, RuntimeError) as error:
        found = str(error).splitlines()[0][:200]
        raise CheckpointError(Problem("E-CKPT-004", found, fix, str(checkpoint.path))) from error
    _restore_generators(load_file(checkpoint.path / "rng.safetensors"), checkpoint.step)
    return TrainState.from_dict(checkpoint.state)


def _moments(file: Path, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by path; of those that are sharded like their parameter this rank's rows."""
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    if not any(is_sharded(p) for p in parameters):
        return load_file(file)
    tensors = {}
    with safe_open(str(file), framework="pt") as opened:
        paths = opened.keys()
        for path in paths:
            values, parameter = opened.get_tensor(path), parameters[int(path.partition("/")[0])]
            own = torch.empty_like(parameter if values.shape == parameter.shape else values)
            fill(own, values)
            tensors[path] = own
    return tensors


def generators_of_all() -> dict[str, torch.Tensor]:
    """The states of all ranks' random generators, those of rank 0 under their own names; all ranks call it."""
    every = of_all_ranks(rng_state())
    others = {f"rank{n}.{name}": state for n, states in enumerate(every) if n for name, state in states.items()}
    return every[0] | others


def _restore_generators(saved: dict[str, torch.Tensor], step: int) -> None:
    """This rank's generators; a rank that was not there then begins new ones, at which `identity` says so."""
    prefix = f"rank{rank()}." if rank() else ""
    own = {name.removeprefix(prefix): s for name, s in saved.items() if name.startswith(prefix)}
    if "cpu" in own:
        set_rng_state(own)
    else:
        torch.manual_seed(torch.initial_seed() + step)


def read_by_all(find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """What rank 0 finds, read by every rank: looking for it may set damaged ones aside, and only one shall do that."""
    found = only_on_rank_0(find)
    place = of_rank_0((str(found.path), found.passed_over) if found else None)
    return found or (_read(Path(place[0]), place[1]) if place else None)


def _read(path: Path, passed_over: tuple[str, ...] = ()) -> Checkpoint:
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Checkpoint(path, int(state["step"]), state.pop("identity"), state, passed_over)


def _rotate(output_dir: Path, keep: int | None, saved: int, best: int | None) -> list[str]:
    """Delete all but the newest `keep` checkpoints; a failed deletion never fails a run.

    Nothing is deleted that is not older than `LEAST_KEPT` whole ones.
    """
    if keep is None or len(checkpoints(output_dir)) <= max(keep, LEAST_KEPT):
        return []
    removed, kept, whole = [], 0, 0
    for path in reversed(checkpoints(output_dir)):
        step = _step(path)
        if kept < keep or whole < LEAST_KEPT or step in (saved, best):
            kept += 1
            whole += step == saved or (whole < LEAST_KEPT and not verify(path))  # the new one was read back just now
            continue
        try:
            remove(path)
        except OSError:
            continue
        removed.append(path.name)
    return removed


def require_finite(
    model: nn.Module, moments: dict[str, torch.Tensor], step: int, *, on_all_ranks: bool = False
) -> None:
    """A checkpoint never holds NaN: nothing would bring the run back from it.

    Args:
        model: The model; of a sharded one this rank's part is looked at.
        moments: The optimizer's tensors.
        step: Optimizer steps done.
        on_all_ranks: All ranks look at the same time, and hear what one of them finds.

    Raises:
        NotFiniteError: One of the numbers is not finite.
    """
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    parts = ((name, own_part(tensor)) for name, tensor in (own | moments).items())
    wrong = next((name for name, part in parts if part.is_floating_point() and not torch.isfinite(part).all()), "")
    if on_all_ranks:
        wrong = next(filter(None, of_all_ranks(wrong)), "")
    if wrong:
        found = f"after step {step:,} {wrong} holds numbers that are not finite; no checkpoint was written"
        fix = "write a learning_rate of a third; then --resume auto --allow-changes"
        raise NotFiniteError(Problem("E-RUN-001", found, fix, "training.learning_rate"))


def _flatten(state_dict: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors by path (`3/exp_avg`) and plain JSON data of the same shape.

    bitsandbytes nests the state of its 8-bit optimizers one level deeper; any depth is fine.
    """
    tensors: dict[str, torch.Tensor] = {}

    def split(values: dict[Any, Any], prefix: str) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, value in values.items():
            path = f"{prefix}{key}"
            if isinstance(value, torch.Tensor):
                tensors[path] = value.detach()
            else:
                plain[str(key)] = split(value, f"{path}/") if isinstance(value, dict) else value
        return plain

    return tensors, {"groups": state_dict["param_groups"], "state": split(state_dict["state"], "")}


def _unflatten(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_flatten`."""
    state: dict[str, Any] = plain["state"]
    for path, tensor in tensors.items():
        *parents, name = path.split("/")
        place = state
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = tensor
    return {"state": {int(index): values for index, values in state.items()}, "param_groups": plain["groups"]}
