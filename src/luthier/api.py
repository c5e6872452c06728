"""Luthier from Python: the rooms wired together, without a screen.

    for event in luthier.train("configs/training_config.yaml"):
        ...
    model = luthier.load("checkpoints")
    print(model.generate("Write a function that reverses a string"))

The command line calls these same functions and adds the screen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from luthier.config.load import Loaded, from_dict
from luthier.config.load import load as load_config_file
from luthier.config.plan import Memory, Plan
from luthier.config.render import dump_plan_yaml, plan_as_dict
from luthier.config.resolve import resolve
from luthier.data.largest import find_largest
from luthier.data.prepare import Prepared, Progress, prepare
from luthier.errors import LuthierError, Problem
from luthier.events.sinks import Sinks, open_sinks
from luthier.events.types import Event, MemoryForecast, Notice, Resumed, RunFinished, RunStarted
from luthier.generate.load import Tuned, load
from luthier.machine.libraries import library_output_to
from luthier.machine.probe import probe, resident_gib
from luthier.machine.ranks import rank, require_one_process, world_size
from luthier.machine.record import surroundings
from luthier.machine.seed import seed_everything
from luthier.model.architecture import describe_modules
from luthier.model.budget import plan_passes
from luthier.model.describe import describe
from luthier.model.forward import LEAN
from luthier.model.hub import load_config, load_tokenizer
from luthier.model.load import load_model
from luthier.model.memory import forecast
from luthier.training.checkpoint import Checkpoint, find_checkpoint, restore
from luthier.training.engine import Run
from luthier.training.engine import run as run_engine
from luthier.training.failures import named_failures
from luthier.training.folder import open_folder
from luthier.training.identity import check_identity, identity
from luthier.training.optimizer import build_optimizer
from luthier.training.rehearsal import rehearse

__all__ = ["Tuned", "load", "plan", "train"]

_T = TypeVar("_T")
SAY_EVERY_SECONDS = 5.0
ConfigLike = str | Path | Mapping[str, Any] | Loaded


@dataclass(frozen=True)
class Ingredients:
    """What a plan is made from, for those who go on to use it."""

    plan: Plan
    model_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    data: Prepared


def plan(config: ConfigLike, overrides: Sequence[str] = ()) -> tuple[Plan, tuple[Problem, ...]]:
    """What a run would do, without doing it.

    Args:
        config: Path of a YAML, or a dict with the same keys.
        overrides: `key=value` strings, dotted or bare where unique.

    Returns:
        The plan, and what is missing on this machine to carry it out. Numbers that need the missing part are 0.

    Raises:
        ConfigError: The request itself is wrong.
    """
    loaded = _loaded(config, overrides)
    machine = probe()
    first = resolve(loaded, machine, None, None)
    try:
        with library_output_to(Path(os.devnull)):
            return ingredients(loaded, first, None).plan, ()
    except LuthierError as error:
        return first, error.problems


def train(
    config: ConfigLike,
    overrides: Sequence[str] = (),
    *,
    resume: str | None = None,
    overwrite: bool = False,
    allow_changes: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train as the config says, writing files under `training.output_dir`; yields each event.

    Args:
        config: Path of a YAML, or a dict with the same keys.
        overrides: `key=value` strings, dotted or bare where unique.
        resume: ``auto`` or a checkpoint's folder; default: `checkpointing.resume_from_checkpoint`.
        overwrite: Move an earlier run in the same folder aside.
        allow_changes: Resume although data or settings changed since the checkpoint.
        stop: Polled at every step; True saves and ends the run, resumable.

    Raises:
        LuthierError: One of its kinds, for everything that a user can cause.
    """
    loaded = _loaded(config, overrides)
    require_one_process()
    early = resolve(loaded, probe(), None, None)  # impossible requests fail before anything is fetched
    output_dir = Path(early.config.training.output_dir).expanduser()
    wanted = resume or early.config.checkpointing.resume_from_checkpoint
    with ExitStack() as stack:
        moved = stack.enter_context(open_folder(output_dir, resume=wanted is not None, overwrite=overwrite))
        stack.enter_context(library_output_to(output_dir / "library.log"))
        checkpoint = find_checkpoint(output_dir, wanted) if wanted else None
        if moved:
            yield Notice("info", f"the earlier run was moved to {moved}")
        if wanted and not checkpoint:
            yield Notice("info", f"no checkpoint in {output_dir} yet: starting at step 0")
        yield Notice("info", "reading the model's configuration and the rows")
        parts = yield from _in_background(lambda say: ingredients(loaded, early, checkpoint, say), stop)
        now = identity(parts.plan)
        notices = check_identity(checkpoint.identity, now, str(checkpoint.path), allow_changes) if checkpoint else []
        settings = parts.plan.config.logging
        logging_dir = Path(settings.logging_dir or output_dir / "logs")
        sinks = stack.enter_context(open_sinks(settings.report_to, output_dir, logging_dir, output_dir.name))
        job = _Job(parts, output_dir, checkpoint, now, stop)
        yield from _recorded(_events(job, notices), sinks)


def _recorded(events: Iterator[Event], sinks: Sinks) -> Iterator[Event]:
    """Hand each event to the sinks before the caller sees it; a failure is an event too."""
    last: Event | None = None
    try:
        for event in events:
            last = event
            sinks.write(event)
            yield event
    except LuthierError as error:
        reason = "; ".join(problem.found for problem in error.problems)
        if not isinstance(last, RunFinished):
            step = getattr(last, "step", 0) or 0
            sinks.write(RunFinished("failed", step, 0.0, float("nan"), 0.0, 0, 0.0, "", reason))
        raise


@dataclass(frozen=True)
class _Job:
    """A run that is decided and not yet loaded."""

    parts: Ingredients
    output_dir: Path
    checkpoint: Checkpoint | None
    identity: dict[str, Any]
    stop: Callable[[], bool]


def _events(job: _Job, notices: Sequence[str]) -> Iterator[Event]:
    """Everything that a run says, from the plan to the last line."""
    parts, output_dir, checkpoint = job.parts, job.output_dir, job.checkpoint
    resolved = parts.plan
    if rank() == 0:
        text = dump_plan_yaml(resolved, {"surroundings": surroundings(), "data": parts.data.fingerprint})
        with named_failures(resolved):
            (output_dir / "plan.yaml").write_text(text, encoding="utf-8")
    first_step = checkpoint.step if checkpoint else 0
    epochs = resolved.total_steps / resolved.steps_per_epoch
    yield RunStarted(output_dir.name, resolved.total_steps, first_step, epochs, plan_as_dict(resolved))
    if (memory := resolved.memory) is not None:
        parts_gib = {part.name: part.gib for part in memory.parts}
        yield MemoryForecast(memory.gib, parts_gib, memory.moment, memory.tokens, memory.room_gib)
    yield from (Notice("warning", text) for text in (*resolved.warnings, *notices))
    yield from (Notice("info", line) for line in parts.data.report.lines())
    yield from (Notice("warning", text, change) for text, change in parts.data.report.warnings())
    seed_everything(resolved.config.training.seed)
    yield Notice("info", f"loading {resolved.config.model.model_name_or_path}")
    with named_failures(resolved):
        model = load_model(resolved, parts.model_config)
        run = Run(
            plan=resolved,
            data=parts.data,
            model=model,
            tokenizer=parts.tokenizer,
            optimizer=build_optimizer(model, resolved),
            output_dir=output_dir,
            identity=job.identity,
            stop=job.stop,
        )
        yield describe_modules(model)
        if resolved.config.training.lean_path and not hasattr(model, LEAN):
            text = "the lean path does not give this model's numbers up to rounding; its own layers train (E-MODEL-014)"
            yield Notice("warning", text, "training.lean_path: false")
        if checkpoint:
            run.state = restore(checkpoint, model, run.optimizer)
            yield Resumed(checkpoint.step, str(checkpoint.path), list(checkpoint.passed_over))
        yield from rehearse(run)
        yield from run_engine(run)


def _in_background(work: Callable[[Progress], _T], stop: Callable[[], bool]) -> Generator[Notice, None, _T]:
    """Do something long in a thread; says every few seconds how far it is.

    Raises:
        KeyboardInterrupt: A stop was asked for; there is nothing to save yet.
    """
    latest: list[str] = []
    result: Future[_T] = Future()

    def run() -> None:
        try:
            result.set_result(work(lambda what, rows: latest.append(f"{what}: {rows:,} rows")))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="luthier-prepare", daemon=True).start()
    said_at = time.monotonic()
    while not wait([result], timeout=0.2).done:
        if stop():
            raise KeyboardInterrupt
        if latest and time.monotonic() - said_at > SAY_EVERY_SECONDS:
            yield Notice("info", latest[-1])
            latest.clear()
            said_at = time.monotonic()
    return result.result()


def ingredients(
    loaded: Loaded, early: Plan, checkpoint: Checkpoint | None, progress: Progress | None = None
) -> Ingredients:
    """Tokenizer, rows and the plan; no weights yet."""
    config = early.config
    model_config = load_config(config.model)
    tokenizer = load_tokenizer(config.model, model_config)
    model_facts = describe(config, model_config)
    data = prepare(config, tokenizer, progress=progress)
    facts = data.facts
    # the same micro-batches as before add up in the same order, bit for bit
    before = int(checkpoint.identity["max_tokens_per_micro_batch"]) if checkpoint else None
    passes = plan_passes(loaded.config, model_config, model_facts, early.machine, facts, before)
    if checkpoint:
        passes = replace(passes, how=f"{passes.micro_batch_tokens:,} tokens, as in {checkpoint.path.name}")
    resolved = resolve(loaded, early.machine, model_facts, facts, passes=passes)
    resolved = replace(resolved, memory=_memory(resolved, model_config, data))
    return Ingredients(resolved, model_config, tokenizer, data)


def _memory(resolved: Plan, model_config: PretrainedConfig, data: Prepared) -> Memory:
    """What the run will hold: measured is the process as it is now, before the model."""
    largest = find_largest(data.train, data.eval, resolved, rank(), world_size())
    return forecast(
        resolved,
        model_config,
        process_gib=resident_gib(),
        free_gib=probe().free_memory_gib,
        tokens=largest.tokens,
        passes=largest.most_passes,
        row_tokens=largest.usual_row_tokens,
    )


def _loaded(config: ConfigLike, overrides: Sequence[str]) -> Loaded:
    if isinstance(config, Loaded):
        return config
    if isinstance(config, Mapping):
        return from_dict(config, overrides)
    return load_config_file(config, overrides)
