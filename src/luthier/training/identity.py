"""What decides the numbers of a run, and what a changed one means for a resume.

free        where files go, how often something is logged or saved: ignored
decisive    data, template, learning rate, seed, ...: refused with the difference, unless --allow-changes
fixed       model, quantization, adapter: refused, the tensors would not fit or would mean something else
surrounding versions, threads, device: the result stays correct but is not bit-identical; said in a notice
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import bitsandbytes
import numpy
import peft
import torch
import transformers

from luthier.config.plan import Passes, Plan
from luthier.config.schema import Config
from luthier.errors import CheckpointError, MissingError, Problem
from luthier.machine.ranks import of_all_ranks
from luthier.model.hashes import differing

_FREE = ("logging.", "checkpointing.", "evaluation.", "training.output_dir", "data.cache_dir")
_FREE_KEYS = (
    "data.dataloader_num_workers", "data.datasets", "training.rehearsal", "training.hang_seconds",
    # what is done with steps that harm: of a run that stopped because of them one may want another answer
    "training.bad_steps_limit", "training.after_bad_steps", "training.loss_spikes",
    # how the examples go through the model: that changes rounding at most (see `surrounding`)
    "training.max_tokens_per_micro_batch", "training.memory_gib", "training.gradient_checkpointing",
    "training.lean_path", "training.auto", "training.packing", "training.kernels", "training.cuda_graphs",
    "training.fsdp",
)  # fmt: skip
_FIXES = {
    "surrounding.arithmetic": "export ATEN_CPU_CAPABILITY on all machines, as the oldest has it: avx512, avx2, default",
    "surrounding.machine": "take machines with processors of one kind",
}
_EXAMPLES = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")
FIXED = ("model.", "quantization.", "lora.", "training.finetuning_type")


def identity(plan: Plan) -> dict[str, Any]:
    """The identity of a run, as it is written into each checkpoint."""
    flat = flatten(plan.config.model_dump(mode="json"))
    assert plan.data is not None
    return {
        "config": _decisive(flat),
        "data": plan.data.fingerprint,
        "template": plan.data.template,
        "total_steps": plan.total_steps,
        "passes": asdict(plan.passes),
        "surrounding": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "bitsandbytes": bitsandbytes.__version__,
            "max_tokens_per_micro_batch": plan.max_tokens_per_micro_batch,
            "lean_path": plan.config.training.lean_path,
            "packing": plan.config.training.packing,
            **({"fsdp": True} if plan.sharded else {}),
            "kernels": plan.machine.device == "cuda" and plan.config.training.kernels,
            **({"cuda_graphs": True} if plan.machine.device == "cuda" and plan.config.training.cuda_graphs else {}),
            "numpy": numpy.__version__,  # it draws the order of the rows
            "threads": torch.get_num_threads(),
            "arithmetic": torch.backends.cpu.get_cpu_capability(),
            "world_size": plan.machine.world_size,
            "device": plan.machine.device_name,
            "machine": platform.machine(),
        },
    }


def require_one_plan(plan: Plan) -> None:
    """Compare the runs that the ranks are about to do.

    Raises:
        MissingError: E-ENV-008, they are not the same.
    """
    own, *others = of_all_ranks(same_on_all_ranks(plan))
    for number, other in enumerate(others, 1):
        for key, value in own.items():
            if other.get(key) != value:
                found = f"rank {number} has {key} {other.get(key)}, and rank 0 {value}"
                fix = _FIXES.get(key, "give every rank the same files, libraries and config")
                raise MissingError(Problem("E-ENV-008", found, fix))


def same_on_all_ranks(plan: Plan) -> dict[str, Any]:
    """What ranks may not differ in, flat; on CPUs the instruction set too, as it rounds updates, and ranks drift apart.

    Neither the device's model nor the threads do: norms and updates have the same bits with any number of them.
    """
    own = {"surrounding.device", "surrounding.threads"}
    if plan.machine.device != "cpu":
        own |= {"surrounding.arithmetic", "surrounding.machine"}
    return {key: value for key, value in flatten(identity(plan)).items() if key not in own}


def passes_of(identity: dict[str, Any], name: str) -> Passes:
    """The passes of a checkpoint, so that sums are added in the same order again, bit for bit.

    Args:
        identity: Of the checkpoint.
        name: Of its folder.
    """
    stored = dict(identity.get("passes") or {"micro_batch_tokens": identity["max_tokens_per_micro_batch"]})
    passes = Passes(**stored)
    return replace(passes, how=f"{passes.micro_batch_tokens:,} tokens, as in {name}")


def check_identity(then: dict[str, Any], now: dict[str, Any], where: str, allow_changes: bool) -> list[str]:
    """Compare a checkpoint's identity with this run's.

    Returns:
        Sentences for notices: allowed changes, and what makes the result not bit-identical.

    Raises:
        CheckpointError: E-CKPT-004 for fixed keys; E-CKPT-003 for decisive ones unless `allow_changes`.
    """
    # an older checkpoint may name more keys, and lack newer ones
    before = flatten(Config().model_dump(mode="json")) | then["config"]
    changed = _differences(_decisive(before), now["config"])
    fixed = {key: text for key, text in changed.items() if key.startswith(FIXED)}
    if fixed:
        fix = "undo it, or start a new run in another training.output_dir"
        raise CheckpointError(*(Problem("E-CKPT-004", text, fix, where) for text in fixed.values()))
    names = {"data": "the training rows or how they become tokens", "template": "the prompt template"}
    for key, name in names.items():
        if then[key] != now[key]:
            changed[key] = f"{name} changed ({then[key][:12]} then, {now[key][:12]} now)"
    for key in _EXAMPLES:  # how they are cut into passes and ranks changes rounding at most
        changed.pop(key, None)
    had, has = _examples_of_a_step(before, then), _examples_of_a_step(now["config"], now)
    if had != has:
        what = "per_device_train_batch_size x gradient_accumulation_steps x ranks"
        changed["examples"] = f"examples of a step ({what}): {had} then, {has} now"
    elif "data" not in changed and then["total_steps"] != now["total_steps"]:
        changed["total_steps"] = f"total steps: {then['total_steps']} then, {now['total_steps']} now"
    if changed and not allow_changes:
        fixes = dict.fromkeys(changed, "undo the change, or accept it with --allow-changes")
        at_once = has // now["config"][_EXAMPLES[1]]
        if "examples" in changed and not had % at_once:
            again = f"write gradient_accumulation_steps: {had // at_once} for {had} again"
            fixes["examples"] = f"{again}, or accept it with --allow-changes"
        raise CheckpointError(*(Problem("E-CKPT-003", text, fixes[key], where) for key, text in changed.items()))
    notices = [f"Resumed with a change that you allowed: {text}" for text in changed.values()]
    surrounding = _differences(then["surrounding"], now["surrounding"])
    if surrounding:
        what = "; ".join(surrounding.values())
        notices.append(f"Correct, but not bit-identical to an uninterrupted run: {what}")
    return notices


def check_base(then: Mapping[str, str], now: Mapping[str, str], where: str, allow_changes: bool) -> list[str]:
    """Compare the base model's files with those that a checkpoint was trained on, by their hashes.

    Returns:
        A sentence for a notice, where they differ and that is allowed.

    Raises:
        CheckpointError: E-CKPT-003, they differ.
    """
    found = differing(then, now)
    if found and not allow_changes:
        fix = "put back the one that it was trained on, or accept the other with --allow-changes"
        raise CheckpointError(Problem("E-CKPT-003", f"the base model changed: {found}", fix, where))
    return [f"Resumed with a change that you allowed: the base model changed: {found}"] if found else []


def _examples_of_a_step(config: dict[str, Any], identity: dict[str, Any]) -> int:
    return math.prod(int(config[key]) for key in _EXAMPLES) * int(identity["surrounding"].get("world_size", 1))


def _decisive(flat: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if not key.startswith(_FREE) and key not in _FREE_KEYS}


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _differences(then: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Key -> "key: a then, b now" for every differing key."""
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return {key: f"{key}: {then.get(key)} then, {now.get(key)} now" for key in keys}
