"""Luthier from Python: the rooms wired together, without a screen.

    for event in luthier.train("configs/training_config.yaml"):
        ...
    model = luthier.load("checkpoints")
    print(model.generate("Write a function that reverses a string"))

The command line calls these same functions and adds the screen.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from luthier.config.load import Loaded, from_dict
from luthier.config.load import load as load_config_file
from luthier.config.outputs import EVENTS
from luthier.config.plan import MachineFacts, Plan
from luthier.config.render import plan_as_dict
from luthier.config.resolve import resolve
from luthier.config.schema import Config
from luthier.data.prepare import Progress
from luthier.data.sources import unopened
from luthier.errors import CheckpointError, ConfigError, LuthierError, Problem
from luthier.evaluate.simple import compare, score
from luthier.events.sinks import Named, Sinks, open_sinks
from luthier.events.types import Checked, Event, MemoryForecast, Notice, Resumed, RunFinished, RunStarted
from luthier.gate.gate import BY_NAME, as_events, examine, known_checks, refuse_failed, with_verdict
from luthier.generate.load import Tuned, load
from luthier.ingredients import Ingredients, ingredients
from luthier.machine import ranks, worker
from luthier.machine.cards import as_if
from luthier.machine.gradients import copy_from_rank_0
from luthier.machine.libraries import library_output_to
from luthier.machine.probe import probe
from luthier.machine.seed import seed_everything
from luthier.model.architecture import describe_modules
from luthier.model.describe import describe
from luthier.model.forward import lean_of
from luthier.model.hashes import base_hashes
from luthier.model.hub import load_config
from luthier.model.load import load_model, prove_packing, what_failed
from luthier.training.alike import hashing, require_one_base, require_one_folder
from luthier.training.at_exit import closed_at_exit
from luthier.training.background import awaited, in_background, started
from luthier.training.checkpoint import Checkpoint, find_checkpoint, read_by_all
from luthier.training.engine import go_on_from
from luthier.training.engine import run as run_engine
from luthier.training.failures import ended_by, named_failures, traced_failures
from luthier.training.folder import begun_near, open_folder
from luthier.training.identity import check_identity, identity
from luthier.training.job import Job
from luthier.training.milestones import already_done
from luthier.training.optimizer import build_optimizer
from luthier.training.record import RunRecord, differences, start_record
from luthier.training.reference import ask_reference
from luthier.training.rehearsal import rehearse
from luthier.training.watchdog import STACKS

__all__ = ["Tuned", "compare", "load", "plan", "score", "train"]

ConfigLike = str | Path | Mapping[str, Any] | Loaded


def plan(
    config: ConfigLike, overrides: Sequence[str] = (), card: str | None = None
) -> tuple[Plan, tuple[Problem, ...]]:
    """What a run would do, without doing it.

    Args:
        config: Path of a YAML, or a dict with the same keys.
        overrides: `key=value` strings, dotted or bare where unique.
        card: A GPU to predict the plan for, which need not be here: `H200`, `L40S`, `4090`, `T4` ...

    Returns:
        The plan, and what is in the way of carrying it out. Numbers that cannot be known then are 0. For a
        record, what differs from it: a warning, or where a run would be refused a problem (E-RUN-020).

    Raises:
        ConfigError: The request itself is wrong.
    """
    loaded, machine = _loaded(config, overrides), probe()
    if card is not None:  # a record's passes are those of its machine
        loaded, machine = replace(loaded, record=None), as_if(card, machine)
    try:
        parts = gathered(loaded, machine)
        return _compared(parts, loaded) if loaded.record else (parts.plan, ())
    except LuthierError as error:
        return _as_far_as_it_goes(loaded, machine, error.problems)


def _as_far_as_it_goes(
    loaded: Loaded, machine: MachineFacts, problems: tuple[Problem, ...]
) -> tuple[Plan, tuple[Problem, ...]]:
    """The plan without what is in the way. Where that is the model, the datasets are looked for, too."""
    early = resolve(loaded, machine, None, None)
    try:
        with library_output_to(Path(os.devnull)):
            facts = describe(early.config, load_config(early.config.model))
        return resolve(loaded, machine, facts, None), problems
    except ConfigError:
        return early, problems
    except LuthierError:
        return early, (*problems, *unopened(early.config.data, Path.cwd()))


def gathered(config: ConfigLike, machine: MachineFacts | None = None) -> Ingredients:
    """Tokenizer, rows and plan of a run that is only looked at, on this box or another.

    Raises:
        LuthierError: The request is wrong, or something is missing on this machine.
    """
    loaded = _loaded(config, ())
    with library_output_to(Path(os.devnull)):
        return ingredients(loaded, resolve(loaded, machine or probe(), None, None), None)


def checked(parts: Ingredients, allow: Sequence[str] = ()) -> tuple[Checked, ...]:
    """What the gate finds.

    Args:
        parts: What the run is made of.
        allow: Names of checks that may fail.

    Raises:
        ConfigError: E-GATE-002, no check has that name.
    """
    with library_output_to(Path(os.devnull)):
        return examine(parts.subject, known_checks(allow))


def _compared(parts: Ingredients, loaded: Loaded) -> tuple[Plan, tuple[Problem, ...]]:
    """A plan that repeats a run, with what is not as in its record."""
    record = start_record(parts.plan, parts.data, loaded, allow_changes=True)
    record.facts["inputs"]["base"] = base_hashes(parts.plan.config.model)
    assert loaded.record is not None
    said, refused = differences(loaded.record, record.facts)
    return replace(parts.plan, warnings=(*parts.plan.warnings, *said)), tuple(refused)


def train(
    config: ConfigLike,
    overrides: Sequence[str] = (),
    *,
    resume: str | Path | bool | None = None,
    overwrite: bool = False,
    allow_changes: bool = False,
    allow: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Train as the config says, writing files under `training.output_dir`; yields each event.

    Nothing is trained until the events are read: `for event in luthier.train(...)`, or `list(luthier.train(...))`.

    Args:
        config: Path of a YAML, or a dict with the same keys.
        overrides: `key=value` strings, dotted or bare where unique.
        resume: ``auto`` (or True) or a checkpoint's folder; default: `checkpointing.resume_from_checkpoint`.
        overwrite: Move an earlier run in the same folder aside.
        allow_changes: Resume although data or settings changed since the checkpoint.
        allow: Checks of the gate whose failure is taken on purpose, by name (``rows-cut``); written into the record.
        stop: Polled at every step; True saves and ends the run, resumable.

    Raises:
        LuthierError: One of its kinds, for everything that a user can cause; what is wrong with the request at once.
    """
    loaded = _loaded(config, overrides)
    recorded = loaded.record.facts.get("allowed", []) if loaded.record else []
    allowed = known_checks(allow) | BY_NAME.keys() & {*recorded}  # another version may have had other checks
    return _train(loaded, allowed, _wanted(resume), overwrite, allow_changes, stop)


@closed_at_exit
def _train(
    loaded: Loaded,
    allowed: frozenset[str],
    resume: str | None,
    overwrite: bool,
    allow_changes: bool,
    stop: Callable[[], bool],
) -> Generator[Event, None, None]:
    """See `train`."""
    ranks.use_own_device()  # before anything looks at one
    early = resolve(loaded, probe(), None, None)  # impossible requests fail before anything is fetched
    output_dir = Path(early.config.training.output_dir).expanduser()
    wanted = resume or early.config.checkpointing.resume_from_checkpoint
    with ExitStack() as stack:
        hang_seconds, stacks = early.config.training.hang_seconds, output_dir / ranks.of_rank(STACKS)
        stack.enter_context(ranks.connected(hang_seconds, stacks))
        wanted, overwrite = _asked_of_all(wanted, overwrite)
        folder = open_folder(output_dir, resume=wanted is not None, overwrite=overwrite)
        moved = ranks.only_on_rank_0(lambda: stack.enter_context(folder))
        require_one_folder(output_dir)
        worker.begin()
        stack.enter_context(traced_failures(output_dir))
        stack.enter_context(library_output_to(output_dir / ranks.of_rank("library.log")))
        checkpoint = None
        if wanted:

            def find(_: Progress) -> Checkpoint | None:
                return read_by_all(lambda: find_checkpoint(output_dir, wanted))

            checkpoint = yield from in_background(find, stop)
        if loaded.record:
            yield Notice("info", f"the run that {loaded.record.path} records, once more, into {output_dir}")
        if moved:
            yield Notice("info", f"the earlier run was moved to {moved}")
        if wanted and not checkpoint:
            yield _fresh_start(output_dir)
        yield Notice("info", "reading the model's configuration and the rows")
        hash_base = hashing(early.config.model)
        is_here = Path(early.config.model.model_name_or_path).expanduser().is_dir()
        hashes = started(hash_base if is_here else dict)  # the hub's newest is known once it is loaded
        parts = yield from in_background(lambda say: ingredients(loaded, early, checkpoint, say), stop)
        now = identity(parts.plan)
        notices = check_identity(checkpoint.identity, now, str(checkpoint.path), allow_changes) if checkpoint else []
        if checkpoint and not notices and (ended := ranks.of_rank_0(already_done(parts.plan, output_dir, checkpoint))):
            yield Notice("info", f"this run is already done: nothing is left to train after step {ended.step:,}")
            yield ended
            return
        earlier = output_dir if checkpoint else None
        record = start_record(
            parts.plan, parts.data, loaded, allow_changes=allow_changes, earlier=earlier, resumed_with=notices
        )
        notices += record.compare()
        settings = parts.plan.config.logging
        logging_dir = Path(settings.logging_dir or output_dir / "logs")
        attempt = secrets.token_hex(4)
        named = Named(settings.run_name or _telling_name(output_dir), settings.project)
        sinks = Sinks() if ranks.rank() else open_sinks(settings.report_to, output_dir, logging_dir, named, attempt)
        stack.enter_context(sinks)
        decided = _Decided(parts, output_dir, attempt, checkpoint, now, allowed, stop, record, hash_base, hashes)
        yield from _recorded(_events(decided, notices), sinks)


def _fresh_start(output_dir: Path) -> Notice:
    """What to say where `auto` finds nothing to go on from."""
    text = f"no checkpoint in {output_dir}: starting at step 0"
    if not (near := begun_near(output_dir)):
        return Notice("info", text)
    names = ", ".join(map(str, near[:3])) + ", ..." * (len(near) > 3)
    return Notice("warning", f"{text}. Runs near it that have not ended: {names}", f"training.output_dir: {near[0]}")


def _asked_of_all(wanted: str | None, overwrite: bool) -> tuple[str | None, bool]:
    """What to resume, and whether to overwrite, on all ranks: when one was started again (`auto`), all go on."""
    asked = ranks.of_all_ranks((wanted, overwrite))
    folders = [each for each, _ in asked if each]
    return "auto" if "auto" in folders else next(iter(folders), None), all(each for _, each in asked)


def _recorded(events: Iterator[Event], sinks: Sinks) -> Iterator[Event]:
    """Hand each event to the sinks before the caller sees it; a failure is an event too."""
    last: Event | None = None
    try:
        for event in events:
            last = event
            sinks.write(event)
            yield event
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(last, RunFinished):
            sinks.write(ended_by(error, getattr(last, "step", 0) or 0))
        raise


@dataclass(frozen=True)
class _Decided:
    """A run that is decided and not yet loaded."""

    parts: Ingredients
    output_dir: Path
    attempt: str
    checkpoint: Checkpoint | None
    identity: dict[str, Any]
    allowed: frozenset[str]
    stop: Callable[[], bool]
    record: RunRecord
    hash_base: Callable[[], dict[str, str]]
    base_hashes: Future[dict[str, str]]


def _telling_name(output_dir: Path) -> str | None:
    """The folder's name, unless all runs have it whose folder nobody named."""
    return output_dir.name if output_dir.name != Config().training.output_dir else None


def _events(decided: _Decided, notices: Sequence[str]) -> Iterator[Event]:
    """Everything that a run says, from the plan to the last line."""
    parts, output_dir, checkpoint = decided.parts, decided.output_dir, decided.checkpoint
    resolved = parts.plan
    checks = yield from in_background(
        lambda _: ranks.only_on_rank_0(lambda: examine(parts.subject, decided.allowed)) or (), decided.stop
    )
    decided.record.facts["allowed"] = [check.name for check in with_verdict("allowed", checks)]
    first_step = checkpoint.step if checkpoint else 0
    epochs = resolved.total_steps / resolved.steps_per_epoch
    events = f"{output_dir / EVENTS}#{decided.attempt}"
    name = resolved.config.logging.run_name or output_dir.name
    yield RunStarted(name, resolved.total_steps, first_step, epochs, plan_as_dict(resolved), record=events)
    if (memory := resolved.memory) is not None:
        parts_gib = {part.name: part.gib for part in memory.parts}
        yield MemoryForecast(memory.gib, parts_gib, memory.moment, memory.tokens, memory.room_gib)
    yield from (Notice("warning", text) for text in (*resolved.warnings, *notices))
    yield from (Notice("info", line) for line in parts.data.report.lines())
    yield from as_events(checks)
    ranks.all_or_none(lambda: refuse_failed(checks))
    seed_everything(resolved.config.training.seed)
    yield Notice("info", f"loading {resolved.config.model.model_name_or_path}")
    with named_failures(lambda: resolved):
        if not checkpoint:  # one that goes on keeps its record until the base is known to be the same
            decided.record.write(output_dir)
        model = yield from in_background(
            lambda _: ranks.all_or_none(lambda: load_model(resolved, parts.model_config)), decided.stop
        )
        if resolved.sharded:  # the adapter began with the same random numbers everywhere
            ranks.in_step(lambda: prove_packing(model, resolved))
        else:
            copy_from_rank_0(p for p in model.parameters() if p.requires_grad)
        if ranks.rank():
            torch.manual_seed(resolved.config.training.seed + ranks.rank())  # each rank drops out something else
        job = Job(
            plan=resolved,
            data=parts.data,
            model=model,
            tokenizer=parts.tokenizer,
            optimizer=build_optimizer(model, resolved),
            output_dir=output_dir,
            identity=decided.identity,
            stop_asked=decided.stop,
            largest=parts.largest,
            remember=lambda plan, step: decided.record.lowered(plan, step, output_dir),
        )
        yield describe_modules(model)
        yield from _base_recorded(decided, lean_of(model) is not None)
        for text, instead in what_failed(model, resolved):
            yield Notice("warning", text, instead)
        yield from ask_reference(job)  # the model is as it was before step 1
        if checkpoint:
            if abandoned := go_on_from(job, checkpoint):
                yield Notice("info", f"kept as abandoned-..., as the run goes on before them: {', '.join(abandoned)}")
            yield Resumed(checkpoint.step, str(checkpoint.path), list(checkpoint.passed_over))
    with named_failures(lambda: job.plan):
        yield from rehearse(job)
        yield from run_engine(job)


def _base_recorded(decided: _Decided, lean_path: bool) -> Generator[Notice, None, None]:
    """Complete the record when the base model is there, and say what is not as in the record that is repeated."""
    hashes = yield from awaited(decided.base_hashes, ["hashing the files of the base model"], decided.stop)
    hashes = require_one_base(hashes or decided.hash_base())
    yield from (Notice("warning", text) for text in decided.record.with_base(hashes, lean_path, decided.checkpoint))
    decided.identity["base"] = hashes
    decided.record.write(decided.output_dir)
    if said := decided.record.promise():
        yield Notice("info", said)


def _wanted(resume: Any) -> str | None:
    """What to resume, as the command line says it."""
    if resume is True:
        return "auto"
    if not isinstance(resume, str | Path | bool | None):
        found = f"resume is {resume!r}"
        raise CheckpointError(Problem("E-CKPT-001", found, "write resume='auto', or the folder of a checkpoint"))
    return str(resume) if resume else None


def _require(config: Any, overrides: Any) -> None:
    """What types say, for those who have no type checker.

    Raises:
        ConfigError: E-CFG-001 or E-CFG-014.
    """
    if not isinstance(config, str | Path | Mapping | Loaded):
        found = f"the config is {config!r:.80}"
        raise ConfigError(Problem("E-CFG-001", found, "give the path of a YAML, or a dict of its sections"))
    if isinstance(overrides, Mapping) or not all(isinstance(each, str) for each in overrides):
        found, fix = f"the overrides are {overrides!r:.80}", 'give a list of texts: ["learning_rate=1e-4", "lora.r=32"]'
        raise ConfigError(Problem("E-CFG-014", found, fix))


def _loaded(config: ConfigLike, overrides: Sequence[str]) -> Loaded:
    _require(config, overrides)
    if isinstance(config, Loaded):
        return config
    if isinstance(config, Mapping):
        return from_dict(config, overrides)
    return load_config_file(config, overrides)
