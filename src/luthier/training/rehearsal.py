"""The largest step of a run, really done before the first one, and nothing of it kept.

    moments of the optimizer -> forward and backward of the largest passes -> length, clipping, update
                             -> the largest pass again, for the clock
                             -> the largest evaluation batch -> a checkpoint into a folder that is deleted

So a run that does not fit into memory or onto the disk fails in its first minute, and the forecast of its memory is
measured before it matters. The first passes of a process are slower than those that follow, so the time of the run is
scaled from the pass that is made a second time. What the run would compute without it stays the same, bit for bit: the
random generators are put back, the gradients are dropped, and the update is made by an optimizer of the rehearsal's own
with gradients, learning rate and decay of 0, which leaves each weight as it is. A run that is resumed has its moments
already and updates nothing.

Not covered: what sampling holds; memory that other programs take later.
"""

from __future__ import annotations

import math
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from luthier.config.numbers import REHEARSED_FROM
from luthier.config.plan import Plan
from luthier.data.collate import MicroBatch
from luthier.data.largest import Largest, find_largest
from luthier.data.loader import collate
from luthier.events.types import CheckpointSaved, Event, Notice, Rehearsed
from luthier.machine.probe import PeakMeter
from luthier.machine.ranks import all_or_none, only_on_rank_0, rank, world_size
from luthier.machine.seed import rng_state, set_rng_state
from luthier.machine.shards import GatherTensor, on_rank_0_with
from luthier.training.checkpoint import save_checkpoint, shared_tensors
from luthier.training.commit import INFLIGHT
from luthier.training.failures import hold_less
from luthier.training.optimizer import build_optimizer
from luthier.training.scale import loss_scale
from luthier.training.step import backward, evaluate, norm_of_gradients, update

if TYPE_CHECKING:
    from luthier.training.job import Job


@dataclass
class _Measured:
    step_seconds: float = 0.0
    pass_seconds: float = 0.0
    update_seconds: float = 0.0
    eval_seconds: float = 0.0
    save_seconds: float = 0.0
    checkpoint_bytes: int = 0


def rehearse(job: Job) -> Iterator[Event]:
    """Do the largest step and forget it; yields `Rehearsed` and `TimeForecast`, or a notice that it was left out.

    Args:
        job: The run, ready for its next step. Nothing that its numbers depend on is changed.

    Where it does not fit into memory, something is given up as in a step, and it is done again.

    Raises:
        torch.OutOfMemoryError, RuntimeError: It does not fit, and there is nothing left to give up.
        OSError: Its checkpoint does not fit onto the disk.
    """
    decision = job.plan.value("training.rehearsal")
    by_itself, left = bool(decision.how), job.plan.total_steps - job.state.step
    job.agree()
    if not left or not (decision.value or by_itself) or job.should_stop():
        return
    if by_itself and left < REHEARSED_FROM:
        text = f"no rehearsal of the largest step: it would be more than a twentieth of {left:,} steps"
        yield Notice("info", text, "training.rehearsal: true")
        return

    largest, meter, measured = yield from job.within_memory(
        lambda tried: _tried(job, tried), job.state.step + 1, "the rehearsal before step"
    )
    tokens = int(job.data.train.lengths[list(largest.passes[0])].sum())
    job.ahead.rehearsed(tokens, measured.pass_seconds, measured.update_seconds)
    job.ahead.expect("saving", measured.save_seconds)
    if largest.evaluation and job.data.eval is not None:
        lengths = job.data.eval.lengths
        batches = float(lengths.sum() / lengths[list(largest.evaluation)].sum())
        job.ahead.expect("evaluation", batches * measured.eval_seconds)
    memory = job.plan.memory
    predicted = memory.gib if memory else math.nan
    yield Rehearsed(
        tokens=largest.tokens,
        trained_tokens=largest.trained_tokens,
        longest_row_tokens=largest.longest_row_tokens,
        predicted_gib=predicted,
        parts={part.name: part.gib for part in memory.parts} if memory else {},
        measured_gib=meter.gib,
        error=predicted / meter.gib - 1 if meter.gib else math.nan,
        measured_by=meter.method,
        step_seconds=measured.step_seconds,
        eval_seconds=measured.eval_seconds,
        save_seconds=measured.save_seconds,
        checkpoint_bytes=measured.checkpoint_bytes,
    )
    if said := _too_much(job.plan, meter):
        yield said
    yield job.ahead.forecast(job.state.step)


def _too_much(plan: Plan, held: PeakMeter) -> Notice | None:
    """What is said where more was held than the config allows; None where it was not."""
    asked = plan.config.training.memory_gib
    if asked == "auto" or held.gib <= asked or not held.is_of_the_block:
        return None
    line = hold_less(plan)
    text = f"the largest step held {held.gib:.2f} GiB, and training.memory_gib is {asked:g}"
    return Notice("warning", text, f"{line.key}: {line.new}")


def _tried(job: Job, tried: list[MicroBatch]) -> tuple[Largest, PeakMeter, _Measured]:
    """What was rehearsed and measured; `tried` gets the largest passes of the plan as it is now."""
    largest = job.largest or find_largest(job.data.train, job.data.eval, job.plan, rank(), world_size())
    tried[:] = all_or_none(lambda: [collate(job.data.train, rows, job.plan) for rows in largest.passes])
    with PeakMeter(next(job.model.parameters()).device) as meter, _undone(job):
        return largest, meter, _run(job, tried, largest.evaluation)


def _run(job: Job, passes: list[MicroBatch], held_out_rows: Sequence[int]) -> _Measured:
    """The step, the evaluation batch and the checkpoint, each with its seconds."""
    measured, plan, model = _Measured(), job.plan, job.model
    fresh = not job.optimizer.state
    optimizer = build_optimizer(model, plan) if fresh else job.optimizer
    if fresh:
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        _update(optimizer, job)  # the moments are there in every step but the first
    started = time.monotonic()
    factor = loss_scale(job.state, plan)
    backward(model, passes, plan, reference_P2=job.reference.train_P2, loss_scale=factor)
    norm = norm_of_gradients(job.trained, plan)
    norm.item()
    if fresh:
        begun = time.monotonic()
        _update(optimizer, job)
        measured.update_seconds = time.monotonic() - begun
    measured.step_seconds = time.monotonic() - started
    measured.pass_seconds = _once_more(job, passes[0], factor)
    if job.data.eval is not None and plan.eval_every:
        started, held_out = time.monotonic(), job.data.eval
        evaluate(
            model, (collate(held_out, rows, plan) for rows in [held_out_rows] if rows), plan, job.reference.eval_P2
        )
        measured.eval_seconds = time.monotonic() - started
    if saved := _saved(job, optimizer):
        measured.save_seconds, measured.checkpoint_bytes = saved.seconds, saved.bytes
    return measured


def _once_more(job: Job, batch: MicroBatch, factor: float) -> float:
    """Seconds of a pass that was made before: what is made and filled on first use is there."""
    for parameter in job.trained:
        parameter.grad = None
    started = time.monotonic()
    backward(job.model, [batch], job.plan, reference_P2=job.reference.train_P2, loss_scale=factor)
    norm_of_gradients(job.trained, job.plan).item()
    seconds = time.monotonic() - started
    for parameter in job.trained:
        parameter.grad = None
    return seconds


def _saved(job: Job, optimizer: torch.optim.Optimizer) -> CheckpointSaved | None:
    """A checkpoint that is deleted again; None on other ranks than 0."""

    def write(gather: GatherTensor | None = None) -> CheckpointSaved:
        # a crash leaves it for the next run to sweep
        folder = job.output_dir / f"{INFLIGHT}rehearsal-{uuid.uuid4().hex[:8]}"
        try:
            return save_checkpoint(folder, job.model, optimizer, job.state, job.identity, None, None, gather)()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    if job.plan.sharded:
        return all_or_none(lambda: on_rank_0_with(shared_tensors(job.model, optimizer), write))
    return only_on_rank_0(write)


def _update(optimizer: torch.optim.Optimizer, job: Job) -> None:
    """An update by nothing: with gradients, rate and decay of 0 a weight stays what it is, its sign of 0 included."""

    def own() -> None:
        for parameter in job.trained:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        # the real one may not be a number, and would clip to NaN
        no_length = torch.zeros((), device=job.trained[0].device)
        update(job.trained, optimizer, job.plan, 0.0, no_length)
        optimizer.zero_grad(set_to_none=True)

    all_or_none(own)


@contextmanager
def _undone(job: Job) -> Iterator[None]:
    """Random generators and gradients as before, whatever happens inside."""
    generators = rng_state()
    try:
        yield
    finally:
        set_rng_state(generators)
        for parameter in job.model.parameters():
            parameter.grad = None
