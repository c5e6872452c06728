"""The training loop, as a stream of events.

`run` is a generator: whoever calls it hands each event to the sinks. It owns no screen and no log. What it carries
from step to step is `TrainState`, and that is what a checkpoint holds. Between two `yield`s no mode of torch is left
switched. What happens between two steps is in `luthier.training.milestones`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import torch

from luthier.data.collate import MicroBatch
from luthier.data.loader import Lookahead, StepBatches, step_batches, training_steps
from luthier.data.order import step_rows
from luthier.errors import CheckpointError, Problem, RunError
from luthier.events.types import CHANCE, Event, Gradients, Notice, Resumed
from luthier.machine.ranks import all_or_none, only_on_rank_0, rank, together, watch_for_hangs, world_size
from luthier.machine.seed import rng_state, set_rng_state
from luthier.model.recording import begin_next, forget_recordings, passes_made, place_next, recording_failed, records
from luthier.training.checkpoint import (
    Checkpoint,
    NotFiniteError,
    abandon_after,
    find_checkpoint,
    path_of,
    read_by_all,
    restore,
)
from luthier.training.cost import StepCost
from luthier.training.failures import lower_the_rate
from luthier.training.gradients import gradient_flow
from luthier.training.guard import Judgement, judge, remember
from luthier.training.job import Clock, Job, due
from luthier.training.milestones import between_steps, finish, follows_at_once, why_it_ends
from luthier.training.objective import Counted
from luthier.training.optimizer import leaves_out_by_itself, prepare_step, take_back
from luthier.training.saving import landed, leave
from luthier.training.scale import grow, loss_scale, lower, scales
from luthier.training.step import Numbers, backward, nan_unless_finite, norm_of_gradients, update

MOST_ROLLBACKS = 2
ROLLBACK_FACTOR = 0.5
"""What the learning rate is multiplied by at each of them."""
_MOST_PLACES, _SHOWN_PLACES = 16, 4


def run(job: Job) -> Iterator[Event]:
    """Train until the plan's last step, early stopping or a stop request; yields what happens.

    Raises:
        RunError: E-RUN-001 when too many steps in a row are not finite (none of them is applied).
    """
    job.clock = Clock(job.state.runtime_seconds)
    job.ahead.start()
    watch_for_hangs()
    try:
        yield from between_steps(job)  # samples before the first step; or what a stop left undone after the last one
        while not (ending := why_it_ends(job)):
            yield from steps(job)
        yield from finish(job, ending)
    finally:
        try:
            leave(job)
            forget_recordings(job.model)
        finally:
            job.watchdog.close()


def steps(job: Job) -> Iterator[Event]:
    """One step after the other, until the run ends or the steps to come are others than were packed ahead."""
    plan, before = job.plan, job.state
    lookahead = Lookahead(training_steps(job.data.train, plan, before.step, rank(), world_size()))
    for batches in job.watch.fetched(lookahead):
        yield from optimizer_step(job, batches, lookahead)
        if job.state is not before:
            return  # it went back to a checkpoint
        try:
            yield from between_steps(job)
        except NotFiniteError as error:  # a step whose loss and gradient were numbers has made weights that are none
            yield from go_back(job, error.problems[0].found)
            return
        if job.plan is not plan or why_it_ends(job):
            return


def optimizer_step(job: Job, batches: StepBatches, lookahead: Lookahead) -> Iterator[Event]:
    """Forward, loss, backward, update. A step that would harm the run is left out.

    After its gradients: judge, update, start the next pass, count, tell. The device goes on with the first pass of the
    next step (`lookahead`) before this one is told of, where that is recorded: it changes no number, as a pass moves
    no weight. Nor does it wait for the judgement where that could only be about numbers that are none (`goes_ahead`).
    """
    state, lap, random = job.state, job.watch.lap, rng_state()

    def forward_and_backward(tried: list[MicroBatch]) -> Backward:
        if tried:  # and did not fit: the same examples again, in passes that hold less
            set_rng_state(random)
            batches.rebuild(step_batches(job.data.train, job.plan, state.step, rank(), world_size()))
        tried[:] = batches.packed
        return gradients(job, batches, lookahead, random)

    scale, made = state.loss_scale, passes_made(job.model)
    done = yield from job.within_memory(forward_and_backward, state.step + 1)
    if state.loss_scale < scale:
        text = f"step {state.step + 1:,}: its gradients were too large for float16; it was done again with the loss "
        yield Notice("info", f"{text}multiplied by {state.loss_scale:g} instead of {scale:g}", step=state.step + 1)
    training = job.plan.config.training
    ordinary = CHANCE if job.plan.pairs else 0.0
    sums, length = read(job, done)
    loss = sums[0] / max(1, done.counted.losses)
    judgement = judge(state, loss, length, training.max_grad_norm, ordinary)
    if leaves_out(job, judgement):
        if done.applied:
            take_back(job.optimizer)
        yield from leave_out(job, judgement, loss, length)
        return
    flow = None
    if not done.applied:
        if due(state.step + 1, job.plan.config.logging.histogram_steps):
            lap("optimizer")
            flow = gradient_flow(job.model, state.step + 1)
            lap("other")
        grow(state, job.plan)
        apply(job, done.norm)
        go_on(job)
    job.optimizer.zero_grad(set_to_none=True)  # the device is busy
    seconds = job.watch.stop()
    job.agree()
    state.grad_norm = length
    state.count(sums, done.counted, seconds)
    state.add_data(batches.packed)
    remember(state, loss, length)
    yield from events_of(job, judgement, flow)
    computed = sum(batch.input_ids_BT.numel() for batch in batches.packed)
    whole = sum(batch.num_tokens for batch in batches.packed)
    usual = passes_made(job.model) == made
    job.ahead.add(StepCost(len(batches.packed), computed, whole, seconds, usual), state.step)
    yield from job.ahead.told(state.step)


class Backward(NamedTuple):
    """A step up to its gradients.

    Attributes:
        numbers: The objective's sums and the length of the gradient, on their way here.
        counted: What the sums went over.
        norm: That length, on the device.
        applied: The update is queued, and leaves itself out where loss or gradient are no numbers.
    """

    numbers: Numbers
    counted: Counted
    norm: torch.Tensor
    applied: bool


def gradients(job: Job, batches: StepBatches, lookahead: Lookahead, random: dict[str, torch.Tensor]) -> Backward:
    """Forward and backward, and the update where that goes ahead.

    What the update and the next pass need is made ready before the numbers are read: then the device is busy anyway.
    Where float16 overflowed on the way back, all of it is done again, with the random generators as they were.
    """
    with job.watchdog.watching("a step", job.state.step + 1):
        while True:
            options = (job.watch.lap, job.reference.train_P2, loss_scale(job.state, job.plan))
            summed, counted = backward(job.model, batches.nearest, job.plan, *options)
            norm = norm_of_gradients(job.trained, job.plan)
            all_or_none(lambda: make_ready(job, lookahead))
            numbers = Numbers(summed, norm)
            if goes_ahead(job):
                apply(job, nan_unless_finite(norm, summed))
                return Backward(numbers, counted, norm, True)
            sums, length = numbers.read()
            if not lower(job.state, job.plan, sums[0], length):
                return Backward(numbers, counted, norm, False)
            job.optimizer.zero_grad(set_to_none=True)
            set_rng_state(random)


def read(job: Job, done: Backward) -> tuple[list[float], float]:
    """The numbers of a step, once the device has more to do than to tell them.

    Nothing of it is done again where memory runs out: the update may be queued already.
    """
    if not done.applied:
        return done.numbers.read()  # they are here
    with job.watchdog.watching("a step", job.state.step + 1):
        go_on(job)
        return done.numbers.read()


def make_ready(job: Job, lookahead: Lookahead) -> None:
    """What the update and the next pass need; waits for no other rank."""
    prepare_step(job.optimizer)
    if records(job.model):
        job.watch.lap("optimizer")
        device = job.trained[0].device  # the sums of several ranks are no longer there
        if after := lookahead.peek(device):
            place_next(job.model, after[0])
        job.watch.lap("data")  # what the device waits for them


def goes_ahead(job: Job) -> bool:
    """Whether the update need not wait for the numbers of its step, as nothing but they being none could stop it.

    float16 does a step that overflowed again, and a spike that is to be left out is known from the steps before.
    """
    config, step = job.plan.config, job.state.step + 1
    asks = config.training.loss_spikes == "skip" or scales(job.plan) or together()
    can = records(job.model) and leaves_out_by_itself(job.optimizer)
    return can and not asks and not due(step, config.logging.histogram_steps)


def apply(job: Job, norm: torch.Tensor) -> None:
    """Move the weights."""
    update(job.trained, job.optimizer, job.plan, job.learning_rate(job.state.step), norm)


def go_on(job: Job) -> None:
    """Start the next pass where it can be, behind the update."""
    job.watch.lap("optimizer")
    if follows_at_once(job) and begin_next(job.model):
        job.watch.next_has_begun()


def events_of(job: Job, judgement: Judgement, flow: Gradients | None) -> Iterator[Event]:
    """What there is to say of a step that was applied."""
    if flow is not None:
        yield flow
    if judgement.spike:
        step, rows = job.state.step, places(job, job.state.step - 1)
        text = f"step {step:,}: {judgement.spike}{', clipped' * judgement.clipped}; rows {in_short(rows)}"
        if judgement.clipped:
            yield Notice("info", text, step=step, rows=rows)
        else:
            yield Notice("warning", text, "training.loss_spikes: skip", step, rows)
    for text, instead in recording_failed(job.model):
        yield Notice("warning", text, instead, job.state.step)
    yield from job.watchdog.said()


def leaves_out(job: Job, judgement: Judgement) -> bool:
    """Whether a step is not applied. Spikes in a row are a new level, not spikes: from some number on they count."""
    settings, bad = job.plan.config.training, job.state.bad_in_a_row
    skips = settings.loss_spikes == "skip" and bad < settings.bad_steps_limit
    return not judgement.finite or bool(judgement.spike and skips)


def leave_out(job: Job, judgement: Judgement, loss: float, norm: float) -> Iterator[Event]:
    """Forget the gradients of a step and go on with the next one; or back to a checkpoint after too many of them.

    Raises:
        RunError: E-RUN-001, see `go_back`.
    """
    state, settings = job.state, job.plan.config.training
    job.optimizer.zero_grad(set_to_none=True)
    job.watch.stop()
    job.agree()
    what = f"step {state.step + 1:,}: {judgement.spike or f'loss {loss:g}, gradient norm {norm:g}'}; "
    what += f"rows {in_short(rows := places(job, state.step))}"
    if judgement.finite or state.bad_in_a_row < settings.bad_steps_limit:
        state.skip()
        yield Notice("warning", f"left out {what}", step=state.step, rows=rows)
        return
    if state.bad_in_a_row:
        what += f"; {state.bad_in_a_row:,} steps before it were not finite either, and were left out"
    yield from go_back(job, what)


def go_back(job: Job, what: str) -> Iterator[Event]:
    """To the newest checkpoint with a lower rate; the next time to one before it, as that one may hold the cause.

    Args:
        job: The run.
        what: The harm that was done.

    Raises:
        RunError: E-RUN-001 when that is not wanted, was done often enough, or there is nothing to go back to.
    """
    state, settings = job.state, job.plan.config.training
    yield from landed(job)
    checkpoint = None
    if settings.after_bad_steps == "rollback" and state.rollbacks < MOST_ROLLBACKS:
        again = state.went_bad_at is not None and state.step <= state.went_bad_at  # it did not help
        before = state.rolled_back_to if again else None

        def find() -> Checkpoint | None:
            with suppress(CheckpointError):  # none is whole
                return find_checkpoint(job.output_dir, "auto", before)
            return None

        checkpoint = read_by_all(find)
    if checkpoint is None:
        raise RunError(Problem("E-RUN-001", what, lower_the_rate(job.plan), "training.learning_rate")) from None
    go_on_from(job, checkpoint)
    job.state.rollbacks, job.state.rolled_back_to = state.rollbacks + 1, checkpoint.step
    job.state.went_bad_at = state.step
    job.state.rate_factor = factor = state.rate_factor * ROLLBACK_FACTOR
    text = f"back to step {checkpoint.step:,}, with {factor:g} times the learning rate: {what}"
    yield Notice("critical", text, step=state.step + 1)  # no line to change: the factor is kept in the checkpoints
    yield Resumed(checkpoint.step, str(checkpoint.path), list(checkpoint.passed_over))


def go_on_from(job: Job, checkpoint: Checkpoint) -> list[str]:
    """Put the run back to a checkpoint; those of later steps are set aside, as they are not of its past any more.

    Returns:
        Names of those, on rank 0.

    Raises:
        CheckpointError: E-CKPT-004 when the tensors do not fit.
    """
    job.state = restore(checkpoint, job.model, job.optimizer)
    abandoned = only_on_rank_0(lambda: abandon_after(job.output_dir, checkpoint.step))
    if job.state.best_step and not path_of(job.output_dir, job.state.best_step).is_dir():
        job.state.best_loss = job.state.best_step = None  # a better one came later
    return abandoned or []


def places(job: Job, step: int) -> list[str]:
    """Where the rows of a step come from; 0 for the first step."""
    rows, plan = job.data.train, job.plan
    numbers = step_rows(len(rows), plan.examples_per_step, plan.config.training.seed, step)
    return [str(getattr(rows.members(number)[0], "place", number)) for number in numbers[:_MOST_PLACES]]


def in_short(places: list[str]) -> str:
    """The first few places, each file named once, and how many more there are."""
    words = []
    for place, previous in zip(places[:_SHOWN_PLACES], ["", *places], strict=False):
        file, colon, line = place.rpartition(":")
        words.append(line if colon and previous.rpartition(":")[0] == file else place)
    more = len(places) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")
