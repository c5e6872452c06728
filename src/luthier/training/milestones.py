"""What happens between two steps, in this order: a log line, an evaluation, a checkpoint, samples; and the end.

Each knows from `TrainState` whether it was done at this step. So a run that was stopped in the middle of them does the
rest after its resume, and equals the run that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from luthier.config.outputs import EVENTS, FINAL
from luthier.config.plan import Plan
from luthier.data.collate import MicroBatch
from luthier.data.loader import evaluation_batches
from luthier.events.read import read
from luthier.events.types import Evaluated, Event, Log, Machine, Notice, RunFinished, Timing
from luthier.machine.probe import peak_memory_gib
from luthier.machine.ranks import (
    all_or_none,
    of_all_ranks,
    of_rank_0,
    on_any_rank,
    only_on_rank_0,
    rank,
    together,
    world_size,
)
from luthier.machine.shards import on_rank_0_with
from luthier.model.store import load_trained, trained
from luthier.training.checkpoint import Checkpoint
from luthier.training.final import best_checkpoint, save_final
from luthier.training.instruments import PHASES
from luthier.training.job import Job
from luthier.training.objective import Counted, Rewards, rewards
from luthier.training.samples import sample
from luthier.training.saving import arrived, is_due, landed, save, saves_now
from luthier.training.state import TrainState
from luthier.training.step import evaluate

Ending = Literal["", "done", "stopped", "early"]
"""Why a run ends: all steps are done, a stop was asked for, evaluations no longer improve. Empty: it goes on."""


def between_steps(job: Job) -> Iterator[Event]:
    """Everything that is due after the step just done; at step 0, what comes before the first one.

    After a step that was left out nothing is, unless it is the last: no weight has moved, and a checkpoint of before it
    is what one may want to go back to.
    """
    state, plan = job.state, job.plan
    yield from arrived(job)
    if state.bad_in_a_row and not why_it_ends(job):
        return
    # the first step is logged too: it shows that the run is alive, and where the loss begins; the last, where it ends
    if state.log_steps and state.step in plan.logs:
        yield from log(job)
    if state.step in plan.evaluations:
        yield from evaluation(job)
    ending = why_it_ends(job)
    if saves_now(job, ending):
        yield from save(job, ending)
    if not job.abandoned and (state.step in plan.samples or why_it_ends(job) == "early"):
        yield from sample(job)


def is_last(job: Job) -> bool:
    """Whether the step just done was the plan's last."""
    return job.state.step >= job.plan.total_steps


def follows_at_once(job: Job) -> bool:
    """Whether nothing that takes time is due between the step at work and the next one; see `between_steps`."""
    step, plan = job.state.step + 1, job.plan
    due_then = step in plan.evaluations or is_due(job, step) or step in plan.samples
    return not (due_then or step >= plan.total_steps or job.should_stop())


def why_it_ends(job: Job) -> Ending:
    """See `Ending`."""
    if job.abandoned:
        return "stopped"
    if is_last(job):
        return "done"
    return "stopped" if job.should_stop() else "early" if out_of_patience(job.plan, job.state) else ""


def out_of_patience(plan: Plan, state: TrainState) -> bool:
    """Early stopping: too many evaluations in a row without a better loss."""
    patience = plan.config.evaluation.early_stopping_patience
    return patience is not None and state.evaluations_without_gain >= patience


def already_done(plan: Plan, output_dir: Path, checkpoint: Checkpoint) -> RunFinished | None:
    """How the run ended of which a checkpoint is the last one; None where there is something left to do."""
    state = TrainState.from_dict(checkpoint.state)
    if state.step < plan.total_steps and not out_of_patience(plan, state):
        return None
    if not (output_dir / FINAL).is_dir() or not (output_dir / EVENTS).is_file():
        return None
    ends = [event for event, _ in read(output_dir / EVENTS) if isinstance(event, RunFinished)]
    return ends[-1] if ends and (ends[-1].status, ends[-1].step) == ("done", state.step) else None


def epoch(job: Job) -> float:
    """Epochs done, as a fraction."""
    return job.state.step / job.plan.steps_per_epoch


def log(job: Job) -> Iterator[Log | Timing | Machine]:
    """What there is to say of the steps since the last log line: the numbers, their seconds, the box."""
    yield log_line(job)
    yield with_ranks(job, job.watch.timing(job.state.step))
    yield from job.reader.machine(job.state.step)


def with_ranks(job: Job, timing: Timing) -> Timing:
    """The timing of rank 0, with what each rank took for its own work and holds."""
    if not together():
        return timing
    phases = [getattr(timing, f"{phase}_seconds") for phase in PHASES if phase != "ranks"]
    memory = peak_memory_gib(next(job.model.parameters()).device)
    seconds, gib = zip(*of_all_ranks((sum(phases), memory)), strict=True)
    own = [] if job.plan.sharded else list(seconds)  # there they wait for each other inside of every pass
    return replace(timing, own_seconds=own, own_memory_gib=list(gib))


def log_line(job: Job) -> Log:
    """The mean of the steps since the last log line, those that were left out aside."""
    state = job.state
    seconds = max(state.log_seconds, 1e-9)
    event = Log(
        step=state.step,
        epoch=epoch(job),
        loss=(state.log_sums or [0.0])[0] / max(1, state.log_losses),
        grad_norm=state.grad_norm,
        learning_rate=job.learning_rate(state.step - 1),
        num_tokens=state.num_tokens,
        tokens_per_second=state.log_num_tokens / seconds,
        trained_tokens_per_second=state.log_trained_tokens / seconds,
        step_seconds=seconds / state.log_steps,
        memory_gib=peak_memory_gib(next(job.model.parameters()).device),
        remaining_seconds=job.ahead.remaining(state.step),
        **_told(rewards(state.log_sums, state.log_losses)),
    )
    state.start_log_interval()
    return event


def _told(found: Rewards | None) -> dict[str, float]:
    """Rewards as an event has them; none of an objective without."""
    if found is None:
        return {}
    return {
        "reward_chosen": found.chosen,
        "reward_rejected": found.rejected,
        "reward_margin": found.margin,
        "reward_accuracy": found.accuracy,
    }


def evaluation(job: Job) -> Iterator[Event]:
    """Mean loss of the held-out rows; a new best one is saved at once when the best model is wanted."""
    state, settings = job.state, job.plan.config.evaluation
    if job.data.eval is None or state.last_eval_step == state.step:
        return
    started = time.monotonic()
    sums, counted = yield from job.within_memory(
        lambda tried: held_out_loss(job, tried), state.step, "the evaluation after step"
    )
    yield from job.watchdog.said()
    if job.abandoned:
        return
    loss = sums[0] / max(1, counted.losses)
    best = math.isfinite(loss) and (state.best_loss is None or loss < state.best_loss)
    if best:
        state.best_loss, state.best_step = loss, state.step
    if best and (state.patience_loss is None or loss < state.patience_loss - settings.early_stopping_threshold):
        state.patience_loss, state.evaluations_without_gain = loss, 0
    else:
        state.evaluations_without_gain += 1
    state.last_eval_step = state.step
    seconds = time.monotonic() - started
    job.ahead.took("evaluation", seconds)
    told = _told(rewards(sums, counted.losses))
    yield Evaluated(state.step, epoch(job), loss, counted.trained_tokens, seconds, best, **told)
    if best and settings.load_best_model_at_end:
        yield from save(job, why_it_ends(job))


def held_out_loss(job: Job, tried: list[MicroBatch]) -> tuple[list[float], Counted]:
    """The objective's sums and what they went over; `tried` holds the batch at work. A stop abandons it."""
    assert job.data.eval is not None

    def until_stopped(batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        for batch in batches:
            if job.stop_asked():
                job.abandoned = True
                return
            tried[:] = [batch]
            yield batch

    with job.watchdog.watching("an evaluation", job.state.step):
        batches = until_stopped(evaluation_batches(job.data.eval, job.plan, rank(), world_size()))
        found = evaluate(job.model, batches, job.plan, job.reference.eval_P2)
        job.agree()  # a rank that was stopped has left the rest of its rows out
        return found


def finish(job: Job, ending: Ending) -> Iterator[Event]:
    """Write final_model unless a stop was asked for, and say how the run ended."""
    state = job.state
    waits = on_any_rank(rank() == 0 and job.saving.waits)  # each has a clock of its own
    if state.step and not (ending != "stopped" and waits):
        yield from save(job, ending)  # where a stop came after this was looked at
    yield from landed(job, ending)
    final, reason = "", "stop requested; go on with --resume auto (from Python: resume='auto')"
    if ending != "stopped":
        reason = "early stopping: eval_loss no longer falls" if ending == "early" else ""
        with job.watchdog.watching("writing final_model", state.step):
            note = _final(job)
        final = str(job.output_dir / FINAL)
        if note:
            yield Notice("info", note, step=state.step)
    if state.skipped_steps:
        yield Notice("warning", f"{state.skipped_steps:,} steps were left out", step=state.step)
    yield RunFinished(
        status="stopped" if ending == "stopped" else "done",
        step=state.step,
        epoch=epoch(job),
        train_loss=state.mean_loss,
        train_runtime=job.clock.runtime_seconds(),
        num_tokens=state.num_tokens,
        peak_memory_gib=peak_memory_gib(next(job.model.parameters()).device),
        final_model=final,
        reason=reason,
        predicted_runtime=job.clock.before_seconds + job.ahead.predicted_seconds,
    )


def _final(job: Job) -> str:
    """Write final_model; returns what there is to say of it."""
    found = only_on_rank_0(lambda: best_checkpoint(job))
    best, note = of_rank_0(found or (None, ""))

    def load() -> None:
        if best:
            load_trained(job.model, best)

    if job.plan.sharded:
        all_or_none(load)
        all_or_none(lambda: on_rank_0_with(trained(job.model), lambda gather: save_final(job, gather)))
    else:
        only_on_rank_0(load)
        only_on_rank_0(lambda: save_final(job))
    return note
