"""Everything that files say of a run, read once: what the monitor and the doctor fold, the record, what was measured.

    events.jsonl (or another log)   -> RunState, History, attempts, samples, checks, forecasts
    plan.yaml                       -> Recorded
    *.json in the folder            -> results of `luthier compare` and `luthier evaluate`

Not covered: what is said of it (`sections`), and whether a number is healthy (`luthier.doctor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from luthier.config.outputs import EVENTS
from luthier.doctor import History
from luthier.doctor import fold as examine
from luthier.events.follow import Told, open_log
from luthier.events.line import KEPT
from luthier.events.types import (
    Checked,
    Event,
    Log,
    MemoryForecast,
    Notice,
    Rehearsed,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
    TimeForecast,
)
from luthier.monitor.state import RunState, fold
from luthier.report.record import Recorded, recorded
from luthier.report.results import Results, found_results

_MOST_SAID = 40


@dataclass
class Attempt:
    """One start of the run.

    Attributes:
        started, updated: Epoch seconds of its first and its latest event.
        first_step: The step that it goes on from.
        last_step: The latest step that it told of.
        resumed: The checkpoint that it goes on from, where it says so.
        finished: Its last word; None where there is none.
    """

    started: float
    first_step: int
    updated: float = 0.0
    last_step: int = 0
    resumed: Resumed | None = None
    finished: RunFinished | None = None


@dataclass
class Run:
    """A run as its files tell it.

    Attributes:
        path: As it was given.
        source: What was read, in words.
        state: What the monitor knows.
        history: What the doctor looks at.
        attempts: All of them, also those that a later one took again.
        samples: (prompt, step) -> text, of the steps that still count.
        checks: What the gate found, by the name of the check.
        before: What was said before the first step.
        kept: Which step final_model holds, where that was said.
        forecast: Of the memory.
        rehearsed: The largest step, run before the first one.
        expected: Of the latest attempt's time, before its first step.
        warnings: Notices that were no mere information, the first `_MOST_SAID`.
        record: Its plan.yaml; None where there is none that can be read.
        trouble: Why there is none.
        results: What was measured of its answers.
    """

    path: Path
    source: str = ""
    state: RunState = field(default_factory=RunState)
    history: History = field(default_factory=History)
    attempts: list[Attempt] = field(default_factory=list)
    samples: dict[tuple[str, int], str] = field(default_factory=dict)
    checks: dict[str, Checked] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    kept: str = ""
    forecast: MemoryForecast | None = None
    rehearsed: Rehearsed | None = None
    expected: TimeForecast | None = None
    warnings: list[Notice] = field(default_factory=list)
    record: Recorded | None = None
    trouble: str = ""
    results: Results = field(default_factory=Results)

    @property
    def empty(self) -> bool:
        """Whether there is no event at all."""
        return not self.attempts and not self.state.updated

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.path.absolute().name

    def get(self, key: str) -> object:
        """A resolved value by its dotted key, from the record or else the log; None where neither says."""
        if self.record is not None:
            return self.record.config.get(key)
        return self.state.plan.get(key)

    def derived(self, name: str) -> float:
        """A derived number of the plan; 0 where it is not known."""
        value = self.state.plan.get(f"plan.{name}", 0)
        return float(value) if isinstance(value, int | float) else 0.0


def read_run(path: Path, results: Sequence[Path] = ()) -> Run:
    """Read a run's folder, or a log of any training program.

    Args:
        path: The folder or the log.
        results: Files of `luthier compare --json` or `luthier evaluate --json` beside those in the folder.

    Raises:
        DataError: E-RUN-007 when one of `results` cannot be read.
    """
    run = Run(path)
    with closing(open_log(path, whole=True)) as log:
        for told in log.everything():
            _take(run, told)
        run.source = log.source
    folder = path if path.is_dir() else path.parent
    run.record, run.trouble = recorded(folder) if path.is_dir() or path.name == EVENTS else (None, "")
    run.results = found_results(path if path.is_dir() else None, results, folder.absolute().name)
    return run


def _take(run: Run, told: Told) -> None:
    event = told.event
    run.state = fold(run.state, event, told.time)
    run.history = examine(run.history, event, told.time)
    _attempt(run, event, told.time)
    match event:
        case Sampled():
            run.samples[event.prompt, event.step] = event.text
        case Checked():
            run.checks[event.name] = event
        case MemoryForecast():
            run.forecast = event
        case Rehearsed():
            run.rehearsed = event
        case TimeForecast() if not event.fitted_steps:
            run.expected = event
        case Notice() if event.text.startswith(KEPT):
            run.kept = event.text
        case Notice() if event.severity != "info" and len(run.warnings) < _MOST_SAID:
            run.warnings.append(event)
        case Notice() if event.severity == "info" and run.state.log is None and len(run.before) < _MOST_SAID:
            run.before.append(event.text)


def _attempt(run: Run, event: Event, time: float) -> None:
    match event:
        case RunStarted():
            run.attempts.append(Attempt(time, event.first_step, time, event.first_step))
            _forget(run, event.first_step)
            run.before = [] if not event.first_step else run.before
            return
        case Resumed():
            _forget(run, event.step)
    if not run.attempts:
        return
    attempt = run.attempts[-1]
    attempt.updated = time
    match event:
        case Resumed():
            attempt.resumed = event
        case RunFinished():
            attempt.finished, attempt.last_step = event, event.step
        case Log():
            attempt.last_step = event.step


def _forget(run: Run, step: int) -> None:
    """What came after `step` is done again."""
    run.samples = {key: text for key, text in run.samples.items() if step and key[1] <= step}
