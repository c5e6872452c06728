"""One run of a verification, in a process of its own.

    python -m luthier.verify.child FOLDER/NAME.json

The file holds a request: the config, the last step, after which logged step to die (0: not at all), whether to resume.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows SIGTERM cannot be caught either
PATIENCE_SECONDS = 60.0


def main() -> None:
    """Run the request; an error for users goes to stderr."""
    from luthier.errors import LuthierError

    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        train(request)
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def train(request: dict[str, Any]) -> None:
    """Train up to the last step, or die by SIGKILL on the way."""
    from luthier import api
    from luthier.events.types import Evaluated, Log
    from luthier.training.checkpoint import path_of

    last_step, every = request["last_step"], request["config"]["evaluation"]["eval_steps"]
    last_event = Evaluated if every and last_step % every == 0 else Log  # a stop breaks an evaluation off
    done = Event()
    resume = "auto" if request["resume"] else None
    for event in api.train(request["config"], resume=resume, allow=request["allow"], stop=done.is_set):
        if isinstance(event, Log) and event.step == request["kill_after"]:
            _wait_for(path_of(Path(request["config"]["training"]["output_dir"]), event.step - 1))
            os.kill(os.getpid(), SIGKILL)
        if isinstance(event, last_event) and event.step == last_step:
            done.set()


def _wait_for(checkpoint: Path) -> None:
    """Until it is there: it may be made whole while the next step is trained."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not checkpoint.is_dir() and time.monotonic() < end:
        time.sleep(0.02)


if __name__ == "__main__":
    main()
