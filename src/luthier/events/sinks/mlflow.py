"""MLflow, for those who name it in logging.report_to. An extra: `luthier[mlflow]`.

Its own environment variables decide the rest: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.
"""

from __future__ import annotations

from luthier.events.sinks.extra import Named, starting
from luthier.events.sinks.metrics import metrics
from luthier.events.types import Event, RunFinished, RunStarted

_PARAMS_A_CALL = 100
_LONGEST_PARAM = 500


class MlflowSink:
    """One run in MLflow: hyper-parameters and metrics."""

    def __init__(self, named: Named) -> None:
        with starting("mlflow", "set MLFLOW_TRACKING_URI to a server that answers, or unset it to stay local"):
            import mlflow

            self._mlflow = mlflow
            if named.project:
                mlflow.set_experiment(named.project)
            mlflow.start_run(run_name=named.run)
        self._status = "FAILED"

    def write(self, event: Event) -> None:
        """Send the numbers of one event."""
        if isinstance(event, RunStarted):
            params = [(key, str(value)[:_LONGEST_PARAM]) for key, value in event.plan.items()]
            for start in range(0, len(params), _PARAMS_A_CALL):
                self._mlflow.log_params(dict(params[start : start + _PARAMS_A_CALL]))
        elif values := metrics(event):
            self._mlflow.log_metrics(values, step=getattr(event, "step", None))
        if isinstance(event, RunFinished):
            self._status = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[event.status]

    def close(self) -> None:
        """End the run with its status."""
        self._mlflow.end_run(self._status)
