"""Finished tables for experiment trackers: one run per table, curves over the budget, settings as configuration.

Nothing leaves the machine unless the environment says where to: ``WANDB_MODE`` or ``WANDB_API_KEY``,
``MLFLOW_TRACKING_URI``, ``TRACKIO_SPACE_ID`` or ``TRACKIO_SERVER_URL``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError, SecateurError
from secateur.core.files import ensure_folder
from secateur.core.registry import Registry
from secateur.reports.summary import Row, aggregate, number

TRACKERS: Registry[str] = Registry("tracker")
_TIMES = ("share", "interval_low", "interval_high", "spread")
METRICS = (
    *("accuracy", "balanced_accuracy", "loss", "macs", "weights"),
    *(f"{prefix}_{name}" for prefix in ("latency", "onnx") for name in _TIMES),
)


@dataclass(frozen=True)
class Series:
    """One figure of one criterion over the budget.

    Attributes:
        metric: one of `METRICS`.
        group: subset of classes and stage, where they say something; may be empty.
        line: the criterion, with its strategy where rows have several.
        points: value by step; the step is the budget in per mille.
    """

    metric: str
    group: str
    line: str
    points: dict[int, float]

    @property
    def name(self) -> str:
        """All of it, parted by slashes."""
        return "/".join(part for part in (self.metric, self.group, self.line) if part)


@dataclass(frozen=True)
class Log:
    """What a tracker is given: `TRACKERS` holds functions from this to where to look."""

    rows: list[dict[str, Any]]
    series: list[Series]
    project: str
    run: str
    settings: dict[str, Any]
    folder: Path

    def steps(self) -> Iterator[tuple[int, dict[str, float]]]:
        """All values of each step, steps rising."""
        for step in sorted({step for series in self.series for step in series.points}):
            yield step, {one.name: one.points[step] for one in self.series if step in one.points}


def check_tracker(name: str) -> None:
    """See that a tracker is there before long work begins; nothing is imported or started.

    Raises:
        RequestError: for an unknown name, or a package that is not installed.

    Example:
        >>> check_tracker("wand")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown tracker 'wand' (did you mean 'wandb'?); known: mlflow, ...
    """
    TRACKERS.factory(name)
    spec = importlib.util.find_spec(name) if name in _BUILT_IN else None
    # trackers leave folders of their own name behind, which Python takes for packages without a file
    if name in _BUILT_IN and (spec is None or spec.origin is None):
        raise RequestError(f"tracker '{name}' needs the package {name}; pip install 'secateur[{name}]'")


def log_rows(
    tracker: str,
    rows: Sequence[Row],
    *,
    project: str = "secateur",
    run: str,
    settings: Mapping[str, Any],
    folder: str | Path,
) -> str:
    """Log a finished table as one run.

    Each figure of `METRICS` becomes one series per criterion (class-blind ones apart), subset of classes and stage,
    mean over seeds; its step is the budget in per mille. All rows go along as a table (without nested values), but to
    TensorBoard, which has none; there the run is a folder with one run per criterion, so that criteria share a chart.

    Args:
        tracker: one of `TRACKERS`.
        rows: tidy rows of ``compare``.
        project: the experiment that runs are filed under.
        run: name of this run.
        settings: configuration, nested as it likes.
        folder: where runs are kept that are not sent anywhere.

    Returns:
        Where to look: an address, or a command that shows the run.

    Raises:
        RequestError: for an unknown tracker, one that is not installed, or no rows.
        SecateurError: when the tracker fails.
    """
    check_tracker(tracker)
    log = Log(
        rows=[
            {str(key): _plain(value) for key, value in row.items() if not isinstance(value, dict | list | tuple)}
            for row in rows
        ],
        series=series(rows),
        project=project,
        run=run,
        settings=json.loads(json.dumps(dict(settings), default=str)),
        folder=ensure_folder(folder).resolve(),
    )
    if not log.series:
        raise RequestError(f"nothing to log to {tracker}: no row has a budget and a figure; run compare first")
    try:
        with warnings.catch_warnings():
            # what a tracker's own packages think of each other is no news to the user
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return TRACKERS.factory(tracker)(log)
    except SecateurError:
        raise
    except Exception as error:  # each tracker has errors of its own
        text = " ".join(str(error).split())[:300]
        raise SecateurError(f"cannot log run '{run}' to {tracker} ({type(error).__name__}: {text})") from error


def series(rows: Sequence[Row]) -> list[Series]:
    """Curves over the budget, in the order of first appearance.

    Example:
        >>> one, = series([{"criterion": "lrp", "budget": 0.5, "accuracy": a} for a in (0.5, 1.0)])
        >>> one.name, one.points
        ('accuracy/lrp', {500: 0.75})
    """
    points = [point for point in aggregate(rows, by_subset=True) if point["budget"] is not None]
    pruned = [point for point in points if point["strategy"] != "unpruned"]
    varying = [name for name in ("model", "dataset", "strategy") if len({point[name] for point in pruned}) > 1]
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for metric in METRICS:
        for point in points:
            if point[metric] is None:
                continue
            group = [point["subset"]] * (point["subset"] != "all") + ["fine-tuned"] * point["finetuned"]
            first = "unpruned" if point["strategy"] == "unpruned" else point["criterion"]
            line = ", ".join([first, *(point[name] for name in varying if point[name] not in ("", first))])
            found.setdefault((metric, "/".join(group), line), {})[round(1000 * point["budget"])] = point[metric]
    return [Series(*key, values) for key, values in found.items()]


@TRACKERS.register("wandb")
def _wandb(log: Log) -> str:
    offline = not (os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"))
    if offline:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb = importlib.import_module("wandb")
    with wandb.init(
        project=log.project,
        name=log.run,
        config=log.settings,
        dir=str(log.folder),
        mode="offline" if offline else None,
        settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True),
    ) as run:
        for step, values in log.steps():
            run.log(values, step=step)
        columns = list(dict.fromkeys(key for row in log.rows for key in row))
        data = [[row.get(column) for column in columns] for row in log.rows]
        run.log({"rows": wandb.Table(columns=columns, data=data, allow_mixed_types=True)})
        place, address = Path(run.dir).parent, None if run.offline else run.url
    return str(address) if address else f"wandb sync {shlex.quote(str(place))}"


@TRACKERS.register("mlflow")
def _mlflow(log: Log) -> str:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = importlib.import_module("mlflow")
    entities = importlib.import_module("mlflow.entities")
    address = os.environ.get("MLFLOW_TRACKING_URI")
    store = address or f"sqlite:///{log.folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name(log.project)
    files = None if address else (log.folder / "mlflow-files").as_uri()
    number_of = experiment.experiment_id if experiment else client.create_experiment(log.project, files)
    run_id = client.create_run(number_of, run_name=log.run).info.run_id
    status = "FAILED"
    try:
        metrics = [
            entities.Metric(_mlflow_name(name), value, 0, step)
            for step, values in log.steps()
            for name, value in values.items()
        ]
        # the most that one request may carry
        for start in range(0, len(metrics), 1000):
            client.log_batch(run_id, metrics=metrics[start : start + 1000])
        params = [entities.Param(_mlflow_name(name), value[:6000]) for name, value in _flat(log.settings)]
        for start in range(0, len(params), 100):
            client.log_batch(run_id, params=params[start : start + 100])
        columns = list(dict.fromkeys(key for row in log.rows for key in row))
        client.log_table(run_id, {name: [row.get(name) for row in log.rows] for name in columns}, "rows.json")
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return f"run {run_id} at {address}" if address else f"mlflow ui --backend-store-uri {shlex.quote(store)}"


@TRACKERS.register("tensorboard")
def _tensorboard(log: Log) -> str:
    writers = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    protos = {name: importlib.import_module(f"tensorboard.compat.proto.{name}_pb2") for name in _PROTOS}
    text = importlib.import_module("tensorboard.plugins.text.metadata")
    place = _fresh(log.folder / "tensorboard" / _file_name(log.project), _file_name(log.run))
    with contextlib.closing(writers.EventFileWriter(str(place))) as writer:
        body = "\n".join(f"    {line}" for line in json.dumps(log.settings, indent=2).splitlines())  # as code
        tensor = protos["tensor"].TensorProto(dtype=protos["types"].DT_STRING, string_val=[body.encode()])
        about = text.create_summary_metadata(display_name="settings", description="")
        value = protos["summary"].Summary.Value(tag="settings/text_summary", metadata=about, tensor=tensor)
        writer.add_event(protos["event"].Event(step=0, summary=protos["summary"].Summary(value=[value])))
    for line in dict.fromkeys(one.line for one in log.series):
        with contextlib.closing(writers.EventFileWriter(str(place / _file_name(line)))) as writer:
            for one in (one for one in log.series if one.line == line):
                tag = "/".join(part for part in (one.metric, one.group) if part)
                for step in sorted(one.points):
                    value = protos["summary"].Summary.Value(tag=tag, simple_value=one.points[step])
                    summary = protos["summary"].Summary(value=[value])
                    writer.add_event(protos["event"].Event(step=step, summary=summary))
    return f"tensorboard --logdir {shlex.quote(str(place))}"


@TRACKERS.register("trackio")
def _trackio(log: Log) -> str:
    # trackio reads its folder once, when it is imported, and speaks on standard output
    os.environ.setdefault("TRACKIO_DIR", str(log.folder / "trackio"))
    with contextlib.redirect_stdout(io.StringIO()):
        trackio = importlib.import_module("trackio")
        trackio.init(
            project=log.project,
            name=log.run,
            config=log.settings,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, values in log.steps():
            trackio.log(values, step=step)
        pandas = importlib.import_module("pandas")
        trackio.log({"rows": trackio.Table(dataframe=pandas.DataFrame(log.rows))})
        trackio.finish()
    address = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")
    place = importlib.import_module("trackio.utils").TRACKIO_DIR
    return address or f"TRACKIO_DIR={shlex.quote(str(place))} trackio show --project {shlex.quote(log.project)}"


_BUILT_IN = tuple(TRACKERS)
_PROTOS = ("event", "summary", "tensor", "types")


def _fresh(folder: Path, name: str) -> Path:
    """A folder that is not there yet, lest two runs end in one chart."""
    return next(place for n in count(1) if not (place := folder / (name if n == 1 else f"{name}-{n}")).exists())


def _flat(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, settings if isinstance(settings, str) else json.dumps(settings)


def _mlflow_name(name: str) -> str:
    """Only what MLflow admits in names."""
    return re.sub(r"[^\w./ -]", "_", re.sub("[(),]", "", name))[:250]


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=()-]", "_", text).strip(". ") or "_"


def _plain(value: Any) -> Any:
    """Numbers as Python's own; those that are not finite as none."""
    if isinstance(value, bool | str) or value is None:
        return value
    if type(value).__name__.startswith("bool"):
        return bool(value)
    found = number(value)
    return str(value) if found is None and value == value else found
