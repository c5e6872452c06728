"""One run of a verification, in a process of its own.

    python -m luthier.verify.child FOLDER/NAME.json

The file holds a request: the config, the last step, after which logged step to die (0: not at all), whether to resume.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows SIGTERM cannot be caught either


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

    last_step, every = request["last_step"], request["config"]["evaluation"]["eval_steps"]
    last_event = Evaluated if every and last_step % every == 0 else Log  # a stop breaks an evaluation off
    done = [False]
    resume = "auto" if request["resume"] else None
    for event in api.train(request["config"], resume=resume, allow=request["allow"], stop=lambda: done[0]):
        if isinstance(event, Log) and event.step == request["kill_after"]:
            os.kill(os.getpid(), SIGKILL)
        done[0] |= isinstance(event, last_event) and event.step == last_step


if __name__ == "__main__":
    main()
