"""trackio, for those who name it in logging.report_to. An extra: `luthier[trackio]`.

It writes to a local database; its own environment variables (TRACKIO_SPACE_ID and others) decide the rest.
"""

from __future__ import annotations

from luthier.events.sinks.extra import Named, starting
from luthier.events.sinks.metrics import metrics
from luthier.events.types import Event, RunStarted


class TrackioSink:
    """One run in trackio: hyper-parameters and metrics."""

    def __init__(self, named: Named) -> None:
        with starting("trackio", "unset TRACKIO_SPACE_ID to log to this machine, or run `hf auth login`"):
            import trackio

            self._run = trackio.init(project=named.project_or("TRACKIO_PROJECT"), name=named.run)

    def write(self, event: Event) -> None:
        """Send the numbers of one event."""
        if isinstance(event, RunStarted):
            # The config travels with the first numbers, so it is whole by then.
            self._run.config.update({key: str(value) for key, value in event.plan.items()})
        elif values := metrics(event):
            self._run.log(values, step=getattr(event, "step", None))

    def close(self) -> None:
        """Send what is left and end the run."""
        self._run.finish()
