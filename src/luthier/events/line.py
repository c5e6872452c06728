"""The lines of training.log, in both directions.

What has numbers is one Python dict a line, as Hugging Face's Trainer prints it, with the same names:
`{'loss': 2.387, 'grad_norm': 0.91, 'learning_rate': 0.00019998, 'epoch': 0.017, 'step': 20, …}`. What is a sentence
is a short plain line. Numbers are rounded for the eye; events.jsonl has them in full.

Not covered: other shapes of log (progress bars, JSON).
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.events.durations import duration, each, moment
from luthier.events.printable import one_line, printable
from luthier.events.types import (
    Architecture,
    Checked,
    CheckpointSaved,
    Evaluated,
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
    rewards_of,
)

Value = int | float | str | bool | None

RECORD = "  record: "
"""What stands before the place of the events, in the line after that of the run."""
KEPT = "final_model holds"
"""Begins the sentence about whose weights the final model has."""

_LONGEST_LINE = 64 * 1024
_KEY = r"""\s*(?:'(?P<key1>[^'\\]*)'|"(?P<key2>[^"\\]*)")\s*:"""
# Thousands of digits are no number that a run has.
_NUMBER = r"[-+]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][-+]?\d{1,400})?"
_NOT_FINITE = r"[-+]?(?:nan|inf|NaN|Infinity)"
_NEXT_KEY = re.sub(r"\?P<\w+>", "?:", _KEY)
_START = re.compile(rf"\{{(?={_NEXT_KEY})")
_PAIR = re.compile(
    _KEY
    + rf"""\s*
    (?:(?P<number>{_NUMBER})
     |(?P<word>{_NOT_FINITE}|True|False|None|true|false|null)
     |'(?P<text1>[^'\\]*)'|"(?P<text2>[^"\\]*)"
     |[A-Za-z][\w.]{{0,40}}\((?P<inside>{_NUMBER}|{_NOT_FINITE})(?:,\s*\w+=[^(){{}}]{{0,200}})?\))
    \s*(?P<end>[,}}])""",
    re.VERBOSE,
)
_UNREADABLE = re.compile(
    _KEY
    + r"""(?>\{[^{}]{0,400}\}|'(?:[^'\\]|\\.){0,400}'|"(?:[^"\\]|\\.){0,400}"|[^{}]){0,4000}?"""
    + rf"(?P<end>,(?={_NEXT_KEY})|\}})",
    re.VERBOSE,
)
"""A key whose value is none of those, up to the next key or the end; what each part is, is decided once."""
_WORDS: dict[str, Value] = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


def format_line(event: Event) -> str | None:
    """The line (or lines) of one event, without the last line break; None for what training.log leaves out."""
    formatter = _FORMATTERS.get(type(event))
    return formatter(event) if formatter else None


def parse_line(text: str) -> dict[str, Value] | None:
    """The first dict on a line, whatever stands around it; None where there is none.

    Its numbers, strings without escapes, True, False, None, nan and inf, as Python or JSON writes them; a number may be
    wrapped: `np.float64(0.85)`, `tensor(0.9)`. Nothing is evaluated, and what is something else is left out.
    """
    text = text[:_LONGEST_LINE]
    start = _START.search(text)
    if start is None:
        return None
    values: dict[str, Value] = {}
    position = start.end()
    while (match := _PAIR.match(text, position)) or (match := _UNREADABLE.match(text, position)):
        if match.re is _PAIR:
            values[match["key1"] if match["key1"] is not None else match["key2"]] = _value(match)
        if match["end"] == "}":
            return values or None
        position = match.end()
    return None


def _value(match: re.Match[str]) -> Value:
    if number := match["number"] or match["inside"]:
        return int(number) if number.lstrip("+-").isdigit() else float(number)
    if word := match["word"]:
        return _WORDS[word] if word in _WORDS else float(word)
    return match["text1"] if match["text1"] is not None else match["text2"]


def significant(value: float, digits: int) -> float:
    """`value` rounded to so many significant digits: 0.000199984 stays 0.000199984 with six of them."""
    return float(f"{value:.{digits}g}")


def _whole(value: float) -> int | float:
    return round(value) if math.isfinite(value) else value


def _epoch(epoch: float, step: int) -> float:
    """As many decimals (2 to 4) as it takes to tell some ten steps apart."""
    steps_per_epoch = step / epoch if epoch > 0 and math.isfinite(epoch) else 0.0
    return round(epoch, 2 if steps_per_epoch < 500 else 3 if steps_per_epoch < 5000 else 4)


def _log(event: Log) -> str:
    speed = event.tokens_per_second
    rewards = {name: round(value, 4) for name, value in rewards_of(event).items()}
    values: dict[str, Any] = {
        "loss": round(event.loss, 4),
        "grad_norm": significant(event.grad_norm, 4),
        "learning_rate": significant(event.learning_rate, 6),
        "epoch": _epoch(event.epoch, event.step),
        "step": event.step,
        **rewards,
        "num_tokens": event.num_tokens,
        "tokens_per_second": round(speed, 1) if speed < 100 else _whole(speed),
        "memory_gib": round(event.memory_gib, 2),
        "eta_seconds": _whole(event.remaining_seconds),
    }
    return str(values)


def _evaluated(event: Evaluated) -> str:
    return str(
        {
            "eval_loss": round(event.eval_loss, 4),
            **{f"eval_{name}": round(value, 4) for name, value in rewards_of(event).items()},
            "eval_runtime": round(event.eval_runtime, 2),
            "epoch": _epoch(event.epoch, event.step),
            "step": event.step,
        }
    )


def _run_finished(event: RunFinished) -> str:
    if event.status != "done":
        reason = f": {one_line(event.reason)}" if event.reason else ""
        return f"{event.status} at step {event.step:,}{reason}"
    values = str(
        {
            "train_runtime": round(event.train_runtime, 2),
            "train_loss": round(event.train_loss, 4),
            "epoch": _epoch(event.epoch, event.step),
            "step": event.step,
            "num_tokens": event.num_tokens,
        }
        | ({"predicted_runtime": round(event.predicted_runtime, 2)} if math.isfinite(event.predicted_runtime) else {})
    )
    return f"{values}\n{_result(event.final_model)}" if event.final_model else values


def _result(final_model: str) -> str:
    """Where it is, and what to do with it next."""
    return f"result: {one_line(final_model)}; ask it: {to_ask(final_model)}"


def to_ask(final_model: str) -> str:
    """The command that asks a run which has its result there."""
    return f"luthier chat {shlex.quote(one_line(str(Path(final_model).parent)))}"


def _run_started(event: RunStarted) -> str:
    start = f", from step {event.first_step:,}" if event.first_step else ""
    record = f"\n{RECORD}{one_line(event.record)}" if event.record else ""
    epochs = f"{event.epochs:,.0f}" if event.epochs >= 100 else f"{event.epochs:.3g}"
    return f"run {one_line(event.run)}: {event.total_steps:,} steps, {epochs} epochs{start}{record}"


def _architecture(event: Architecture) -> str:
    share = event.trainable_parameters / event.parameters if event.parameters else 0.0
    return f"model: {event.parameters:,} parameters, {event.trainable_parameters:,} of them trained ({share:.2%})"


def _notice(event: Notice) -> str:
    where = f" (step {event.step:,})" if event.step is not None else ""
    change = f"\n  change: {one_line(event.change)}" if event.change else ""
    return f"{event.severity}{where}: {one_line(event.text)}{change}"


def _checked(event: Checked) -> str | None:
    notice = event.notice()
    return _notice(notice) if notice else None


def memory_line(event: MemoryForecast) -> str:
    """The forecast and its largest parts, in one line."""
    largest = sorted(event.parts.items(), key=lambda part: -part[1])[:4]
    parts = ", ".join(f"{one_line(name)} {gib:.2f}" for name, gib in largest)
    room = (
        f"of {event.room_gib:.1f} GiB" if event.gib <= event.room_gib else f"and there is room for {event.room_gib:.1f}"
    )
    return f"memory: {event.gib:.2f} GiB predicted {room} ({parts})"


def rehearsed_line(event: Rehearsed) -> str:
    """What the rehearsal found, in one line."""
    return (
        f"rehearsal of the largest step ({event.tokens:,} tokens): {event.measured_gib:.2f} GiB measured, "
        f"{event.predicted_gib:.2f} predicted ({100 * event.error:+.0f} %); {event.step_seconds:.1f} s, "
        f"a checkpoint of {event.checkpoint_bytes / 1e6:,.1f} MB in {event.save_seconds:.1f} s"
    )


def time_line(event: TimeForecast) -> str:
    """How long it will go on, what that is made of, and how rough it is, in one line."""
    work = [f"{_counted(event.steps, 'step')} of {each(event.step_seconds)}"]
    pauses = (
        (event.evaluations, "evaluation", event.eval_seconds),
        (event.saves, "save", event.save_seconds),
        (event.samples, "sample", event.sample_seconds),
    )
    for number, name, seconds in pauses:
        if number:
            took = f"of {each(seconds)}" if math.isfinite(seconds) else "not counted yet"
            work.append(f"{_counted(number, name)} {took}")
    start = f" from step {event.step:,} on" if event.step else ""
    epoch = f"; {duration(event.epoch_seconds)} an epoch" if math.isfinite(event.epoch_seconds) else ""
    basis = "rough: scaled from the rehearsal"
    if event.fitted_steps:
        basis = f"by {_counted(event.fitted_steps, 'step')}, each {event.error:.0%} off"
    left = f"time: about {duration(event.remaining_seconds)}{start}, done at about {moment(event.ends_at)}"
    return f"{left}: {', '.join(work)}{epoch} ({basis})"


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"


def _sampled(event: Sampled) -> str:
    prompt, answer = (printable(part).strip("\n").split("\n") for part in (event.prompt, event.text))
    lines = [*(f"  > {line}" for line in prompt), *(f"    {line}" for line in answer)]
    return "\n".join((f"sample at step {event.step:,}", *lines))


def _checkpoint_saved(event: CheckpointSaved) -> str:
    removed = f", removed {', '.join(map(one_line, event.removed))}" if event.removed else ""
    return f"saved {one_line(event.path)} ({event.bytes / 1e6:,.1f} MB in {event.seconds:.1f} s){removed}"


def _resumed(event: Resumed) -> str:
    passed = "".join(f"\n  passed over {one_line(text)}" for text in event.passed_over)
    return f"resumed at step {event.step:,} from {one_line(event.path)}{passed}"


_FORMATTERS: dict[type[Event], Callable[[Any], str | None]] = {
    RunStarted: _run_started,
    Notice: _notice,
    Checked: _checked,
    Architecture: _architecture,
    MemoryForecast: memory_line,
    Rehearsed: rehearsed_line,
    TimeForecast: time_line,
    Log: _log,
    Evaluated: _evaluated,
    Sampled: _sampled,
    CheckpointSaved: _checkpoint_saved,
    Resumed: _resumed,
    RunFinished: _run_finished,
}
