"""One trial in a process of its own: an ordinary run that asks after each evaluation whether it may go on.

    python -m luthier.sweep.trial CONFIG [KEY=VALUE]... [--allow NAME]...
    python -m luthier.sweep.trial CONFIG [KEY=VALUE]... --plan                  says {"total_steps": 400} and ends

Standard output carries one JSON object a line, and nothing else; what libraries print goes to standard error:

    {"started": total steps}                         {"evaluated": step, "losses": [2.1, 1.9]}    of all evaluations
    {"step": 40, "loss": 1.93}                           then it waits for a line: go, or stop
    {"problem": "E-RUN-001  ...", "exit_code": 1}    {"finished": "done"}      or "stopped"

A trial whose sweep is gone stops by itself, so that nothing is left training behind a sweep that was killed. It saves
on its way out, as any run does that is stopped.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from luthier.config.load import Loaded, load
from luthier.errors import EXIT_RESUMABLE, CheckpointError, LuthierError, ModelError
from luthier.sweep.losses import losses_of
from luthier.sweep.process import PARENT

WAIT_SECONDS = 60.0
"""For a trial of a sweep that was killed to leave its folder."""


def main(arguments: list[str]) -> None:
    """Run the trial; its exit code is that of `luthier train`."""
    from luthier.training.signals import stop_on_signals

    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(content: dict[str, Any]) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    try:
        with stop_on_signals() as stop:
            stop.at_once = True
            from luthier import api  # noqa: F401  (torch: seconds in which there is nothing to save)

            stop.at_once = False
            if "--plan" in arguments:
                return say({"total_steps": total_steps(arguments)})
            status = _patient(lambda: train(arguments, say, sys.stdin, stop))
            if status == "stopped":
                sys.exit(EXIT_RESUMABLE)
    except KeyboardInterrupt:
        sys.exit(EXIT_RESUMABLE)
    except BrokenPipeError:  # nobody listens any more
        sys.exit(EXIT_RESUMABLE)
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        say({"problem": str(error), "exit_code": error.exit_code})
        sys.exit(error.exit_code)


def train(
    arguments: list[str], say: Callable[[dict[str, Any]], None], answers: TextIO, stop: Callable[[], bool]
) -> str:
    """Train to the end, or until it is told to stop.

    Returns:
        The status of the run: done or stopped.
    """
    from luthier import api
    from luthier.events.types import Evaluated, Log, RunFinished, RunStarted

    allow = [word for before, word in pairwise(arguments) if before == "--allow"]
    loaded = _loaded(arguments)
    folder = Path(loaded.config.training.output_dir).expanduser()
    parent, ends, status = int(os.environ.get(PARENT, os.getppid())), False, ""

    def tell(content: dict[str, Any]) -> None:
        nonlocal ends
        try:
            say(content)
        except BrokenPipeError:  # nobody listens any more, and there may be steps to save
            ends = True

    events = api.train(loaded, resume="auto", allow=allow, stop=lambda: stop() or ends or os.getppid() != parent)
    for event in events:
        match event:
            case RunStarted():
                tell({"started": event.total_steps})
            case Log():
                tell({"step": event.step, "loss": event.loss})
            case Evaluated():
                tell({"evaluated": event.step, "losses": losses_of(folder)})
                ends |= answers.readline().strip() != "go"
            case RunFinished():
                status = event.status
                tell({"finished": status})
    return status


def total_steps(arguments: list[str]) -> int:
    """How many steps the run would have.

    Raises:
        LuthierError: It cannot run here.
    """
    from luthier import api

    plan, missing = api.plan(_loaded(arguments))
    if missing:
        raise ModelError(*missing)
    return plan.total_steps


def _loaded(arguments: list[str]) -> Loaded:
    return load(arguments[0], [word for word in arguments[1:] if "=" in word])


def _patient(work: Callable[[], str]) -> str:
    """Try again while the folder is still in use."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return work()
        except CheckpointError as error:
            if error.problems[0].code != "E-CKPT-006" or time.monotonic() > until:
                raise
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1:])
