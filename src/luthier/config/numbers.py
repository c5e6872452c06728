"""The arithmetic of a run: rows and batches to steps, with each calculation written out.

    examples a step = batch x accumulation x devices, or all rows where there are fewer
    steps           = rows x epochs / examples a step, rounded down, at least 1 (or max_steps)
    warmup          = warmup_steps, or warmup_ratio x steps, rounded up
    decay           = the steps after the warmup (cosine, linear); decay_ratio x steps (wsd)
    evaluation      = eval_steps, or a quarter of an epoch
    saving, logging = save_steps, logging_steps; of all three: a share x steps, or an epoch, rounded up

Of an epoch that is no whole number of steps the end lies within a step; rounded up, that step is done, and the last
epoch ends with the run.

A number that rests on facts which are not there yet is 0 and not known, and its text says what is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from luthier.config.plan import DataFacts
from luthier.config.schema import Config
from luthier.config.tree import number

LEAST_KEPT = 2
"""Whole checkpoints that always stay: one may be damaged later, and is then not the only one."""
REHEARSED_FROM = 60
"""Steps from which a rehearsal, at most four passes with a save, is less than a twentieth of a run."""
_EPS = 1e-9


@dataclass(frozen=True)
class Number:
    """A derived number and its arithmetic; `known` is False while facts that it rests on are missing."""

    value: float
    how: str
    known: bool = True


UNKNOWN_DATA = Number(0.0, "unknown until the rows are counted", known=False)
UNKNOWN_MEMORY = Number(0.0, "unknown until model and rows are read", known=False)


@dataclass(frozen=True)
class Numbers:
    """All derived numbers of a run; see `Plan` for what each means."""

    examples_per_step: Number
    steps_per_epoch: Number
    total_steps: Number
    warmup_steps: Number
    decay_steps: Number
    eval_every: Number
    save_every: Number
    log_every: Number


def wants_evaluation(config: Config) -> bool:
    """Whether the config holds rows out and does not switch evaluation off."""
    has_rows = config.data.eval_split is not None or config.data.val_set_size > 0
    return has_rows and config.evaluation.eval_steps != 0


def derive(config: Config, data: DataFacts | None, world_size: int) -> Numbers:
    """Compute all numbers.

    Args:
        config: May still hold ``auto``.
        data: None when the rows are not counted yet.
        world_size: Number of devices.
    """
    per_step = _examples_per_step(config, data, world_size)
    examples = int(per_step.value)
    per_epoch = _steps_per_epoch(data, examples)
    total = _total(config, data, examples)
    warmup = _warmup(config, int(total.value))
    save, log = config.checkpointing.save_steps, config.logging.logging_steps
    steps, length = int(total.value), per_epoch.value
    return Numbers(
        examples_per_step=per_step,
        steps_per_epoch=per_epoch,
        total_steps=total,
        warmup_steps=warmup,
        decay_steps=_decay(config, steps, int(warmup.value)),
        eval_every=_eval_every(config, data, steps, length),
        save_every=_every(save, steps, length) if save else Number(0, "save_steps: 0"),
        log_every=_every(log, steps, length, ", at step 1 and at the end"),
    )


def _examples_per_step(config: Config, data: DataFacts | None, world_size: int) -> Number:
    t = config.training
    asked = t.per_device_train_batch_size * t.gradient_accumulation_steps * world_size
    devices = "device" if world_size == 1 else "devices"
    how = f"{t.per_device_train_batch_size} x {t.gradient_accumulation_steps} accumulation x {world_size} {devices}"
    if data is None or not 0 < data.train_rows < asked:
        return Number(asked, f"{how} = {asked:,} examples a step")
    there = f"there are {data.train_rows:,}: all {data.unit} in each step"
    return Number(data.train_rows, f"{how} = {asked:,}, and {there}")


def _steps_per_epoch(data: DataFacts | None, examples: int) -> Number:
    if data is None:
        return UNKNOWN_DATA
    steps = data.train_rows / examples
    return Number(steps, f"{data.train_rows:,} {data.unit} / {examples:,} = {steps:,.1f} steps an epoch")


def _total(config: Config, data: DataFacts | None, examples: int) -> Number:
    t = config.training
    if t.max_steps is not None:
        seen = f", {t.max_steps * examples / data.train_rows:,.2f} epochs" if data and data.train_rows else ""
        return Number(t.max_steps, f"max_steps = {t.max_steps:,} steps{seen}")
    if data is None:
        return UNKNOWN_DATA
    exact = data.train_rows * t.num_train_epochs / examples
    steps = max(1, math.floor(exact + _EPS))
    rows = data.train_rows + data.eval_rows
    share = 1 - config.data.val_set_size
    head = f"{data.train_rows:,} {data.unit}"
    if data.eval_rows and config.data.eval_split is None:
        head = f"{rows:,} {data.unit} - {data.eval_rows:,} held out = {data.train_rows:,}; {data.train_rows:,}"
        by_share = max(1, math.floor(rows * share * t.num_train_epochs / examples + _EPS))
        if config.data.val_set_size < 1 and by_share == steps:
            head = f"{rows:,} {data.unit} x {number(round(share, 6))}"
    least = " (at least 1)" if exact < 1 else ""
    return Number(steps, f"{head} x {number(t.num_train_epochs)} / {examples:,} = {steps_in_words(steps)}{least}")


def _warmup(config: Config, total: int) -> Number:
    t = config.training
    if t.warmup_steps is not None:
        return Number(t.warmup_steps, f"warmup_steps = {steps_in_words(t.warmup_steps)}")
    if not t.warmup_ratio:
        return Number(0, "no warmup")
    if not total:
        return UNKNOWN_DATA
    share = round(t.warmup_ratio * total, 6)
    steps = math.ceil(share)
    rounded = "" if steps == share else f"{number(round(share, 2))}, rounded up: "
    return Number(steps, f"{number(t.warmup_ratio)} x {total:,} = {rounded}{steps_in_words(steps)}")


def _decay(config: Config, total: int, warmup: int) -> Number:
    t = config.training
    if t.lr_scheduler_type == "constant":
        return Number(0, "constant: the learning rate does not fall")
    if not total:
        return UNKNOWN_DATA
    rest = max(0, total - warmup)
    if t.lr_scheduler_type != "wsd":
        return Number(rest, f"{total:,} - {warmup:,} warmup = {steps_in_words(rest)}")
    steps = max(1, round(t.decay_ratio * total))
    how = f"{number(t.decay_ratio)} x {total:,} = {steps_in_words(steps)}"
    return Number(steps, how) if steps <= rest else Number(rest, f"{how}, of which the warmup leaves {rest:,}")


def _every(wanted: float | Literal["epoch"], total: int, per_epoch: float, last: str = ", and at the end") -> Number:
    """After how many steps something happens that is to happen every so many, every share of a run or every epoch."""
    if not isinstance(wanted, str) and wanted >= 1:
        return Number(wanted, f"every {steps_in_words(int(wanted))}{last}")
    if not (per_epoch if wanted == "epoch" else total):
        return UNKNOWN_DATA
    exact = per_epoch if isinstance(wanted, str) else round(wanted * total, 6)
    steps = max(1, math.ceil(exact - _EPS))
    how = f"{per_epoch:,.1f} steps an epoch"
    if not isinstance(wanted, str):
        how = f"{number(wanted)} x {total:,} = {number(round(exact, 2))}"
    rounded = "" if abs(steps - exact) < _EPS else ", rounded up"
    return Number(steps, f"{how}{rounded}: every {steps_in_words(steps)}{last}")


def _eval_every(config: Config, data: DataFacts | None, total: int, per_epoch: float) -> Number:
    wanted = config.evaluation.eval_steps
    if wanted == 0:
        return Number(0, "eval_steps: 0 switches evaluation off")
    if not wants_evaluation(config) or (data is not None and data.eval_rows == 0):
        return Number(0, "no rows are held out")
    if wanted is not None:
        return _every(wanted, total, per_epoch)
    if data is None:
        return UNKNOWN_DATA
    steps = max(1, math.floor(per_epoch / 4 + _EPS))
    return Number(steps, f"{per_epoch:,.1f} steps an epoch / 4 = every {steps_in_words(steps)}, and at the end")


def steps_in_words(count: int) -> str:
    """`1 step`, `1,200 steps`."""
    return f"{count:,} step" if count == 1 else f"{count:,} steps"
