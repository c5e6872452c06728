"""The sentences of training.log back to events: the other direction of `luthier.events.line`.

A notice may go on in a second line (`  change: …`), a sample in several; they are told when a line comes that is not
theirs. What the sentence does not say (the plan, the list of modules, the removed folders' sizes) is empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from luthier.events.codecs.base import COUNT
from luthier.events.durations import DURATION, seconds_at, seconds_of
from luthier.events.types import (
    Architecture,
    CheckpointSaved,
    Event,
    Notice,
    Resumed,
    RunFinished,
    RunStarted,
    Sampled,
    TimeForecast,
)

_RUN = re.compile(rf"run (.*): {COUNT} steps, (\S+) epochs(?:, from step {COUNT})?$")
_MODEL = re.compile(rf"model: {COUNT} parameters, {COUNT} of them trained")
_NOTICE = re.compile(rf"(info|warning|critical)(?: \(step {COUNT}\))?: (.*)$")
_SAMPLE = re.compile(rf"sample at step {COUNT}$")
_SAVED = re.compile(r"saved (.*) \(([\d,.]+) MB in ([\d,.]+) s\)(?:, removed (.*))?$")
_STEP_OF_FOLDER = re.compile(r"checkpoint-(\d{1,18})$")
_RESUMED = re.compile(rf"resumed at step {COUNT} from (.*)$")
_ENDED = re.compile(rf"(stopped|failed) at step {COUNT}(?:: (.*))?$")
_EACH = rf"(?:of ({DURATION})|not counted yet)"
_TIME = re.compile(
    rf"time: about ({DURATION})(?: from step {COUNT} on)?, done at about ([\d -]{{0,20}}:\d\d|–)"
    rf": {COUNT} steps? of ({DURATION})(?:, {COUNT} evaluations? {_EACH})?(?:, {COUNT} saves? {_EACH})?"
    rf"(?:, {COUNT} samples? {_EACH})?(?:; ({DURATION}) an epoch)?"
    rf" \((?:rough: |by {COUNT} steps?, each (\S{{1,25}})% off)"
)
_LONGEST_SAMPLE = 64 * 1024


class Sentences:
    """Takes the plain lines of a log; hands out the events of the sentences among them."""

    def __init__(self) -> None:
        self._open: Notice | Sampled | Resumed | None = None

    def take(self, line: str, step: int, told: list[Event]) -> bool:
        """Whether a line is a sentence or goes on with one; the events that it completes are appended to `told`.

        Args:
            line: One line of the log.
            step: The latest step of the run.
            told: Gets the events.
        """
        if self.goes_on(line):
            return True
        told += self.flush()
        event = _parse(line, step)
        if isinstance(event, Notice | Sampled | Resumed):
            self._open = event
        elif event is not None:
            told.append(event)
        return event is not None

    def flush(self) -> list[Event]:
        """The event that is open, if there is one."""
        event, self._open = self._open, None
        return [] if event is None else [event]

    def goes_on(self, line: str) -> bool:
        """Whether a line belongs to the sentence that is open, which then has it."""
        match self._open:
            case Notice(change="") if line.startswith("  change: "):
                self._open = replace(self._open, change=line[10:])
            case Resumed() if line.startswith("  passed over "):
                self._open = replace(self._open, passed_over=[*self._open.passed_over, line[14:]])
            case Sampled() if line.startswith("  > ") and not self._open.text:
                self._open = replace(self._open, prompt=_joined(self._open.prompt, line[4:]))
            case Sampled() if line.startswith("    "):
                self._open = replace(self._open, text=_joined(self._open.text, line[4:]))
            case _:
                return False
        return True


def _joined(text: str, line: str) -> str:
    return f"{text}\n{line}" if text and len(text) < _LONGEST_SAMPLE else text or line


def _parse(line: str, step: int) -> Event | None:
    for first_word, pattern, build in _PATTERNS:
        if line.startswith(first_word) and (match := pattern.match(line)):
            return build(match, step)
    return None


def _int(text: str | None) -> int:
    return int((text or "0").replace(",", ""))


def _float(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return math.nan


def _run(match: re.Match[str], step: int) -> Event:
    return RunStarted(match[1], _int(match[2]), _int(match[4]), _float(match[3]), plan={})


def _model(match: re.Match[str], step: int) -> Event:
    return Architecture(_int(match[1]), _int(match[2]), modules=[])


def _notice(match: re.Match[str], step: int) -> Event:
    where = _int(match[2]) if match[2] else None
    return Notice(match[1], match[3], step=where)  # type: ignore[arg-type]


def _time(match: re.Match[str], step: int) -> Event:
    remaining, done, end, steps, seconds, *pauses, epoch, fitted, error = match.groups()
    evaluation, save, sample = zip(pauses[::2], pauses[1::2], strict=True)
    return TimeForecast(
        step=_int(done),
        remaining_seconds=seconds_of(remaining),
        ends_at=seconds_at(end),
        steps=_int(steps),
        step_seconds=seconds_of(seconds),
        evaluations=_int(evaluation[0]),
        eval_seconds=seconds_of(evaluation[1] or ""),
        saves=_int(save[0]),
        save_seconds=seconds_of(save[1] or ""),
        samples=_int(sample[0]),
        sample_seconds=seconds_of(sample[1] or ""),
        epoch_seconds=seconds_of(epoch or ""),
        fitted_steps=_int(fitted),
        error=_float(error or "nan") / 100,
    )


def _sampled(match: re.Match[str], step: int) -> Event:
    return Sampled(_int(match[1]), prompt="", text="")


def _saved(match: re.Match[str], step: int) -> Event:
    folder = _STEP_OF_FOLDER.search(match[1])
    removed = match[4].split(", ") if match[4] else []
    size = _float(match[2]) * 1e6
    return CheckpointSaved(
        step=int(folder[1]) if folder else step,
        path=match[1],
        bytes=round(size) if math.isfinite(size) else 0,
        seconds=_float(match[3]),
        removed=removed,
    )


def _resumed(match: re.Match[str], step: int) -> Event:
    return Resumed(_int(match[1]), match[2])


def _ended(match: re.Match[str], step: int) -> Event:
    return RunFinished(
        status=match[1],  # type: ignore[arg-type]
        step=_int(match[2]),
        epoch=math.nan,
        train_loss=math.nan,
        train_runtime=math.nan,
        num_tokens=0,
        peak_memory_gib=math.nan,
        final_model="",
        reason=match[3] or "",
    )


_PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str], int], Event]], ...] = (
    ("run ", _RUN, _run),
    ("model: ", _MODEL, _model),
    ("time: ", _TIME, _time),
    ("info", _NOTICE, _notice),
    ("warning", _NOTICE, _notice),
    ("critical", _NOTICE, _notice),
    ("sample ", _SAMPLE, _sampled),
    ("saved ", _SAVED, _saved),
    ("resumed ", _RESUMED, _resumed),
    ("stopped ", _ENDED, _ended),
    ("failed ", _ENDED, _ended),
)
