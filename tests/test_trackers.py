from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from secateur.core.errors import RequestError, SecateurError
from secateur.core.timing import LatencyShare
from secateur.reports import TRACKERS, check_tracker, log_rows
from secateur.reports.trackers import Log, series

SETTINGS = {"prune": {"strategy": "per-cost", "steps": [1, 2]}, "seeds": 2, "out": Path("out")}
# the trackers' own packages warn, and clean up when they are collected
third_party = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where no tracker is set up; what a tracker sets in the environment goes again."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
            monkeypatch.delenv(name)
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY", "TRACKIO_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


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


def test_one_series_per_criterion_scoring_subset_and_stage_over_the_budget() -> None:
    found = {one.name: one.points for one in series(rows())}
    assert len(found) == 2 * 2 * 3 * 2  # metrics, subsets, criteria, stages
    assert found["accuracy/pets/lrp"] == pytest.approx({800: 0.81, 500: 0.51})
    assert found["accuracy/vehicles/fine-tuned/lrp (class-blind)"] == pytest.approx({800: 0.71, 500: 0.41})


def test_older_rows_have_short_names_and_strategies_stay_apart() -> None:
    plain = [{"criterion": "lrp", "strategy": "global", "budget": 0.5, "accuracy": 0.7}]
    assert [one.name for one in series(plain)] == ["accuracy/lrp"]
    two = [*plain, plain[0] | {"strategy": "per-cost", "accuracy": 0.8}]
    assert [one.name for one in series(two)] == ["accuracy/lrp, global", "accuracy/lrp, per-cost"]
    whole = {"criterion": "none", "strategy": "unpruned", "budget": 1.0, "accuracy": 0.9}
    assert [one.name for one in series([whole, *plain])] == ["accuracy/unpruned", "accuracy/lrp"]


def test_shares_of_time_go_with_their_intervals() -> None:
    row = {"criterion": "lrp", "strategy": "global", "budget": 0.5, "accuracy": 0.7}
    row |= LatencyShare(0.97, (0.93, 1.02), 9, 10.0, 0.03).columns()
    found = {one.name: one.points[500] for one in series([row])}
    assert found["latency_share/lrp"] == 0.97
    assert (found["latency_interval_low/lrp"], found["latency_interval_high/lrp"]) == (0.93, 1.02)
    assert found["latency_spread/lrp"] == 0.03


def test_an_unknown_tracker_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="unknown tracker 'wandbb'.*mlflow, tensorboard, trackio, wandb"):
        check_tracker("wandbb")


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard", "trackio"])
def test_a_missing_package_is_named_before_any_work(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RequestError, match=rf"pip install 'secateur\[{name}\]'"):
        check_tracker(name)
    with pytest.raises(RequestError, match=rf"secateur\[{name}\]"):
        log_rows(name, rows(), run="r", settings={}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_old_runs_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    folder = ModuleSpec("wandb", None, is_package=True)
    folder.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: folder)
    with pytest.raises(RequestError, match="needs the package wandb"):
        check_tracker("wandb")


def test_a_tracker_of_ones_own_gets_rows_series_and_plain_settings(tmp_path: Path) -> None:
    seen: list[Log] = []

    @TRACKERS.register("mine")
    def mine(log: Log) -> str:
        seen.append(log)
        return "here"

    try:
        check_tracker("mine")
        assert log_rows("mine", rows(), run="r", settings=SETTINGS, folder=tmp_path) == "here"
        with pytest.raises(RequestError, match="nothing to log to mine"):
            log_rows("mine", [{"criterion": "lrp"}], run="r", settings={}, folder=tmp_path)
    finally:
        TRACKERS.remove("mine")
    (log,) = seen
    assert (log.project, log.run, log.settings["out"]) == ("secateur", "r", "out")
    assert [step for step, _ in log.steps()] == [500, 800]
    assert len(log.rows) == len(rows())
    assert log.rows[0]["latency_ms"] is None
    assert "per_class" not in log.rows[0]
    assert json.dumps(log.rows, allow_nan=False)


def test_what_a_tracker_raises_is_told_in_one_line(tmp_path: Path) -> None:
    @TRACKERS.register("broken")
    def broken(log: Log) -> str:
        raise OSError("no\nroom")

    try:
        with pytest.raises(SecateurError, match=r"cannot log run 'r' to broken \(OSError: no room\)"):
            log_rows("broken", rows(), run="r", settings={}, folder=tmp_path)
    finally:
        TRACKERS.remove("broken")


@third_party
def test_tensorboard_reads_the_curves_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    where = log_rows("tensorboard", rows(), run="first run", settings=SETTINGS, folder=tmp_path)
    assert where.startswith("tensorboard --logdir ")
    found = EventMultiplexer().AddRunsFromDirectory(where.split(" ", 2)[2]).Reload()
    lines = set(found.Runs()) - {"."}
    assert lines == {"lrp", "lrp_(class-blind)", "lrp_composite=epsilon-plus,reduce=abs"}
    events = found.Scalars("lrp", "accuracy/pets/fine-tuned")
    assert [event.step for event in events] == [500, 800]
    assert [event.value for event in events] == pytest.approx([0.51, 0.81])
    (about,) = found.Tensors(".", "settings/text_summary")
    assert b'"strategy": "per-cost"' in about.tensor_proto.string_val[0]
    again = log_rows("tensorboard", rows(), run="first run", settings=SETTINGS, folder=tmp_path)
    assert again == f"{where}-2"


@third_party
def test_wandb_keeps_an_offline_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    where = log_rows("wandb", rows(), run="first", settings=SETTINGS, folder=tmp_path)
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


@third_party
def test_mlflow_keeps_runs_in_a_file(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    where = log_rows("mlflow", rows(), run="first", settings=SETTINGS, folder=tmp_path)
    client = mlflow.MlflowClient(tracking_uri=where.split(" ")[-1])
    experiment = client.get_experiment_by_name("secateur")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["prune.strategy"] == "per-cost"
    history = client.get_metric_history(run.info.run_id, "accuracy/pets/lrp class-blind")
    assert {metric.step: metric.value for metric in history} == pytest.approx({500: 0.41, 800: 0.71})
    assert "accuracy/pets/lrp_composite_epsilon-plusreduce_abs" in run.data.metrics
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["rows.json"]


@third_party
def test_trackio_keeps_a_run_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("trackio") is None:  # not imported: it reads its folder when it is
        pytest.skip("trackio is not installed")
    where = log_rows("trackio", rows(), run="first", settings=SETTINGS, folder=tmp_path)
    assert where == f"TRACKIO_DIR={tmp_path / 'trackio'} trackio show --project secateur"
    assert capsys.readouterr().out == ""
    with sqlite3.connect(tmp_path / "trackio" / "secateur.db") as store:
        found = {step: json.loads(text) for step, text in store.execute("SELECT step, metrics FROM metrics")}
    store.close()
    assert found[500]["accuracy/pets/lrp"] == pytest.approx(0.51)
    assert any("rows" in values for values in found.values())
