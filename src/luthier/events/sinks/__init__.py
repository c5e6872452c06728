"""Where events go. A sink takes one event at a time; `Sinks` hands each event to all of them.

A sink that fails (a full disk, a closed pipe, a lost connection) is dropped with one warning, and the run goes on:
losing a log never loses the run. `open_sinks` opens the ones that the config names, and everything that can be wrong
with them is found then, before the first step. No sink is handed a secret (`luthier.errors.secrets`).

Not covered: what is shown on the terminal; the caller adds `TextSink` or the live panel with `Sinks.add`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from luthier.config.outputs import EVENTS
from luthier.errors import LuthierError, MissingError, Problem
from luthier.errors.secrets import hide_in
from luthier.events.printable import one_line
from luthier.events.sinks.extra import Named, require_extras
from luthier.events.sinks.jsonl import JsonlSink
from luthier.events.types import Event, Gradients, Notice

__all__ = ["Named", "Sink", "Sinks", "open_sinks"]


class Sink(Protocol):
    """Something that takes events. Both methods may raise; `Sinks` deals with it."""

    def write(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


class Sinks:
    """Hands each event to many sinks, in the order in which they were added. A context manager that closes them.

    Args:
        warn: Called with one sentence for each sink that fails. The sinks that are left get it as a `Notice`.
    """

    def __init__(self, warn: Callable[[str], None] | None = None) -> None:
        self._sinks: dict[str, Sink] = {}
        self._warn = warn or _to_stderr

    def add(self, name: str, sink: Sink) -> None:
        """Add a sink; `name` is what the reader is told when it fails."""
        self._sinks[name] = sink

    @property
    def names(self) -> tuple[str, ...]:
        """The sinks that are still written to."""
        return tuple(self._sinks)

    def write(self, event: Event) -> None:
        """Hand an event to each sink; drop those that fail. Never raises for a failing sink."""
        events = [_without_secrets(event)]
        while events:
            current = events.pop(0)
            for name, sink in list(self._sinks.items()):
                try:
                    sink.write(current)
                except Exception as error:
                    text = self._drop(name, error)
                    events.append(Notice(severity="warning", text=text, step=getattr(current, "step", None)))

    def close(self) -> None:
        """Close all sinks, the last added first. Never raises for a failing sink."""
        for name, sink in reversed(list(self._sinks.items())):
            try:
                sink.close()
            except Exception as error:
                self._drop(name, error)
        self._sinks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop(self, name: str, error: Exception) -> str:
        sink = self._sinks.pop(name)
        text = f"{name} cannot be written any more and is left out from here on; training goes on ({_reason(error)})"
        # A file that failed to write often fails to close as well; it has been reported.
        with suppress(Exception):
            sink.close()
        self._warn(text)
        return text


def open_sinks(
    report_to: Sequence[str],
    output_dir: str | Path,
    logging_dir: str | Path | None,
    named: Named,
    attempt: str = "",
) -> Sinks:
    """The sinks of a run: events.jsonl always, and what `logging.report_to` names.

    Args:
        report_to: Any of tensorboard, wandb, mlflow, trackio.
        output_dir: Folder of the run; made if it is not there.
        logging_dir: TensorBoard folder; None for `logs` in `output_dir`.
        named: What the trackers call the run.
        attempt: Name of this start of the run in events.jsonl; by default one that is drawn.

    Raises:
        MissingError: An extra is not installed (E-ENV-001), a folder cannot be written (E-ENV-002), or a tracker does
            not start (E-ENV-003).
    """
    require_extras(report_to)
    output_dir = Path(output_dir)
    logging_dir = Path(logging_dir) if logging_dir is not None else output_dir / "logs"
    sinks = Sinks()
    try:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            sinks.add(EVENTS, JsonlSink(output_dir / EVENTS, attempt))
            for name in dict.fromkeys(report_to):
                sinks.add(name, _open(name, output_dir, logging_dir, named))
        except OSError as error:
            raise error if isinstance(error, LuthierError) else MissingError(_unwritable(output_dir, error)) from error
    except BaseException:
        sinks.close()
        raise
    return sinks


def _without_secrets(event: Event) -> Event:
    if isinstance(event, Gradients):  # names of layers, and tens of thousands of numbers
        return event
    texts = {field.name: getattr(event, field.name) for field in fields(event)}
    hidden = hide_in(texts)
    changed = {name: value for name, value in hidden.items() if value != texts[name]}
    return replace(event, **changed) if changed else event


def _open(name: str, output_dir: Path, logging_dir: Path, named: Named) -> Sink:
    # Each is imported only when it is named: none of them is needed to train.
    if name == "tensorboard":
        from luthier.events.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(logging_dir)
    if name == "wandb":
        from luthier.events.sinks.wandb import WandbSink

        return WandbSink(named, output_dir)
    if name == "mlflow":
        from luthier.events.sinks.mlflow import MlflowSink

        return MlflowSink(named)
    if name == "trackio":
        from luthier.events.sinks.trackio import TrackioSink

        return TrackioSink(named)
    raise ValueError(f"no sink is called {name!r}")


def _unwritable(output_dir: Path, error: OSError) -> Problem:
    return Problem(
        code="E-ENV-002",
        where=str(error.filename or output_dir),
        found=f"cannot be written: {error.strerror or error}",
        fix="set training.output_dir to a folder that you can write to, e.g. training.output_dir: ./checkpoints",
    )


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}")[:300]


def _to_stderr(text: str) -> None:
    with suppress(OSError, ValueError):  # its reader may be gone too
        sys.stderr.write(f"warning: {text}\n")
        sys.stderr.flush()
