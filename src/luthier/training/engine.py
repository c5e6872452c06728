"""The training loop, as a stream of events.

`run` is a generator: whoever calls it hands each event to the sinks. It owns no screen and no log. What it carries
from step to step is `TrainState`, and that is what a checkpoint holds. Between two `yield`s no mode of torch is left
switched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luthier.config.plan import Plan
from luthier.data.loader import evaluation_batches, training_steps
from luthier.data.order import step_rows
from luthier.data.prepare import Prepared
from luthier.errors import Problem, RunError
from luthier.events.types import Evaluated, Event, Gradients, Log, Machine, Notice, RunFinished, Sampled, Timing
from luthier.machine.probe import peak_memory_gib
from luthier.machine.ranks import rank, world_size
from luthier.model.forward import autocast
from luthier.model.sampling import continue_ids
from luthier.training.ahead import TimeLeft
from luthier.training.checkpoint import save_checkpoint
from luthier.training.cost import CostModel
from luthier.training.final import save_final
from luthier.training.gradients import gradient_flow
from luthier.training.instruments import MachineReader, Stopwatch
from luthier.training.optimizer import gradient_norm
from luthier.training.schedule import learning_rate
from luthier.training.state import TrainState
from luthier.training.step import backward, evaluate, update


class Clock:
    """Wall time of a run over all its attempts: evaluation, saving and waiting included."""

    def __init__(self, runtime_seconds: float) -> None:
        self.before_seconds, self._started = runtime_seconds, time.monotonic()

    def runtime_seconds(self) -> float:
        """Seconds of this attempt and of those before it."""
        return self.before_seconds + time.monotonic() - self._started


@dataclass
class Run:
    """Everything that the loop works with. `stop` is polled; True ends the run after the step, resumable."""

    plan: Plan
    data: Prepared
    model: nn.Module
    tokenizer: Any
    optimizer: torch.optim.Optimizer
    output_dir: Path
    identity: dict[str, Any]
    state: TrainState = field(default_factory=TrainState)
    stop: Callable[[], bool] = lambda: False
    clock: Clock = field(default_factory=lambda: Clock(0.0))
    watch: Stopwatch = field(default_factory=Stopwatch)
    cost: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        self.reader = MachineReader(self.output_dir)
        self.ahead = TimeLeft(self.plan, self.data.train, self.data.eval)


def run(job: Run) -> Iterator[Event]:
    """Train until the plan's last step, early stopping or a stop request; yields what happens.

    Raises:
        RunError: E-RUN-001 when a step is not finite (it is not applied).
    """
    plan, state = job.plan, job.state
    job.clock = Clock(state.runtime_seconds)
    job.ahead.start()
    if state.step == 0:
        yield from sample(job)
    ending = why_it_ends(job)
    steps = training_steps(job.data.train, plan, state.step, rank(), world_size())
    for batches in () if ending else job.watch.fetched(steps):
        yield from optimizer_step(job, batches)
        # the first step is logged too: it shows that the run is alive, and where the loss begins
        if state.step == 1 or due(state.step, plan.config.logging.logging_steps):
            yield from log(job)
        if due(state.step, plan.eval_every) or (is_last(job) and plan.eval_every):
            yield from evaluation(job)
        if state.step in plan.config.evaluation.sample_steps or is_last(job):
            yield from sample(job)
        ending = why_it_ends(job)
        if due(state.step, plan.save_every) or is_last(job) or ending:
            yield from save(job)
        if ending:
            break
    yield from finish(job, ending)


def optimizer_step(job: Run, batches: list[Any]) -> Iterator[Gradients | Notice]:
    """Forward, loss, backward, update."""
    plan, state, lap = job.plan, job.state, job.watch.lap
    loss_sum, trained_tokens, num_tokens = backward(job.model, batches, plan, lap)
    norm = gradient_norm(p for p in job.model.parameters() if p.requires_grad)
    if not (torch.isfinite(norm) and math.isfinite(loss_sum)):
        raise not_finite(job, loss_sum, norm.item())
    flow = None
    if due(state.step + 1, plan.config.logging.histogram_steps):
        lap("optimizer")
        flow = gradient_flow(job.model, state.step + 1)
        lap("other")
    update(job.model, job.optimizer, plan, learning_rate(plan, state.step), norm)
    lap("optimizer")
    state.grad_norm = norm.item()  # the device is done here
    seconds = job.watch.stop()
    state.count(loss_sum, trained_tokens, num_tokens, seconds)
    if flow is not None:
        yield flow
    computed = sum(batch.input_ids_BT.numel() for batch in batches)
    whole = sum(batch.num_tokens for batch in batches)
    if predicted := job.ahead.add(len(batches), whole, seconds, state.step):
        yield predicted
    said = job.cost.add(len(batches), computed, whole, seconds, state.step)
    if said and plan.config.training.auto:
        yield said


def not_finite(job: Run, loss_sum: float, norm: float) -> RunError:
    """E-RUN-001: the step is not applied, and the rows that made it are named."""
    step, training = job.state.step, job.plan.config.training
    rows = step_rows(len(job.data.train), job.plan.examples_per_step, training.seed, step)
    found = f"step {step + 1}: loss {loss_sum:g}, gradient norm {norm:g}; rows {', '.join(map(str, rows))}"
    fix = "write a learning_rate of a third, or dtype: float32; then --resume auto"
    return RunError(Problem("E-RUN-001", found, fix, "training.learning_rate"))


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens after this one; 0 means never."""
    return every > 0 and step % every == 0


def is_last(job: Run) -> bool:
    """Whether the step just done was the plan's last."""
    return job.state.step >= job.plan.total_steps


def why_it_ends(job: Run) -> str:
    """``stopped`` on request, ``early`` when evaluations no longer improve; empty: it does not, or the plan is done."""
    if is_last(job):
        return ""
    return "stopped" if job.stop() else "early" if out_of_patience(job) else ""


def epoch(job: Run) -> float:
    """Epochs done, as a fraction."""
    return job.state.step / job.plan.steps_per_epoch


def log(job: Run) -> Iterator[Log | Timing | Machine]:
    """What there is to say of the steps since the last log line: the numbers, their seconds, the box."""
    yield log_line(job)
    yield job.watch.timing(job.state.step)
    yield from job.reader.machine(job.state.step)


def log_line(job: Run) -> Log:
    """The mean of the steps since the last log line."""
    state, plan = job.state, job.plan
    seconds = max(state.log_seconds, 1e-9)
    event = Log(
        step=state.step,
        epoch=epoch(job),
        loss=state.log_loss_sum / max(1, state.log_trained_tokens),
        grad_norm=state.grad_norm,
        learning_rate=learning_rate(plan, state.step - 1),
        num_tokens=state.num_tokens,
        tokens_per_second=state.log_num_tokens / seconds,
        trained_tokens_per_second=state.log_trained_tokens / seconds,
        step_seconds=seconds / state.log_steps,
        memory_gib=peak_memory_gib(next(job.model.parameters()).device),
        remaining_seconds=job.ahead.remaining(state.step),
    )
    state.start_log_interval()
    return event


def evaluation(job: Run) -> Iterator[Event]:
    """Mean loss of the held-out rows; a new best one is saved at once when the best model is wanted."""
    rows, state, plan = job.data.eval, job.state, job.plan
    if rows is None or state.last_eval_step == state.step:
        return
    started = time.monotonic()
    settings = plan.config.evaluation
    loss_sum, tokens = evaluate(job.model, evaluation_batches(rows, plan, rank(), world_size()), plan)
    loss = loss_sum / max(1, tokens)
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
    yield Evaluated(state.step, epoch(job), loss, tokens, seconds, best)
    if best and settings.load_best_model_at_end:
        yield from save(job)


def out_of_patience(job: Run) -> bool:
    """Early stopping: too many evaluations in a row without a better loss."""
    patience = job.plan.config.evaluation.early_stopping_patience
    return patience is not None and job.state.evaluations_without_gain >= patience


def sample(job: Run) -> Iterator[Sampled]:
    """What the model answers now to the configured prompts (greedy)."""
    settings = job.plan.config.evaluation
    if job.state.step == 0 and 0 not in settings.sample_steps:
        return
    seconds = 0.0
    for prompt in settings.sample_prompts:
        started = time.monotonic()
        stop_ids = job.data.template.stop_ids(job.tokenizer)
        ids = job.data.template.prompt_ids(job.tokenizer, prompt)
        with autocast(job.plan):
            answer = continue_ids(job.model, ids, stop_ids, settings.sample_max_new_tokens)
        seconds += time.monotonic() - started
        yield Sampled(job.state.step, prompt, job.tokenizer.decode(answer))
    job.ahead.took("sampling", seconds)


def save(job: Run) -> Iterator[Event]:
    """Write a checkpoint, once a step."""
    if job.state.saved_step == job.state.step or rank() != 0:
        return
    keep = job.plan.config.checkpointing.save_total_limit
    job.state.saved_step = job.state.step
    job.state.runtime_seconds = job.clock.runtime_seconds()
    saved = save_checkpoint(job.output_dir, job.model, job.optimizer, job.state, job.identity, keep)
    job.ahead.took("saving", saved.seconds)
    yield saved


def finish(job: Run, ending: str) -> Iterator[Event]:
    """Write final_model unless a stop was asked for, and say how the run ended."""
    state = job.state
    final, reason = "", "stop requested; go on with --resume auto"
    if ending != "stopped":
        reason = "early stopping: eval_loss no longer falls" if ending == "early" else ""
    if ending != "stopped" and rank() == 0:
        note = save_final(job.plan, job.data, job.model, job.tokenizer, job.output_dir, state)
        final = str(job.output_dir / "final_model")
        if note:
            yield Notice("info", note, step=state.step)
    yield RunFinished(
        status="stopped" if ending == "stopped" else "done",
        step=state.step,
        epoch=epoch(job),
        train_loss=state.loss_sum / max(1, state.trained_tokens),
        train_runtime=job.clock.runtime_seconds(),
        num_tokens=state.num_tokens,
        peak_memory_gib=peak_memory_gib(next(job.model.parameters()).device),
        final_model=final,
        reason=reason,
        predicted_runtime=job.clock.before_seconds + job.ahead.predicted_seconds,
    )
