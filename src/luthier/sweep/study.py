"""The sweep: asks optuna for values, trains with them, tells it the loss; all of it in one folder.

    OUTPUT_DIR-sweep/
        config.yaml       what all trials have in common
        study.db          optuna's own record (SQLite): values, losses, states
        trial-000/        an ordinary run;  trial-000.log  what its process wrote
        best.yaml         the config with the best values, for `luthier train`
        sweep.png         the picture

Only lists: each combination once, in an order drawn from the seed. Otherwise: the Tree-structured Parzen Estimator
(Bergstra et al. 2011) after a few random trials. A trial ends early when its lowest loss so far is above the median of
the others at the same evaluation, never at its first one (optuna's MedianPruner).

**It can be killed at any moment.** A trial is in study.db before it begins. One that was at work goes on from its own
checkpoint, with the evaluations that its events.jsonl holds. The sampler is seeded by the number of the trial, so what
comes next does not depend on how often the sweep was stopped.

Not covered: several trials at a time, and on several machines.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from luthier.config.load import Loaded
from luthier.config.render import dump_config_yaml
from luthier.errors import EXIT_RESUMABLE, ConfigError, LuthierError, MissingError, Problem, RefusedError, RunError
from luthier.events.printable import one_line
from luthier.events.read import read
from luthier.events.types import Evaluated
from luthier.sweep.finder import TRIALS as FINDER_TRIALS
from luthier.sweep.finder import find_rate
from luthier.sweep.process import TrialProcess
from luthier.sweep.space import Range, Space, value_of
from luthier.sweep.standing import Row, Standing, State

DEFAULT_TRIALS = 12
CONFIG, STUDY, BEST = "config.yaml", "study.db", "best.yaml"
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
}  # fmt: skip
_BATCH = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")
_WRONG: dict[int, type[LuthierError]] = {2: ConfigError, 3: RefusedError}


def folder_of(loaded: Loaded) -> Path:
    """Where the sweep of a config lies."""
    output_dir = Path(loaded.config.training.output_dir).expanduser()
    return output_dir.with_name(f"{output_dir.name}-sweep")


@dataclass
class Sweep:
    """A sweep at work.

    Attributes:
        space: What is tried.
        trials: How many. None: 12, each combination once where they can be counted, or what the finder takes.
        allow: Checks of the gate that may fail.
        stop: Polled; True stops the trial and the sweep, both can go on.
        folder: Where everything lies.
        study: optuna's.
    """

    space: Space
    trials: int | None
    allow: Sequence[str]
    stop: Callable[[], bool]
    count: int = field(init=False)
    folder: Path = field(init=False)
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        """Open the folder; the finder's rates are filled in here.

        Raises:
            ConfigError: E-SWEEP-004 when another sweep lies there.
            MissingError: E-ENV-002 when nothing can be written there.
            LuthierError: The finder sees that the run cannot begin.
        """
        self.folder = folder_of(self.space.loaded)
        _keep_config(self.space, self.folder)
        if self.space.finder:
            self.space = find_rate(self.space, self._total_steps(), self.trials or FINDER_TRIALS)
        most = self.space.combinations
        self.count = min(self.trials or most or DEFAULT_TRIALS, most or sys.maxsize)
        self.study = _open(self.space, self.folder)
        self.study.pruner = _pruner(self.space, self._random_trials)

    @property
    def _random_trials(self) -> int:
        return max(3, self.count // 4)

    def run(self) -> Generator[Standing, None, None]:
        """Do all trials; yields how it stands whenever that changes, and now and then in between.

        Raises:
            LuthierError: A trial's request was wrong (its exit code was 2 or 3), or E-SWEEP-003 when all failed.
        """
        yield self.standing()
        while not self.stop() and (trial := self._next()):
            yield from self._attempt(trial)
        rows = self.standing().rows
        whole = len(rows) >= self.count and all(row.state != "running" for row in rows)
        yield replace(self.standing(), stopped=not whole)
        if rows and all(row.state == "failed" for row in rows):
            fix = f"luthier train {self.folder / CONFIG} shows the whole of it; or widen the ranges"
            raise RunError(Problem("E-SWEEP-003", f"all of {len(rows)} trials failed: {rows[-1].reason}", fix))

    def standing(self, live: Row | None = None) -> Standing:
        """How it stands.

        Args:
            live: The trial at work, as it is known here.
        """
        rows = [self._row(trial) for trial in self.study.get_trials(deepcopy=False)]
        rows = [live if live and row.number == live.number else row for row in rows]
        return Standing(tuple(rows), self.count, tuple(r.key for r in self.space.ranges))

    def _next(self) -> optuna.Trial | None:
        """The trial that was at work when the sweep was killed, or a new one; None when there are enough."""
        before = self.study.get_trials(deepcopy=False)
        for trial in before:
            if trial.state == TrialState.RUNNING:
                return optuna.Trial(self.study, trial._trial_id)
        if not any(trial.state == TrialState.WAITING for trial in before):  # chosen before a kill
            if len(before) >= self.count:
                return None
            self._choose(len(before))
        return self.study.ask({r.key: _distribution(r) for r in self.space.ranges})

    def _choose(self, number: int) -> None:
        """Make that the next question is answered with the values of trial `number`."""
        seed = self.space.loaded.config.training.seed
        if not self.space.combinations:
            self.study.sampler = optuna.samplers.TPESampler(seed=seed + number, n_startup_trials=self._random_trials)
            return
        combinations = list(product(*(r.choices for r in self.space.ranges)))
        if not self.space.finder:
            random.Random(seed).shuffle(combinations)  # fewer trials than combinations are spread over all of them
        self.study.enqueue_trial(dict(zip((r.key for r in self.space.ranges), combinations[number], strict=True)))

    def _attempt(self, trial: optuna.Trial) -> Generator[Standing, None, None]:
        """Train once, to an end of the trial or of the sweep."""
        pruned, problem = self._report(trial), ""
        if pruned:  # it was told so before the sweep was killed
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        started, spent = time.monotonic(), trial.user_attrs.get("seconds", 0.0)
        folder = self._folder(trial.number)
        words = [*self.space.fixed, *(f"{r.key}={_text(trial.params[r.key])}" for r in self.space.ranges)]
        words += [f"training.output_dir={folder}", *(word for name in self.allow for word in ("--allow", name))]
        live = self._row(self.study.get_trials(deepcopy=False)[trial.number])
        with TrialProcess([str(self.folder / CONFIG), *words], folder.with_suffix(".log")) as process:
            for word in process.words(self.stop):
                live = replace(live, seconds=spent + time.monotonic() - started)
                if "evaluated" in word:
                    pruned = self._report(trial)
                    process.answer(not pruned)
                    live = replace(live, losses=_losses(folder))
                live = replace(
                    live, step=word.get("step", live.step), total_steps=word.get("started", live.total_steps)
                )
                problem = word.get("problem", problem)
                yield self.standing(live)
            code = process.exit_code
        trial.set_user_attr("seconds", spent + time.monotonic() - started)
        trial.set_user_attr("steps", [live.step, live.total_steps])
        self._tell(trial, code, pruned, problem)
        yield self.standing()

    def _report(self, trial: optuna.Trial) -> bool:
        """Tell optuna the evaluations that it has not heard of; returns whether the trial is to end."""
        losses = _losses(self._folder(trial.number))
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for index, loss in enumerate(losses):
            if index not in known:
                trial.report(loss, index)
        return bool(losses) and trial.should_prune()

    def _tell(self, trial: optuna.Trial, code: int, pruned: bool, problem: str) -> None:
        """Tell optuna how a trial ended.

        Raises:
            LuthierError: Its request was wrong: that of others would be too. The trial is done again.
        """
        losses = _losses(self._folder(trial.number))
        if code == 0 and losses:
            self.study.tell(trial, min(losses))
        elif code == EXIT_RESUMABLE and pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif code == EXIT_RESUMABLE or self.stop():
            self.stop = lambda: True  # also where somebody stopped the trial alone: whoever it was wants the machine
        elif code in _WRONG:
            log = self._folder(trial.number).with_suffix(".log")
            raise _refused(f"trial {trial.number}", code, problem, log)
        else:
            how = problem.strip().partition("\n")[0] or (
                f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            )
            trial.set_user_attr("reason", one_line(how)[:300])
            self.study.tell(trial, state=TrialState.FAIL)

    def _total_steps(self) -> int:
        """Of the whole run; asked in a process of its own, which leaves the device to the trials."""
        log, steps, problem = self.folder / "plan.log", 0, ""
        with TrialProcess([str(self.folder / CONFIG), "--plan"], log) as process:
            for word in process.words(self.stop):
                steps, problem = word.get("total_steps", steps), word.get("problem", problem)
            if not steps:
                raise _refused("the config", process.exit_code, problem, log)
        return steps

    def _folder(self, number: int) -> Path:
        return self.folder / f"trial-{number:03}"

    def _row(self, trial: FrozenTrial) -> Row:
        attributes = trial.user_attrs
        step, total = attributes.get("steps", (0, 0))
        return Row(
            number=trial.number,
            values={key: value_of(value) for key, value in trial.params.items()},
            state=_STATES.get(trial.state, "running"),
            losses=tuple(trial.intermediate_values[i] for i in sorted(trial.intermediate_values)),
            folder=self._folder(trial.number),
            seconds=attributes.get("seconds", 0.0),
            step=step,
            total_steps=total,
            reason=attributes.get("reason", ""),
        )


def _keep_config(space: Space, folder: Path) -> None:
    """Write what all trials have in common, or compare it with what is there."""
    common, path = dump_config_yaml(space.loaded.written), folder / CONFIG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(common, encoding="utf-8")
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        found = f"cannot write to {folder}: {error.strerror or error}"
        fix = "write an output_dir in a folder that you may write to"
        raise MissingError(Problem("E-ENV-002", found, fix, "training.output_dir")) from error
    if before != common:
        raise _another(folder, "another config")


def _open(space: Space, folder: Path) -> optuna.Study:
    """The study in the folder, new or as it was."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    asked = {"ranges": {r.key: [r.text, *r.choices] for r in space.ranges}, "fixed": [*space.fixed]}
    path = (folder / STUDY).absolute()
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        study = optuna.create_study(storage=storage, study_name="luthier", load_if_exists=True)
        if "asked" not in study.user_attrs:
            study.set_user_attr("asked", asked)
        before = study.user_attrs["asked"]
    except Exception as error:  # of SQLAlchemy and alembic, whatever they find in a file that is not theirs
        found = f"{path} cannot be read: {one_line(str(error))[:200]}"
        fix = "move it aside, or write another output_dir"
        raise ConfigError(Problem("E-SWEEP-004", found, fix)) from error
    if before != asked:
        raise _another(folder, "other ranges")
    return study


def _refused(what: str, code: int, problem: str, log: Path) -> LuthierError:
    if code == EXIT_RESUMABLE:
        raise KeyboardInterrupt
    found = f"{what}: {one_line(problem)[:600] or f'exit code {code}'}"
    return _WRONG.get(code, RunError)(
        Problem("E-SWEEP-003", found, f"mend that, and give the same command again; {log}")
    )


def _another(folder: Path, what: str) -> ConfigError:
    fix = f"give the command as it was, move {folder} aside, or write another output_dir"
    return ConfigError(Problem("E-SWEEP-004", f"{folder} holds a sweep with {what}", fix))


def _pruner(space: Space, random_trials: int) -> optuna.pruners.BasePruner:
    """None where all trials are wanted whole, or their evaluations do not come after as many rows."""
    other_steps = space.loaded.config.evaluation.eval_steps and any(r.key in _BATCH for r in space.ranges)
    if space.finder or other_steps:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=random_trials, n_warmup_steps=1)


def _distribution(one: Range) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _text(value: Any) -> str:
    """A parameter as YAML; a choice is that already."""
    return value if isinstance(value, str) else repr(value)


def _losses(folder: Path) -> tuple[float, ...]:
    """Of each evaluation of a run, as it stands."""
    path = folder / "events.jsonl"
    if not path.is_file():
        return ()
    found = {event.step: event.eval_loss for event, _ in read(path) if isinstance(event, Evaluated)}
    return tuple(found[step] if math.isfinite(found[step]) else math.inf for step in sorted(found))


def write_best(space: Space, best: Row, folder: Path, count: int) -> Path:
    """Write the config with the best values; returns where."""
    written = space.loaded.written
    for key, value in best.values.items():
        section, _, name = key.partition(".")
        written[section][name] = value
    head = f"# The best of {count} trials: eval_loss {best.eval_loss:.4f}, {best.folder.name}.\n"
    path = folder / BEST
    path.write_text(head + dump_config_yaml(written), encoding="utf-8")
    return path
