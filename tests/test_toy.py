"""The 2-D toy study: data, network, scores, surgery, the grid and its command line."""

import contextlib
import copy
import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import secateur as sc
from secateur.cli.main import run as command
from secateur.core.errors import RequestError
from secateur.criteria import Scores
from secateur.experiments import Resources, opened_store, run
from secateur.models import save_weights
from secateur.studies import toy
from secateur.studies.toy.criteria import criterion_for
from secateur.studies.toy.work import Bench

pytest.importorskip("sklearn")

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "toy"
BRIEF = toy.NetworkSettings(seed=0, per_class=100, epoch=2000, epochs=1, batch_size=100)
BRIEFLY = [
    *("--set", "network.seed=0", "--set", "network.per_class=100", "--set", "network.epoch=2000"),
    *("--set", "network.epochs=1", "--set", "network.batch_size=100"),
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of our own, so that no test trains for minutes or finds what another left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bench():
    return Bench("mult", BRIEF)


def grid(processes=1, **changes):
    """Settings of a small grid; fields of all sections by their names."""
    small = {"datasets": ("moon",), "seeds": (0, 1), "samples_per_class": (1, 5), "noise": (0.1,)} | changes

    def section(kind):
        return kind(**{name: value for name, value in small.items() if name in kind.model_fields})

    return toy.ToySettings(
        grid=section(toy.GridSettings), pruning=section(toy.PruningSettings), output=section(toy.OutputSettings),
        network=BRIEF, execution={"processes": processes},
    )  # fmt: skip


def run_grid(settings_, folder):
    """Run a grid as the command does; what was made and found, and the paths."""
    study = toy.ToyStudy(settings_)
    with opened_store(folder / "cells.sqlite", study) as store:
        outcome = run(study, store)
        return outcome, study.write(store.frames(), folder)


def measured(cell, settings_):
    """Accuracies of one pruning: (evaluated_on, noise, stage, accuracy)."""
    rows = toy.prune_once(cell, settings_, Resources()).rows["results"]
    return {(row["evaluated_on"], row["noise"], row["stage"], row["accuracy"]) for row in rows}


# data


@pytest.mark.parametrize(("name", "classes"), [("moon", 2), ("circle", 2), ("mult", 4), ("mult-7", 7)])
def test_points_are_balanced_and_follow_from_the_seed(name, classes):
    first, again, other = (toy.draw(name, 9, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.x, other.x)
    assert np.bincount(first.labels).tolist() == [9] * classes
    assert first.x.dtype == np.float32


def test_spiral_follows_its_formula():
    points = toy.draw("mult", 50, seed=1)
    radius = np.linspace(0, 1, 50)
    for arm in range(4):
        x = points.x[points.labels == arm].astype(float)
        np.testing.assert_allclose(np.hypot(*x.T), radius, atol=1e-6)
        angle = np.arctan2(x[1:, 0], x[1:, 1]) - np.linspace(4 * arm, 4 * (arm + 1), 50)[1:]
        off = (angle + np.pi) % (2 * np.pi) - np.pi  # 0.2 times a normal number
        assert 0.1 < off.std() < 0.3
    assert (toy.draw("mult", 1, seed=1).x == 0).all()  # the arms begin at the origin


def test_published_circle_is_ours():
    if not REFERENCE.is_dir():
        pytest.skip("the published training sets are not here")
    points = toy.draw("circle", 1000, seed=0)
    np.testing.assert_array_equal(points.x, np.load(REFERENCE / "circle_train_X.npy"))
    np.testing.assert_array_equal(points.labels, np.load(REFERENCE / "circle_train_y.npy"))


@given(sigma=st.floats(0, 2), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_noisy_points_are_the_next_seeds_points_moved_by_sigma(sigma, seed):
    noisy, still = toy.draw_noisy("moon", sigma, seed), toy.draw("moon", 250, seed + 1)
    moved = noisy.x.astype(float) - still.x
    direction = toy.draw_noisy("moon", 1.0, seed).x.astype(float) - still.x
    np.testing.assert_allclose(moved, sigma * direction, atol=1e-5)
    np.testing.assert_array_equal(noisy.labels, still.labels)


# scores and surgery


def test_published_scores_follow_their_formulas(bench):
    """Each criterion against the formulas written out by hand, in float64."""
    points = toy.draw("mult", 6, seed=2)
    model = copy.deepcopy(bench.model).double()
    weights = [p.detach() for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p.detach() for n, p in model.named_parameters() if n.endswith("bias")]
    x, labels = torch.from_numpy(points.x).double(), torch.from_numpy(points.labels)
    z = [x @ weights[0].T + biases[0]]
    z.append(z[0].relu() @ weights[1].T + biases[1])
    z.append(z[1].relu() @ weights[2].T + biases[2])
    logits = z[2] @ weights[3].T + biases[3]
    hot = torch.nn.functional.one_hot(labels, 4).double()

    relevance, back = [], hot * logits
    for inputs, weight in ((z[2], weights[3]), (z[1].relu(), weights[2]), (z[0].relu(), weights[1])):
        plus = weight.clamp(min=0)
        back = inputs * ((back / (inputs @ plus.T)) @ plus)
        relevance.insert(0, back.sum(0))
    gradient = [None, None, (logits.softmax(1) - hot) @ weights[3]]
    gradient[1] = (gradient[2] @ weights[2]) * (z[1] > 0)
    gradient[0] = (gradient[1] @ weights[1]) * (z[0] > 0)

    def scaled(parts, size):
        return torch.cat([part / size(part) for part in parts]).numpy()

    truth = {
        "lrp": scaled(relevance, torch.sum),
        "taylor": scaled([(a * g).sum(0).abs() for a, g in zip(z, gradient, strict=True)], torch.norm),
        "grad": scaled([g.sum(0).abs() for g in gradient], torch.norm),
        "weight": scaled([w.abs().sum(1) for w in weights[:3]], torch.sum),
    }
    reference = sc.ReferenceSet(x, labels, tuple(range(len(points))))
    for name, expected in truth.items():
        criterion = criterion_for(name, 0)
        if name == "lrp":  # the formula has no stabiliser
            criterion = replace(criterion, composite=sc.composites.get("plus-weights", stabiliser=1e-12))
        found = sc.score(model, bench.structure, reference, criterion).values
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10 * np.abs(expected).max(), err_msg=name)


def test_parameters_of_a_criterion_override_the_published_ones():
    assert criterion_for("lrp:composite=epsilon", 0).composite == "epsilon"
    assert criterion_for("lrp:composite=epsilon", 0).normalise == "sum"
    assert criterion_for("random", 7).seed == 7


@pytest.mark.parametrize("all_relu", [False, True])
@pytest.mark.parametrize("share", [(0.2, 0.5, 0.3), (0.9, 0.1, 0.6), (0.5, 0.5, 0.5)])
def test_fast_cuts_are_physical_removal(all_relu, share):
    """The same logits as the network that `sc.prune` makes smaller, on either way to add up the second layer."""
    torch.manual_seed(1)
    model = toy.build(3, all_relu).eval()
    structure = sc.trace(model, torch.zeros(1, 2))
    assert [group.layers[0] for group in structure.groups] == ["hidden1", "hidden2", "hidden3"]
    draw = np.random.default_rng(0)
    gone = np.concatenate([draw.random(1000) < s for s in share])
    values = np.where(gone, 0.0, 1.0) + 1e-3 * draw.random(3000)
    plan = sc.select(Scores(structure, values, "test"), sc.Budget(units=1 - gone.mean()), strategy="global")
    slim = sc.prune(model, plan)
    x = draw.normal(size=(40, 2)).astype(np.float32)
    cutter = toy.Cutter(model)
    logits = cutter.cut(toy.remaining(np.argsort(values, kind="stable"), int(gone.sum()))).logits(cutter.begin(x))
    torch.testing.assert_close(logits, slim(torch.from_numpy(x)), rtol=1e-4, atol=1e-5)


def test_whole_layers_can_go(bench):
    keep = np.ones(3000, bool)
    keep[:1000] = False
    logits = bench.cutter.cut(keep).logits(bench.begun)
    assert torch.allclose(logits, logits[:1].expand_as(logits))  # the input no longer matters


def test_a_run_does_not_depend_on_its_company():
    cell = toy.ToyCell(dataset="mult", criterion="grad", samples_per_class=5, seed=3)
    alone, others = grid(criteria=("grad",)), grid(criteria=("lrp", "taylor", "grad"), noise=(0.3, 0.1))
    orders = [toy.order_of(cell, settings_, Resources()) for settings_ in (alone, others)]
    np.testing.assert_array_equal(*orders)
    assert measured(cell, alone) <= measured(cell, others)


def test_accuracies_are_of_the_pruned_network(bench):
    cell, settings_ = toy.ToyCell(dataset="mult", criterion="lrp", samples_per_class=5, seed=0), grid()
    values = np.empty(3000)
    values[toy.order_of(cell, settings_, Resources())] = np.arange(3000)
    plan = sc.select(Scores(bench.structure, values, "order"), sc.Budget(units=2 / 3), strategy="global")
    slim = sc.prune(bench.model, plan)
    for name, points in (
        ("train", toy.draw("mult", 100, 0)),
        ("test", toy.draw("mult", 5, 0)),
        ("noisy", toy.draw_noisy("mult", 0.1, 0)),
    ):
        found = {stage: value for where, _, stage, value in measured(cell, settings_) if where == name}
        for stage, network in (("pre", bench.model), ("post", slim)):
            right = network(torch.from_numpy(points.x)).argmax(1).numpy() == points.labels
            assert found[stage] == pytest.approx(100 * right.mean(), abs=0.3)


# Shapley values of 3000 units take half a minute
@pytest.mark.parametrize("criterion", [name for name in sc.criteria.known() if name not in ("bn-scale", "shapley")])
def test_every_criterion_takes_part(bench, criterion):
    order = bench.orders([criterion], 2, 0)[criterion]
    assert sorted(order.tolist()) == list(range(3000))


def test_a_criterion_about_norms_is_refused(bench):
    with pytest.raises(sc.RequestError, match="no removable unit passes a norm"):
        bench.orders(["bn-scale"], 2, 0)


# the trained network


def test_training_is_found_again_and_goes_on_where_it_stopped(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "a"))
    two = BRIEF.model_copy(update={"epochs": 2})
    whole = toy.trained("moon", two)
    path = toy.place("moon", two)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    stamp = path.stat().st_mtime_ns
    again = toy.trained("moon", two)
    assert path.stat().st_mtime_ns == stamp

    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "b"))
    from secateur.training.fit import _Training

    def stop(self, epoch, _real=_Training._epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return _real(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(_Training, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            toy.trained("moon", two)
    resumed = toy.trained("moon", two)
    for other in (again, resumed):
        for a, b in zip(whole.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)


def test_broken_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    path = toy.place("moon", BRIEF)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    with pytest.raises(RequestError, match="delete it"):
        toy.trained("moon", BRIEF)


# the grid


def test_grid_writes_the_tidy_table(tmp_path):
    _, written = run_grid(grid(), tmp_path)
    frame = pd.read_csv(written["table"])
    assert list(frame.columns[:8]) == [
        *("dataset", "criterion", "samples_per_class", "seed", "evaluated_on", "noise", "stage", "accuracy"),
    ]
    assert len(frame) == 4 * 2 * 2 * 3 * 2  # criteria, samples, seeds, places, stages
    assert frame["accuracy"].between(0, 100).all()
    assert not frame.duplicated(list(toy.COLUMNS[:7])).any()
    pd.testing.assert_frame_equal(frame, pd.read_parquet(tmp_path / "results.parquet"), check_dtype=False)
    orders = toy.read_ranks(written["ranks"])
    assert len(orders) == 16
    bench = Bench("moon", BRIEF)
    np.testing.assert_array_equal(orders[toy.Run("moon", "grad", 5, 1)], bench.orders(["grad"], 5, 1)["grad"])


def test_grid_finds_finished_runs_and_makes_the_missing(tmp_path):
    first, written = run_grid(grid(criteria=("lrp", "weight")), tmp_path)
    before = pd.read_csv(written["table"])
    again, _ = run_grid(grid(criteria=("lrp", "weight")), tmp_path)
    assert (first.made, again.made, again.found) == (8, 0, 8)
    more, written = run_grid(grid(criteria=("lrp", "weight", "grad"), seeds=(0, 1, 2)), tmp_path)
    assert (more.made, more.found) == (10, 8)
    after = pd.read_csv(written["table"])
    common = after.merge(before, on=list(toy.COLUMNS[:7]))
    assert len(common) == len(before)
    assert (common["accuracy_x"] == common["accuracy_y"]).all()


@pytest.mark.slow
def test_other_settings_are_other_runs(tmp_path):
    run_grid(grid(), tmp_path)
    assert run_grid(grid(remove=500), tmp_path)[0].found == 0
    assert run_grid(grid(noise=(0.2,)), tmp_path)[0].found == 0
    assert run_grid(grid(), tmp_path)[0].found == 16


def test_a_criterion_that_fails_does_not_stop_the_others(tmp_path):
    outcome, written = run_grid(grid(criteria=("lrp", "bn-scale", "weight")), tmp_path)
    assert (outcome.made, len(outcome.failures)) == (8, 4)
    assert "no removable unit passes a norm" in outcome.failures[0].error
    assert set(pd.read_csv(written["table"])["criterion"]) == {"lrp", "weight"}


@pytest.mark.slow
def test_two_processes_and_a_kill_give_the_same_files(tmp_path):
    """A grid on two processes is killed with SIGKILL, run again, and compared with one that ran alone."""
    settings_ = ["--dataset", "moon", "--seeds", "8", "--samples-per-class", "100", "--noise", "0.1", *BRIEFLY]
    toy.trained("moon", BRIEF)
    start = [Path(sys.executable).with_name("secateur"), "toy", "grid", *settings_]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*start, "--processes", "2", "--out", str(killed)], start_new_session=True)
    try:
        deadline = time.monotonic() + 300  # workers load PyTorch, which takes long on busy cores
        while _stored(killed) < 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = _stored(killed)
    assert 0 < finished < 32
    assert not (killed / "results.csv").exists()
    _no_process_left(process.pid)
    assert command(["toy", "grid", *settings_, "--processes", "1", "--out", str(killed)]) == 0
    assert command(["toy", "grid", *settings_, "--processes", "1", "--out", str(tmp_path / "whole")]) == 0
    for name in ("results.csv", "ranks.parquet"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _stored(folder):
    try:
        # a connection's own context ends a transaction only, and leaves the file open
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'cells.sqlite'}?mode=rw", uri=True)) as database:
            return database.execute("SELECT count(*) FROM cells WHERE state = 'finished'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def _no_process_left(group):
    """The workers end with the process that started them."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("a worker outlived its parent")


@pytest.mark.slow
def test_an_interruption_ends_everything_at_once(tmp_path):
    """Ctrl-C goes to all processes: one line, exit code 130, nobody left, and finished runs kept."""
    start = [Path(sys.executable).with_name("secateur"), "toy", "grid", "--dataset", "moon", "--seeds", "40", *BRIEFLY]
    process = subprocess.Popen(
        [*start, "--processes", "2", "--out", str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300  # workers load PyTorch, which takes long on busy cores
    while _stored(tmp_path) < 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert said.strip().splitlines()[-1].startswith("secateur: interrupted")
    assert "Traceback" not in said
    _no_process_left(process.pid)
    assert _stored(tmp_path) >= 1


@pytest.mark.slow
def test_ranks_do_not_outlive_their_table(tmp_path):
    run_grid(grid(), tmp_path)
    run_grid(grid(ranks=False, remove=500), tmp_path)
    assert not (tmp_path / "ranks.parquet").exists()


# given training points


def written(path, x, labels):
    """Points as a file, whatever its kind."""
    if path.suffix == ".npz":
        np.savez(path, x=x, labels=labels)
    else:
        pd.DataFrame({"x": x[:, 0], "y": x[:, 1], "label": labels}).to_csv(path, index=False)
    return str(path)


def test_given_points_train_a_network_of_their_own(tmp_path, capfd):
    points = toy.draw("moon", 60, seed=9)
    same = [written(tmp_path / name, points.x, points.labels) for name in ("a.npz", "moon.csv")]
    moved = written(tmp_path / "moved.npz", points.x + 0.5, points.labels)
    places = [toy.place("moon", BRIEF, toy.training_points(path, "moon")) for path in (*same, str(tmp_path), moved)]
    assert places[0] == places[1] == places[2]  # by what is in the file, wherever it is
    assert len({*places, toy.place("moon", BRIEF)}) == 3
    start = ["toy", "run", "--criterion", "weight", "--render", "none", *BRIEFLY, "--out", str(tmp_path / "out")]
    for path in (same[0], moved):
        assert command([*start, "--training-data", path]) == 0
    assert all(place.exists() for place in places)
    found = toy.read_rows(tmp_path / "out" / "runs.csv")
    names = [BRIEF.name(toy.training_points(path, "moon")) for path in (same[0], moved)]
    assert found["network"].unique().tolist() == names
    whole = Bench("moon", BRIEF, toy.training_points(moved, "moon"))
    np.testing.assert_array_equal(whole.train.x, points.x + np.float32(0.5))
    rows = found[(found["network"] == names[1]) & (found["evaluated_on"] == "train") & (found["stage"] == "pre")]
    assert rows["accuracy"].tolist() == [whole.before]
    capfd.readouterr()
    assert command([*start, "--training-data", moved, "--dataset", "moon", "--dataset", "circle"]) == 2
    assert "is a file of one data set" in capfd.readouterr().err


def test_other_given_points_are_other_cells(tmp_path):
    points, network = toy.draw("moon", 60, seed=9), BRIEF.model_copy(update={"epoch": 200})
    sets = {"datasets": ("moon",), "criteria": ("weight",), "samples_per_class": (1,), "seeds": (0,)}
    names = {"a.npz": 0, "b.csv": 0, "c.npz": 1}
    paths = [written(tmp_path / name, points.x + step, points.labels) for name, step in names.items()]
    found = []
    for path in (*paths, None):
        study = toy.ToyStudy(toy.ToySettings(grid=sets, network=network, training={"data": path}))
        found.append(study.inputs(study.cells()[0], Resources()))
    assert found[0] == found[1]
    assert found[0]["training"] != found[2]["training"]
    assert found[0]["weights"] != found[3]["weights"] != found[2]["weights"]
    assert "training" not in found[3]


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="needs the published training sets")
def test_the_published_training_sets_are_read():
    for name, count in (("moon", 2000), ("circle", 2000), ("mult", 4000)):
        points = toy.training_points(REFERENCE, name)
        assert len(points) == count
        assert np.bincount(points.labels).tolist() == [1000] * toy.classes_of(name)
        assert points.x.dtype == np.float32


X, LABELS = np.zeros((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("name", "x", "labels", "said"),
    [
        ("a.npz", X[:, :1], LABELS, "shape [4, 1] and labels of shape [4]; wanted are [n, 2] and [n]"),
        ("a.npz", X, LABELS[:3], "labels of shape [3]"),
        ("a.npz", X * np.nan, LABELS, "no finite numbers"),
        ("a.npz", X, LABELS + 1, "labels such as 2; wanted are whole numbers 0 to 1"),
        ("a.npz", X, LABELS - 1, "labels such as -1"),
        ("a.csv", X, LABELS / 2, "labels of type float64"),
        ("a.csv", X, 0 * LABELS, "no point of class 1; each of the 2 classes needs one"),
    ],
)
def test_wrong_training_points_are_one_line(tmp_path, capfd, name, x, labels, said):
    path = written(tmp_path / name, x, labels)
    assert command(["toy", "run", "--training-data", path, "--dry-run"]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_files_without_training_points_are_one_line(tmp_path, capfd):
    np.savez(tmp_path / "other.npz", points=X)
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "points.txt").touch()
    np.save(tmp_path / "moon_train_X.npy", X)
    expected = {
        "missing.npz": "does not exist",
        "other.npz": "lacks the arrays x, labels; it has ['points']",
        "other.csv": "lacks the columns label",
        "broken.npz": "cannot be read",
        "empty.csv": "cannot be read",
        "points.txt": "is neither .npz nor .csv",
        "": "moon_train_y.npy' is missing",
    }
    for name, said in expected.items():
        assert command(["toy", "grid", "--dataset", "moon", "--training-data", str(tmp_path / name)]) == 2
        error = capfd.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert command(["toy", "show", "--dataset", "circle", "--training-data", str(tmp_path)]) == 2
    assert "holds no points of 'circle'; give circle.npz, circle.csv" in capfd.readouterr().err


def test_the_recipe_of_few_samples(capfd):
    assert command(["toy", "grid", "--recipe", "toy-few", "--print-config"]) == 0
    few = yaml.safe_load(capfd.readouterr().out)
    assert few["grid"].pop("samples_per_class") == [1, 2, 5, 10, 20, 50, 100, 200]
    usual = toy.ToySettings().model_dump(mode="json")
    usual["grid"].pop("samples_per_class")
    assert few == usual


def test_networks_trained_otherwise_are_named_so(tmp_path):
    assert toy.NetworkSettings().name() == "published"
    assert toy.NetworkSettings(all_relu=True).name() == "all-relu"
    frame = pd.read_csv(run_grid(grid(), tmp_path)[1]["table"])
    assert frame["network"].unique().tolist() == [BRIEF.name()]
    assert BRIEF.name().startswith("published-")


# the command line


def test_run_prints_draws_and_adds_to_the_results(tmp_path, capfd):
    results = tmp_path / "kept" / "all.csv"
    start = ["toy", "run", "--criterion", "lrp", "--criterion", "activation", "--results", str(results), *BRIEFLY]
    assert command([*start, "--out", str(tmp_path / "out"), "--colormap", "Set1", "--noise", "0.2"]) == 0
    said = capfd.readouterr().out
    assert "activation" in said
    assert "noisy, σ 0.2" in said
    assert (tmp_path / "out" / "boundaries.svg").read_text().startswith("<svg")
    first = toy.read_rows(results)
    assert len(first) == 2 * 3 * 2
    assert command([*start, "--out", str(tmp_path / "out"), "--seed", "1", "--render", "none", "--noise", "0.2"]) == 0
    assert command([*start, "--out", str(tmp_path / "out"), "--seed", "1", "--render", "none", "--noise", "0.2"]) == 0
    both = toy.read_rows(results)
    assert len(both) == 2 * len(first)
    pd.testing.assert_frame_equal(both[: len(first)].reset_index(drop=True), first)
    assert len(toy.read_ranks(tmp_path / "out" / "run-ranks.parquet")) == 2


@pytest.mark.slow
def test_run_and_grid_agree(tmp_path):
    command(
        ["toy", "run", "--criterion", "taylor", "--seed", "1", "--render", "none", "--out", str(tmp_path), *BRIEFLY]
    )
    command(["toy", "grid", "--dataset", "moon", "--seeds", "2", "--samples-per-class", "5", "--processes", "1",
             "--out", str(tmp_path), *BRIEFLY])  # fmt: skip
    mine, grids = toy.read_rows(tmp_path / "runs.csv"), toy.read_rows(tmp_path / "results.csv")
    common = grids[(grids["criterion"] == "taylor") & (grids["seed"] == 1)].reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, common)


def test_show_writes_a_page_with_a_slider(tmp_path):
    start = ["toy", "show", "--dataset", "circle", "--criterion", "lrp", "--criterion", "weight", "--step", "1000"]
    assert command([*start, "--out", str(tmp_path), *BRIEFLY]) == 0
    page = (tmp_path / "report.html").read_text()
    assert 'type="range"' in page
    assert "patented" in page
    record = json.loads((tmp_path / "report.json").read_text())
    [films] = [part["record"]["films"] for part in record["sections"] if part["section"] == "films"]
    assert films[0]["positions"] == [0, 1000, 2000]
    assert command(["report", str(tmp_path / "report.json"), "--out", str(tmp_path / "again.html")]) == 0


def _untrained(dataset):
    """Puts a network where the default one would be, so that `analyse` takes it for the published one."""
    torch.manual_seed(0)
    save_weights(toy.build(toy.classes_of(dataset)), toy.place(dataset, toy.NetworkSettings()))


def test_analyse_writes_tables_and_pictures(tmp_path, capfd):
    _untrained("moon")
    assert command(["toy", "grid", "--dataset", "moon", "--seeds", "3", "--samples-per-class", "1",
                    "--samples-per-class", "5", "--processes", "1", "--out", str(tmp_path)]) == 0  # fmt: skip
    published = tmp_path / "published.csv"
    with published.open("w") as file:
        writer = csv.writer(file)
        writer.writerow("dataset,criterion,samples_per_class,evaluated_on,stage,runs,mean_accuracy_percent,"
                        "sd_accuracy_percent".split(","))  # fmt: skip
        writer.writerow(["moon", "lrp", 5, "train", "post", 50, 99.858, 0.018])
    assert command(["toy", "analyse", str(tmp_path), "--against", str(published)]) == 0
    said = capfd.readouterr().out
    assert "99.86 ± 0.02" in said
    assert "does not hold: moon: LRP is within 2 points" in said
    assert "same criterion, other seeds" in said
    for name in ("accuracy.csv", "against.csv", "ranks.csv", "accuracy.svg", "ranks.svg", "report.html"):
        assert (tmp_path / name).stat().st_size > 100, name
    weight = pd.read_csv(tmp_path / "ranks.csv").query("a == 'weight' and b == 'weight' and measure == 'kendall'")
    assert (weight["mean"] == 1).all()  # looks at no samples


@pytest.mark.slow
def test_analyse_takes_thin_grids_and_mixed_tables(tmp_path, capfd):
    thin = ["--dataset", "moon", "--criterion", "lrp", "--out", str(tmp_path), *BRIEFLY]
    assert command(["toy", "grid", "--seeds", "1", "--samples-per-class", "1", "--samples-per-class", "2", *thin]) == 0
    more = ["--render", "none", "--remove", "500", "--results", str(tmp_path / "results.csv")]
    assert command(["toy", "run", *thin, *more]) == 0
    assert command(["toy", "analyse", str(tmp_path), "--no-kendall"]) == 0
    assert "500 removed" in capfd.readouterr().out
    (tmp_path / "ranks.parquet").unlink()
    assert command(["toy", "analyse", str(tmp_path)]) == 2
    assert "--no-ranks" in capfd.readouterr().err
    assert command(["toy", "analyse", str(tmp_path), "--no-ranks"]) == 0


def test_dry_run_trains_nothing(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    assert command(["toy", "grid", "--recipe", "toy", "--dry-run"]) == 0
    assert "4200 prunings; networks to train first: moon, circle, mult" in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_print_config_gives_the_settings_back(tmp_path, capfd):
    assert command(["toy", "grid", "--seeds", "3", "--all-relu", "--print-config"]) == 0
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(capfd.readouterr().out)
    assert command(["toy", "grid", "--recipe", str(recipe), "--print-config"]) == 0
    assert capfd.readouterr().out == recipe.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--samples-per-class", "0"], "greater than or equal to 1"),
        (["grid", "--samples-per-class", "-3"], "greater than or equal to 1"),
        (["grid", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["run", "--seed", "-1"], "greater than or equal to 0"),
        (["run", "--noise", "-0.1"], "greater than or equal to 0"),
        (["run", "--noise", "nan"], "finite"),
        (["run", "--dataset", "moons"], "known: moon, circle, mult"),
        (["run", "--dataset", "mult-1"], "known: moon, circle, mult"),
        (["run", "--criterion", "lpr"], "did you mean 'lrp'"),
        (["run", "--criterion", "lrp:rule=x"], "unexpected keyword"),
        (["run", "--criterion", "lrp:composite=nope", "--dry-run"], "known: alpha2-beta1"),
        (["run", "--criterion", "lrp:composite=[1]"], "a name or an object"),
        (["run", "--criterion", "lrp:at=nope"], "known: makers, readers"),
        (["run", "--criterion", "lrp:reduce=foo"], "known: abs, square"),
        (["run", "--criterion", "weight:p=["], "a bracket is not closed"),
        (["run", "--criterion", 'weight:p="'], "is no value"),
        (["run", "--criterion", "weight:p=1,p=2"], "each key once"),
        (["run", "--results", "x.parquet"], "ends in .csv"),
        (["grid", "--set", "network.train.epochs=1"], "section 'network' has no key 'train'"),
        (["run", "--colormap", "rainbow"], "okabe-ito"),
        (["run", "--colormap", "set1", "--dataset", "mult-20"], "set1"),
        (["run", "--render", "jpg"], "'none', 'svg', 'png', 'pdf'"),
        (["grid", "--remove", "3000"], "less than 3000"),
        (["grid", "--processes", "-1"], "greater than or equal to 0"),
        (["grid", "--seed", "1", "--seeds", "2"], "not both"),
        (["run", "--recipe", "demo"], "a recipe has no key '"),
        (["run", "--recipe", "toy"], "toy run draws once"),
        (["analyse", "nowhere"], "does not exist"),
    ],
)
def test_wrong_requests_are_one_line(arguments, said, capfd):
    assert command(["toy", *arguments]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_results_of_another_version_are_refused(tmp_path, capfd):
    results = tmp_path / "results.csv"
    results.write_text("dataset,method,accuracy\nmoon,lrp,99\n")
    for arguments in (["run", "--results", str(results), *BRIEFLY], ["analyse", str(tmp_path)]):
        assert command(["toy", *arguments, "--out", str(tmp_path / "out")]) == 2
        error = capfd.readouterr().err
        assert "results.csv" in error
        assert error.count("\n") == 1


def test_unwritable_folder_is_one_line(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    for name in ("grid", "run", "show"):
        arguments = ["toy", name, "--dataset", "moon", "--out", str(tmp_path / "file" / "out"), *BRIEFLY]
        extra = ["--seeds", "1", "--processes", "1"] if name == "grid" else []
        assert command([*arguments, *extra]) == 2
        error = capfd.readouterr().err
        assert "cannot write" in error
        assert error.count("\n") == 1
