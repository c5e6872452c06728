"""The last words below a run's screen: a run may be done, and what came out of it be ruined.

Not covered: warnings, and runs that were stopped or failed (`luthier doctor` tells all).
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from luthier.doctor import History, findings, fold
from luthier.events.printable import one_line
from luthier.events.sinks.text import TextSink
from luthier.events.types import Event, Notice


class Verdict:
    """A sink that prints the doctor's critical findings of a run that is done, with the command that tells more."""

    def __init__(self) -> None:
        self._seen = History()

    def write(self, event: Event) -> None:
        """Take one event."""
        self._seen = fold(self._seen, event, time.time())

    def close(self) -> None:
        """Say what is found, if anything."""
        ended = self._seen.finished
        if ended is None or ended.status != "done":
            return
        run = shlex.quote(one_line(str(Path(ended.final_model).parent)))
        for finding in findings(self._seen, time.time()):
            if finding.severity == "critical":
                TextSink(sys.stdout).write(Notice("warning", f"{finding.title}: luthier doctor {run}"))
