"""The sweep: asks optuna for values, trains with them, tells it the loss; all of it in one folder.

Only lists: each combination once, in an order drawn from the seed. Otherwise: the Tree-structured Parzen Estimator
(Bergstra et al. 2011) after a few random trials. A trial ends early when its lowest loss so far is above the median of
the whole ones at the same evaluation, never at its first one (optuna's MedianPruner).

**It can be killed at any moment.** A trial is in study.db before it begins. One that was at work goes on from its own
checkpoint, with the evaluations that its events.jsonl holds. The sampler is seeded by the number of the trial, so what
comes next does not depend on how often the sweep was stopped.

**Several trials at a time** are asked for, judged and told by this one thread, which is the only one that knows optuna:

    begin while there is room  ->  hear one word of one of them  ->  report, answer; at its end, tell  ->  again

Values of lists and of the random trials depend on the number of the trial alone. The estimator and the median take what
has ended by then, so with several at a time they depend on which ends first.

Not covered: where a trial runs (`luthier.sweep.process`, `luthier.sweep.cluster`).
"""

from __future__ import annotations

import json
import queue
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from luthier.errors import EXIT_RESUMABLE, ConfigError, LuthierError, Problem, RefusedError, RunError
from luthier.events.printable import one_line
from luthier.machine.lock import locked
from luthier.sweep.finder import TRIALS as FINDER_TRIALS
from luthier.sweep.finder import find_rate
from luthier.sweep.folder import CONFIG, folder_of, keep_config, open_study
from luthier.sweep.losses import is_over, losses_of
from luthier.sweep.process import Here, Place, Trial
from luthier.sweep.space import Range, Space, value_of
from luthier.sweep.standing import Row, Standing, State

DEFAULT_TRIALS = 12
_TICK_SECONDS = 0.2
_MOST_LOSSES_OF_A_MACHINE = 3
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
}  # fmt: skip
_BATCH = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")
_WRONG: dict[int, type[LuthierError]] = {2: ConfigError, 3: RefusedError}


@dataclass
class _AtWork:
    """A trial at work.

    Attributes:
        trial: optuna's.
        row: As it is known here.
        runs: The trial itself.
        began: By the monotonic clock, less the seconds of earlier attempts.
        pruned: It was told to end early.
        problem: The one that it told of.
        asked: It was asked to stop.
    """

    trial: optuna.Trial
    row: Row
    runs: Trial
    began: float
    pruned: bool = False
    problem: str = ""
    asked: bool = False


@dataclass
class Sweep:
    """A sweep at work.

    Attributes:
        space: What is tried.
        trials: How many. None: 12, each combination once where they can be counted, or what the finder takes.
        allow: Checks of the gate that may fail.
        stop: Polled; True stops the trials and the sweep, all can go on.
        place: Where trials run, and how many at a time.
        folder: Where everything lies.
        study: optuna's.
    """

    space: Space
    trials: int | None
    allow: Sequence[str]
    stop: Callable[[], bool]
    place: Place = field(default_factory=Here)
    count: int = field(init=False)
    folder: Path = field(init=False)
    study: optuna.Study = field(init=False)
    _at_work: dict[int, _AtWork] = field(init=False, default_factory=dict)
    _said: queue.SimpleQueue[tuple[int, dict[str, Any] | None]] = field(init=False, default_factory=queue.SimpleQueue)
    _lost: Counter[int] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        """Open the folder; the finder's rates are filled in here.

        Raises:
            ConfigError: E-SWEEP-004 when another sweep lies there.
            MissingError: E-ENV-002 when nothing can be written there.
            LuthierError: The finder sees that the run cannot begin.
        """
        self.folder = folder_of(self.space.loaded)
        keep_config(self.space, self.folder)
        if self.space.finder:
            self.space = find_rate(self.space, self._total_steps(), self.trials or FINDER_TRIALS)
        most = self.space.combinations
        self.count = min(self.trials or most or DEFAULT_TRIALS, most or sys.maxsize)
        self.study = open_study(self.space, self.folder)
        self.study.pruner = _pruner(self.space, self._random_trials)

    @property
    def _random_trials(self) -> int:
        return max(3, self.count // 4)

    def run(self) -> Generator[Standing, None, None]:
        """Do all trials; yields how it stands whenever that changes, and now and then in between.

        Raises:
            LuthierError: The first trial's request was wrong (its exit code was 2 or 3), or E-SWEEP-003 when all
                failed.
            CheckpointError: E-CKPT-006 when the same sweep is at work already.
        """
        with locked(self.folder):
            yield from self._run()

    def _run(self) -> Generator[Standing, None, None]:
        yield self.standing()
        try:
            while self._fill() or self._at_work:
                self._listen()
                yield self.standing()
        finally:
            for one in self._at_work.values():
                one.runs.kill()
            for one in self._at_work.values():
                one.runs.end()
            self._at_work.clear()
        rows = self.standing().rows
        whole = len(rows) >= self.count and all(row.state != "running" for row in rows)
        yield replace(self.standing(), stopped=not whole)
        if rows and all(row.state == "failed" for row in rows):
            fix = f"luthier train {self.folder / CONFIG} shows the whole of it; or widen the ranges"
            raise RunError(Problem("E-SWEEP-003", f"all of {len(rows)} trials failed: {rows[-1].reason}", fix))

    def standing(self) -> Standing:
        """How it stands."""
        keys = {r.key for r in self.space.ranges}
        rows = [self._row(trial) for trial in self.study.get_trials(deepcopy=False) if trial.params.keys() >= keys]
        rows = [self._at_work[row.number].row if row.number in self._at_work else row for row in rows]
        return Standing(tuple(rows), self.count, tuple(r.key for r in self.space.ranges))

    def _fill(self) -> bool:
        """Begin trials while there is room; returns whether one was begun."""
        before = len(self._at_work)
        while not self.stop() and len(self._at_work) < self.place.jobs and (trial := self._next()):
            self._begin(trial)
        return len(self._at_work) > before

    def _next(self) -> optuna.Trial | None:
        """A trial that was at work when the sweep was killed, or a new one; None when there are enough."""
        before = self.study.get_trials(deepcopy=False)
        cut = next((t for t in before if t.state == TrialState.RUNNING and t.number not in self._at_work), None)
        waits = any(trial.state == TrialState.WAITING for trial in before)  # chosen before a kill
        if not (cut or waits) and len(before) >= self.count:
            return None
        self._seed(cut.number if cut else len(before))
        if cut:
            trial = optuna.Trial(self.study, cut._trial_id)
        else:
            if self.space.combinations and not waits:
                self._enqueue(len(before))
            trial = self.study.ask()
        for one in self.space.ranges:  # what it has, it keeps: a kill falls between any two
            trial._suggest(one.key, _distribution(one))
        return trial

    def _seed(self, number: int) -> None:
        """Make that what is drawn next depends on the number of the trial, not on how often the sweep was stopped."""
        seed = self.space.loaded.config.training.seed + number
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._random_trials)

    def _enqueue(self, number: int) -> None:
        """Make that the next question is answered with combination `number`."""
        combinations = list(product(*(r.choices for r in self.space.ranges)))
        if not self.space.finder:  # fewer trials than combinations are spread over all of them
            random.Random(self.space.loaded.config.training.seed).shuffle(combinations)
        self.study.enqueue_trial(dict(zip((r.key for r in self.space.ranges), combinations[number], strict=True)))

    def _begin(self, trial: optuna.Trial) -> None:
        """Let a trial train, to its end or to that of the sweep."""
        folder = self._folder(trial.number)
        if self._report(trial, losses_of(folder)) and not is_over(folder):  # it was told so before the sweep was killed
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        words = [*self.space.fixed, *(f"{r.key}={_text(trial.params[r.key])}" for r in self.space.ranges)]
        words.append(f"training.output_dir={json.dumps(str(folder), ensure_ascii=False)}")
        if name := self.space.loaded.config.logging.run_name:
            words.append(f"logging.run_name={json.dumps(f'{name}-{folder.name}', ensure_ascii=False)}")
        words += [word for name in self.allow for word in ("--allow", name)]
        row = self._row(self.study.get_trials(deepcopy=False)[trial.number])
        runs = self._start(trial.number, [str(self.folder / CONFIG), *words], folder.with_suffix(".log"))
        self._at_work[trial.number] = _AtWork(trial, row, runs, time.monotonic() - row.seconds)

    def _start(self, number: int, arguments: Sequence[str], log: Path) -> Trial:
        return self.place.begin(arguments, log, lambda word: self._said.put((number, word)))

    def _listen(self) -> None:
        """Hear one word of one trial, and do what it asks for; or hear nothing for a moment."""
        try:
            number, word = self._said.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            number, word = -1, {}
        stopping = self.stop()
        for one in self._at_work.values():
            one.row = replace(one.row, seconds=time.monotonic() - one.began)
            if stopping and not one.asked:
                one.runs.stop()
                one.asked = True
        if number < 0:
            return
        if word is None:
            self._end(self._at_work[number])
        else:
            self._hear(self._at_work[number], word)

    def _hear(self, one: _AtWork, word: dict[str, Any]) -> None:
        row = replace(
            one.row,
            step=word.get("evaluated", word.get("step", one.row.step)),
            total_steps=word.get("started", one.row.total_steps),
            losses=tuple(word.get("losses", one.row.losses)),
        )
        one.row, one.problem = row, word.get("problem", one.problem)
        if "evaluated" in word:
            hopeless = self._report(one.trial, row.losses)
            one.pruned = hopeless and row.step < row.total_steps  # after the last step there is nothing to save
            one.runs.answer(not one.pruned)

    def _end(self, one: _AtWork) -> None:
        code = one.runs.end()
        del self._at_work[one.trial.number]
        one.trial.set_user_attr("seconds", one.row.seconds)
        one.trial.set_user_attr("steps", [one.row.step, one.row.total_steps])
        self._tell(one, code)

    def _report(self, trial: optuna.Trial, losses: Sequence[float]) -> bool:
        """Tell optuna the evaluations that it has not heard of; returns whether it is hopeless.

        One that went back to a checkpoint, and does again what it was let go on after, is judged when it has caught up.
        """
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for index, loss in enumerate(losses):
            if index not in known:
                trial.report(loss, index)
        return bool(losses) and len(losses) >= len(known) and trial.should_prune()

    def _tell(self, one: _AtWork, code: int) -> None:
        """Tell optuna how a trial ended.

        Raises:
            LuthierError: Its request was wrong, before any other trial has shown that the config is not. It is done
                again.
        """
        trial, folder = one.trial, self._folder(one.trial.number)
        losses = losses_of(folder)
        if code == 0 and losses:
            self.study.tell(trial, min(losses))
        elif code == EXIT_RESUMABLE and one.pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif self.stop():
            pass
        elif code == EXIT_RESUMABLE and not self.place.loses:
            self.stop = lambda: True  # somebody stopped the trial alone: whoever it was wants the machine
        elif code == EXIT_RESUMABLE and self._lost[trial.number] < _MOST_LOSSES_OF_A_MACHINE:
            self._lost[trial.number] += 1
        elif code in _WRONG and not self._has_run:
            raise _refused(f"trial {trial.number}", code, one.problem, folder.with_suffix(".log"))
        else:
            how = one.problem.strip().partition("\n")[0] or (
                f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            )
            trial.set_user_attr("reason", one_line(how)[:300])
            self.study.tell(trial, state=TrialState.FAIL)

    @property
    def _has_run(self) -> bool:
        """Whether a trial has trained, so that what is wrong with another one is wrong with its values."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def _total_steps(self) -> int:
        """Of the whole run; asked in a process of its own, which leaves the device to the trials.

        Raises:
            KeyboardInterrupt: A stop was asked for.
            LuthierError: The run cannot begin.
        """
        log, steps, problem, asked = self.folder / "plan.log", 0, "", False
        plan = self._start(-1, [str(self.folder / CONFIG), "--plan"], log)
        try:
            while True:
                if self.stop() and not asked:
                    plan.stop()
                    asked = True
                with suppress(queue.Empty):
                    _, word = self._said.get(timeout=_TICK_SECONDS)
                    if word is None:
                        break
                    steps, problem = word.get("total_steps", steps), word.get("problem", problem)
        except BaseException:
            plan.kill()
            raise
        finally:
            code = plan.end()
        if not steps:
            if self.stop() or code == EXIT_RESUMABLE:  # it may have had no handler of signals yet
                raise KeyboardInterrupt
            raise _refused("the config", code, problem, log)
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


def _refused(what: str, code: int, problem: str, log: Path) -> LuthierError:
    found = f"{what}: {one_line(problem)[:600] or f'exit code {code}'}"
    return _WRONG.get(code, RunError)(
        Problem("E-SWEEP-003", found, f"mend that, and give the same command again; {log}")
    )


def _pruner(space: Space, random_trials: int) -> optuna.pruners.BasePruner:
    """None where all trials are wanted whole, or their evaluations do not come after as many rows."""
    in_steps = isinstance(space.loaded.config.evaluation.eval_steps, int)  # an epoch, or a share, has the same rows
    if space.finder or (in_steps and any(r.key in _BATCH for r in space.ranges)):
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
