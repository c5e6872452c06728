"""Checkpoints of a run, made whole beside its steps.

    step | files | step step step step step ...           what trains
                 | flush, hash, name, read back |         a thread: most of the time that a disk takes

The files hold the numbers between two steps; from then on nothing of the run is read. One is on its way at a time: the
next one, a way back to an older one and the end of the run wait for it. Until it is whole the one before it is the
newest, so a kill at any moment finds what it always found.

With several ranks only rank 0 writes, and learns by itself how it went; all learn of it where all wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.errors.trace import summary
from luthier.events.types import CheckpointSaved, Event, Notice
from luthier.machine.memory import is_out_of_memory
from luthier.machine.ranks import of_rank_0, on_any_rank, rank
from luthier.machine.shards import GatherTensor, on_rank_0_with
from luthier.training.background import started
from luthier.training.checkpoint import (
    NotFiniteError,
    generators_of_all,
    moments_of,
    require_finite,
    save_checkpoint,
    shared_tensors,
)
from luthier.training.failures import unwritten

if TYPE_CHECKING:
    from luthier.training.job import Job
    from luthier.training.milestones import Ending

THREAD = "luthier-save"
_AT_MOST = 60.0
"""Seconds that a run which fails waits for its checkpoint."""
_FIRST_WAIT, _LONGEST_WAIT = 30.0, 600.0  # seconds between two tries


@dataclass(frozen=True)
class OnItsWay:
    """A checkpoint whose files are written and that is not whole yet.

    Attributes:
        step: Optimizer steps done.
        before: The step of the checkpoint before it.
        result: What a thread will have made of it; None on other ranks than 0.
    """

    step: int
    before: int | None
    result: Future[CheckpointSaved] | None


class Saving:
    """The checkpoint on its way, when the next one is due by the clock, and when one that failed is tried again."""

    def __init__(self) -> None:
        self.on_its_way: OnItsWay | None = None
        self._saved_at, self._failures, self._retry_at = time.monotonic(), 0, 0.0

    def due(self, minutes: float) -> bool:
        """Whether `minutes` (0: never) have gone by since the last one, or since the last failure long enough."""
        now = time.monotonic()
        if self._failures:
            return now >= self._retry_at
        return minutes > 0 and now - self._saved_at >= 60 * minutes

    @property
    def waits(self) -> bool:
        """Whether the next try after a failure is not due yet."""
        return time.monotonic() < self._retry_at

    def begun(self, checkpoint: OnItsWay) -> None:
        """The files of one are written."""
        self.on_its_way, self._saved_at = checkpoint, time.monotonic()

    def done(self) -> None:
        """One is whole."""
        self._failures, self._retry_at = 0, 0.0

    def failed(self) -> float:
        """One could not be written. Returns the seconds until the next try."""
        wait = min(_FIRST_WAIT * 2.0**self._failures, _LONGEST_WAIT)
        self._failures += 1
        self._retry_at = time.monotonic() + wait
        return wait


def saves_now(job: Job, ending: Ending) -> bool:
    """Whether a checkpoint is due: by steps, by the clock, after the first step, after a failure, or at the end."""
    if ending or not job.plan.save_every:
        return bool(ending and job.state.step)
    return on_any_rank(rank() == 0 and is_due(job, job.state.step))  # each has a clock of its own


def is_due(job: Job, step: int) -> bool:
    """Whether a checkpoint is due after a step of a run that goes on, by this rank's clock."""
    settings, saving = job.plan.config.checkpointing, job.saving
    if not step or not job.plan.save_every or saving.waits:
        return False
    first = settings.save_first_step and job.state.saved_step is None
    return first or step in job.plan.saves or saving.due(settings.save_minutes)


def save(job: Job, ending: Ending) -> Iterator[Event]:
    """Begin a checkpoint, once a step. A disk that is full does not end the run: it is tried again.

    Raises:
        NotFiniteError: The last step has made weights that are none.
    """
    state = job.state
    if state.saved_step == state.step:
        return
    began = time.monotonic()
    yield from landed(job)
    before = state.saved_step
    state.saved_step = state.step
    state.runtime_seconds = job.clock.runtime_seconds()
    try:
        make_whole = _written(job)
    except (OSError, MemoryError, RuntimeError, NotFiniteError) as error:
        yield from _not_written(job, OnItsWay(state.step, before, None), error, ending)
        return
    job.saving.begun(OnItsWay(state.step, before, started(make_whole, THREAD) if make_whole else None))
    if ending:  # samples come after it
        yield from landed(job, ending)
    job.ahead.took("saving", time.monotonic() - began)
    yield from job.watchdog.said()


def arrived(job: Job) -> Iterator[Event]:
    """What became of the checkpoint on its way, if that is known: after each step, without waiting."""
    checkpoint = job.saving.on_its_way
    if checkpoint and checkpoint.result and checkpoint.result.done():
        yield from _outcome(job, checkpoint, _error_of(checkpoint), "")


def landed(job: Job, ending: Ending = "") -> Iterator[Event]:
    """Wait for the checkpoint on its way; all ranks do.

    Raises:
        OSError: It could not be written, and a stop leaves nothing else.
    """
    checkpoint = job.saving.on_its_way
    with job.watchdog.watching("a save", job.state.step):
        error = _error_of(checkpoint) if checkpoint else None
        if failed := of_rank_0(summary(error) if error else ""):  # not its text: that of a MemoryError is empty
            error = error or OSError(failed)
    if checkpoint:
        yield from _outcome(job, checkpoint, error, ending)
    yield from job.watchdog.said()


def leave(job: Job) -> None:
    """Let the checkpoint on its way become whole before a run that has failed ends."""
    if (checkpoint := job.saving.on_its_way) and checkpoint.result:
        wait([checkpoint.result], _AT_MOST)


def _error_of(checkpoint: OnItsWay) -> BaseException | None:
    """Waits until it is known."""
    return checkpoint.result.exception() if checkpoint.result else None


def _outcome(job: Job, checkpoint: OnItsWay, error: BaseException | None, ending: Ending) -> Iterator[Event]:
    job.saving.on_its_way = None
    if error:
        yield from _not_written(job, checkpoint, error, ending)
        return
    job.saving.done()
    if checkpoint.result:
        yield checkpoint.result.result()


def _not_written(job: Job, checkpoint: OnItsWay, error: BaseException, ending: Ending) -> Iterator[Notice]:
    """A disk that is full is no reason to end a run, unless nothing else keeps what was trained."""
    state, before, last = job.state, checkpoint.before, checkpoint.step == job.state.step
    state.saved_step = before
    on_disk = isinstance(error, OSError | MemoryError) or is_out_of_memory(error)
    if not on_disk or (last and ending == "stopped"):
        raise error
    pause = job.saving.failed()
    newest = f"; the newest one is of step {before:,}" if before else ""
    text = f"no checkpoint at step {checkpoint.step:,}: {unwritten(error) or summary(error)}{newest}; "
    then = f"training goes on, tried again in {pause:.0f} s; make room on the disk"
    kept = "the last step is kept in final_model only" if last and ending else then
    yield Notice("critical", text + kept, step=state.step)


def _written(job: Job) -> Callable[[], CheckpointSaved] | None:
    """The files of a checkpoint, with what the other ranks add to it; what makes it whole, on rank 0.

    Raises:
        OSError, MemoryError, RuntimeError: It could not be written; on every rank.
        NotFiniteError: On every rank, as all have the same weights and moments, or tell each other.
    """
    generators, failure = generators_of_all(), None
    keep = job.plan.config.checkpointing.save_total_limit
    make_whole: Callable[[], CheckpointSaved] | None = None

    def write(gather: GatherTensor | None = None) -> Callable[[], CheckpointSaved]:
        return save_checkpoint(
            job.output_dir, job.model, job.optimizer, job.state, job.identity, keep, generators, gather
        )

    if job.plan.sharded:
        tensors = shared_tensors(job.model, job.optimizer)
        require_finite(job.model, tensors, job.state.step, on_all_ranks=True)
    elif rank():
        require_finite(job.model, moments_of(job.optimizer), job.state.step)
    with job.watchdog.watching("a save", job.state.step):
        try:
            if job.plan.sharded:
                make_whole = on_rank_0_with(tensors, write)
            elif rank() == 0:
                make_whole = write()
        except (OSError, MemoryError, RuntimeError) as error:
            if job.plan.sharded and rank():
                raise  # rank 0 still asks for tensors: it learns of it as of a rank that is gone
            failure = error
    failed = of_rank_0(summary(failure) if failure else "")
    if failed:
        raise failure or OSError(failed)
    return make_whole
