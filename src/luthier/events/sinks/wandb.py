"""Weights & Biases, for those who name it in logging.report_to. An extra: `luthier[wandb]`.

Its own environment variables decide the rest: WANDB_ENTITY, WANDB_MODE=offline, WANDB_API_KEY.
"""

from __future__ import annotations

from pathlib import Path

from luthier.events.sinks.extra import Named, starting
from luthier.events.sinks.metrics import metrics
from luthier.events.types import Event, RunFinished, RunStarted


class WandbSink:
    """One run in W&B: hyper-parameters and metrics."""

    def __init__(self, named: Named, directory: Path) -> None:
        with starting("wandb", "run `wandb login`, or set WANDB_MODE=offline to keep the run on this machine"):
            import wandb

            project = named.project_or("WANDB_PROJECT")
            self._run = wandb.init(project=project, name=named.run, dir=str(directory))
        self._exit_code = 1

    def write(self, event: Event) -> None:
        """Send the numbers of one event."""
        if isinstance(event, RunStarted):
            # Its config does not allow dots in names.
            config = {key.replace(".", "/"): value for key, value in event.plan.items()}
            self._run.config.update(config, allow_val_change=True)
        elif values := metrics(event):
            self._run.log(values, step=getattr(event, "step", None))
        if isinstance(event, RunFinished):
            self._exit_code = 0 if event.status == "done" else 1

    def close(self) -> None:
        """End the run: failed, unless it was done."""
        self._run.finish(exit_code=self._exit_code)
