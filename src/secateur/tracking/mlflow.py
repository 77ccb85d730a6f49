"""MLflow."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.tracking.base import Run, Tracker, Value, metric_name
from secateur.tracking.registry import TRACKERS
from secateur.tracking.values import flat

_METRICS = 1000
_PARAMS = 100
"""That one request may carry."""


@TRACKERS.register("mlflow")
class Mlflow(Tracker):
    """A run in ``mlflow.db`` in the folder, or at ``MLFLOW_TRACKING_URI``."""

    def __init__(self, run: Run) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        mlflow = importlib.import_module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        self._address = os.environ.get("MLFLOW_TRACKING_URI")
        self._store = self._address or f"sqlite:///{run.folder / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=self._store)
        if run.identity is None:
            self.identity = self._created(run)
            return
        self.identity = run.identity
        self._client.update_run(self.identity, status="RUNNING")
        steps = (
            metric.step
            for name in self._client.get_run(self.identity).data.metrics
            for metric in self._client.get_metric_history(self.identity, name)
        )
        self.last_step = max(steps, default=-1)

    def _created(self, run: Run) -> str:
        experiment = self._client.get_experiment_by_name(run.project)
        files = None if self._address else (run.folder / "mlflow-files").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(run.project, files)
        identity = str(self._client.create_run(number, run_name=run.name).info.run_id)
        pairs = [(name, text) for name, text in flat(run.settings) if name]
        params = [self._entities.Param(_name(name), text[:6000]) for name, text in pairs]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(identity, params=params[start : start + _PARAMS])
        return identity

    def log(self, values: Mapping[str, float], step: int, line: str) -> None:
        """See `Tracker.log`."""
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(_name(metric_name(name, line)), value, now, step) for name, value in values.items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self.identity, metrics=metrics[start : start + _METRICS])

    def table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """See `Tracker.table`."""
        file = f"{name}.json"
        columns: dict[str, Any] = {column: [row[column] for row in rows] for column in (rows[0] if rows else ())}
        if any(artifact.path == file for artifact in self._client.list_artifacts(self.identity)):
            # log_table would add rows to those of a run that is resumed
            self._client.log_dict(
                self.identity, {"columns": list(columns), "data": [list(row.values()) for row in rows]}, file
            )
        else:
            self._client.log_table(self.identity, columns, file)

    def file(self, path: Path) -> None:
        """See `Tracker.file`."""
        self._client.log_artifact(self.identity, str(path))

    def close(self, failed: bool) -> str:
        """See `Tracker.close`."""
        self._client.set_terminated(self.identity, "FAILED" if failed else "FINISHED")
        if self._address:
            return f"run {self.identity} at {self._address}"
        return f"mlflow ui --backend-store-uri {shlex.quote(self._store)}"


_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # a server that does not answer holds the work up for half a minute, not for a quarter of an hour
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


def _name(name: str) -> str:
    """Only what MLflow admits in names."""
    return re.sub(r"[^\w./ -]", "_", re.sub("[(),]", "", name))[:250]
