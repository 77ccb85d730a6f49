"""Comparisons over subsets of classes: tasks, parts, times, nominal ratios, weight masks, readings, command line."""

from __future__ import annotations

import contextlib
import json
import pickle
import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import secateur as sc
from comparisons import compare_settings
from secateur.cli.main import run
from secateur.core.timing import column_names
from secateur.criteria import kept_at
from secateur.data.augmentation import augmentation
from secateur.pipeline import PruneSettings, prune_to_ratios
from secateur.pipeline.compare_settings import SubsetSettings
from secateur.pipeline.unstructured import mask_weights, weight_scores
from secateur.selection import UnreachableBudgetError
from secateur.studies import class_aware
from secateur.studies.compare import compare, make_tasks, write_rows
from secateur.studies.compare.findings import overhead

SPENT = ("scoring_s", "surgery_s", "evaluation_s", "retraining_s", "part_s", *column_names())
ONE_SHOT = PruneSettings(schedule="one-shot")
RESCORED = PruneSettings(schedule="rescored")
ODD = SubsetSettings(name="odd", classes=(1, "3", 5))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return sc.build("resnet20", in_channels=1, width=4)


def settings(**changes):
    fields = {"criteria": ("lrp", "ocap"), "budgets": (0.8, 0.5), "seeds": (0,), "per_class": 2, "published": False}
    fields |= {"subsets": (ODD,), "repeats": 0, "limit": 30}
    return compare_settings(**(fields | changes))


def plain(rows):
    """What does not hang on the clock, as it comes back from a file."""
    return json.loads(json.dumps([{k: v for k, v in row.items() if k not in SPENT} for row in rows]))


# ---- comparison


@pytest.fixture(scope="module")
def rows(model, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    whole = settings(
        criteria=("lrp",), blind=("lrp",), unstructured=("magnitude",), retrain_budgets=(0.5,),
        retrain_images=20, retrain_choice="closest", repeats=1, onnx_budgets=(0.5,),
    )  # fmt: skip
    tune = sc.TrainSettings(epochs=1, batch_size=10, device="cpu", distillation=sc.DistillationSettings())
    return compare(model, tiny_data, whole, ONE_SHOT, finetune=tune, folder=folder / "parts"), folder, whole, tune


def test_rows_say_what_was_pruned_for_what(rows, tiny_data, model):
    table = rows[0]
    first, *rest = table
    assert (first["criterion"], first["subset"], first["classes"]) == ("none", "odd", "1;3;5")
    assert set(first["per_class"]) == {"1", "3", "5"}
    assert len(rest) == 3 * (1 + 1) + 2
    for row in rest:
        assert row["macs"] <= row["budget"] + 1e-9 if row["structured"] else row["macs"] == 1.0
        assert (row["retraining_s"] is not None) == row["finetuned"]
    assert [row["scored_on"] for row in rest if row["structured"]] == ["subset"] * 3 + ["all"] * 3
    masked = [row for row in rest if not row["structured"]]
    assert [row["weights"] for row in masked] == pytest.approx([0.8, 0.5], abs=1e-3)
    assert all(row["latency_ms"] is None and not row["finetuned"] for row in masked)
    assert {row["budget"] for row in rest if row["onnx_ms"] is not None} == {0.5}
    assert all(row["latency_share"] > 0 for row in rest if row["structured"])
    # unpruned, the network says about these images what it says with all its classes, when only these count
    images = tiny_data.only((1, 3, 5)).test
    whole = compare(model, tiny_data, settings(criteria=("random",), limit=None), ONE_SHOT)[0]
    with torch.no_grad():
        logits = model(images.batch(range(len(images)))[0])[:, [1, 3, 5]]
    said = torch.tensor([1, 3, 5])[logits.argmax(1)]
    assert whole["accuracy"] == pytest.approx(float((said == torch.from_numpy(images.labels)).float().mean()))


def finished(folder):
    """Finished cells of a store, by stage."""
    with contextlib.closing(sqlite3.connect(folder / "compare.sqlite")) as database:
        return dict(database.execute("SELECT stage, count(*) FROM cells WHERE state = 'finished' GROUP BY stage"))


def test_finished_cells_are_found_and_times_are_kept(rows, model, tiny_data):
    table, folder, whole, tune = rows
    assert finished(folder / "parts") == {"measure": 1 + 3, "time": 1 + 2}  # the unpruned network; masks are not timed
    with contextlib.closing(sqlite3.connect(folder / "parts" / "compare.sqlite")) as database:
        database.execute("UPDATE cells SET state = 'waiting' WHERE position = 1")
        database.commit()
    again = compare(model, tiny_data, whole, ONE_SHOT, finetune=tune, folder=folder / "parts")
    strip = (*column_names("onnx"), "scoring_s", "surgery_s", "evaluation_s", "retraining_s", "part_s")
    first, second = ([{k: v for k, v in row.items() if k not in strip} for row in plain(t)] for t in (table, again))
    assert first == second


@pytest.mark.slow
def test_cells_are_found_only_where_nothing_has_changed(model, tiny_data, tmp_path):
    def cells(net=model, data=tiny_data, prune=ONE_SHOT, **changes):
        compare(net, data, settings(criteria=("random",), budgets=(0.5,), **changes), prune, folder=tmp_path)
        return finished(tmp_path)["measure"]

    assert cells() == 2  # the unpruned network, too
    assert cells(batch=8, processes=0) == 2
    assert cells(subsets=(ODD.model_copy(update={"classes": (1, 3, 7)}),)) == 4
    assert cells(prune=ONE_SHOT.model_copy(update={"skip_first_layers": 1})) == 5
    torch.manual_seed(1)
    assert cells(net=sc.build("resnet20", in_channels=1, width=4)) == 7
    assert cells(data=replace(tiny_data, train=tiny_data.train.replace(augmentation=augmentation("flip")))) == 9
    assert cells(net=sc.mask_head(model, [0, 1, 3, 5]), replace_head="keep") == 11
    assert cells() == 11


def test_tables_of_classes_and_layers(rows, tmp_path):
    table = rows[0]
    write_rows(table, tmp_path)
    classes = pd.read_csv(tmp_path / "compare-classes.csv")
    assert len(classes) == 3 * len(table)
    layers = pd.read_parquet(tmp_path / "compare-layers.parquet")
    assert (layers["kept"] + layers["removed"] == layers["total"]).all()
    assert set(layers["scored_on"]) == {"subset", "all"}
    assert json.loads((tmp_path / "compare.json").read_text())[1]["per_class"].keys() == {"1", "3", "5"}


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(model, tiny_data):
    alone = settings(criteria=("taylor", "weight"), budgets=(0.5,))
    side_by_side = settings(criteria=("taylor", "weight"), budgets=(0.5,), processes=2)
    assert plain(compare(model, tiny_data, alone, ONE_SHOT)) == plain(compare(model, tiny_data, side_by_side, ONE_SHOT))


@pytest.mark.slow
def test_budgets_do_not_hang_on_each_other(model, tiny_data):
    for kind, several in (("macs", (0.4, 0.9, 0.6)), ("ratio", (0.6, 0.2, 0.4))):
        alone = settings(criteria=("lrp",), kind=kind, budgets=several[2:])
        together = compare(model, tiny_data, settings(criteria=("lrp",), kind=kind, budgets=several), ONE_SHOT_GLOBAL)
        [one] = plain(compare(model, tiny_data, alone, ONE_SHOT_GLOBAL))[1:]
        assert one in plain(together)


ONE_SHOT_GLOBAL = PruneSettings(schedule="one-shot", strategy="global")


@pytest.mark.slow
def test_a_layer_without_onnx_form_is_timed_in_pytorch_and_said_so(tiny_data):
    class Odd(nn.Sequential):
        def forward(self, x):
            return super().forward(x + 0 * torch.special.bessel_j0(x))

    torch.manual_seed(0)
    net = Odd(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    timed = settings(criteria=("weight",), budgets=(0.5,), repeats=1, onnx_budgets=(0.5,))
    for row in compare(net, tiny_data, timed, ONE_SHOT):
        assert row["latency_ms"] > 0
        assert row["onnx_ms"] is None
        assert "not timed in ONNX Runtime: " in row["latency_note"]
        assert "bessel_j0" in row["latency_note"]


def heads(**changes):
    return settings(criteria=("taylor",), budgets=(0.5,), **changes)


def test_heads(model, tiny_data):
    found = {head: compare(model, tiny_data, heads(replace_head=head), ONE_SHOT) for head in ("keep", "slice", "mask")}
    assert found["mask"][0]["accuracy"] == found["slice"][0]["accuracy"] >= found["keep"][0]["accuracy"]
    assert found["slice"][0]["size_bytes"] < found["keep"][0]["size_bytes"] == found["mask"][0]["size_bytes"]


def refused(message, action, *arguments, **options):
    with pytest.raises(sc.RequestError, match=message) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_subsets_that_do_not_go_together(model, tiny_data):
    def tasks(*subsets, net=model, head="slice"):
        return make_tasks(net, tiny_data, [SubsetSettings(**subset) for subset in subsets], head)

    one = {"name": "one", "classes": (1, 2)}
    refused("subset name 'one' is taken", tasks, one, {"name": "one", "classes": (3, 4)})
    refused("'one' and 'two' have the same classes", tasks, one, {"name": "two", "classes": ("2", 1)})
    refused("has one class, '4'; give at least two", tasks, {"name": "few", "classes": (4,)})
    refused("unknown class 'cat'; known: 0, 1, 2", tasks, {"name": "x", "classes": ("cat", 1)})
    refused("asked for twice", tasks, {"name": "x", "classes": (1, "1")})
    refused("draws 11 classes, there are 10", tasks, {"name": "x", "draw": 11})
    refused("subset name 'all' is taken", tasks, {"name": "all", "classes": (1, 2)})
    for wrong in ({"name": "x"}, {"name": "x", "classes": (1, 2), "draw": 2}):
        with pytest.raises(ValueError, match="needs one of classes, spaced and draw"):
            SubsetSettings(**wrong)
    soft = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10), nn.LogSoftmax(1))
    refused("mask", tasks, one, net=soft)
    assert len(tasks(one, net=soft, head="mask")) == 1
    drawn = tasks({"name": "x", "draw": 4, "seed": 1})[0].classes
    assert drawn == tasks({"name": "y", "draw": 4, "seed": 1})[0].classes == tuple(sorted(set(drawn)))


def test_wrong_comparisons_fail_before_any_work(model, tiny_data):
    def wrong(message, prune=ONE_SHOT, **changes):
        refused(message, compare, model, tiny_data, settings(**changes), prune)

    wrong("retraining.budgets has 0.3, which is not among", retrain_budgets=(0.3,))
    wrong("onnx_budgets has 0.3", onnx_budgets=(0.3,))
    wrong("give compare.variants.subsets", subsets=(), blind=("lrp",))
    wrong("both false", default=False)
    wrong("one shot", RESCORED, kind="ratio")
    wrong("in \\(0, 1\\), got 1", kind="ratio", budgets=(1.0,))
    wrong("in \\(0, 1\\), got 1", budgets=(0.5, 1.0))
    wrong("compare.variants.seeds is empty", seeds=())
    wrong("taken once", RESCORED, blind=("lrp",))
    wrong("ocap.*asks for 30.*6", criteria=("weight", "ocap:images=30"))


# ---- nominal ratios, strategies


@pytest.fixture(scope="module")
def setting(model, tiny_data):
    reference = sc.ReferenceSet.sample(tiny_data.train, 2, classes=(1, 3, 5))
    return model, sc.trace(model, reference.inputs[:1]), reference


@pytest.mark.parametrize("strategy", ["per-layer", "global", "isomorphic"])
def test_a_nominal_ratio_of_the_units_goes(setting, strategy):
    model, structure, reference = setting
    scores = sc.score(model, structure, reference, "weight")
    keep = sc.select_nominal(scores, 0.4, strategy).keep(structure)
    makes = np.array([structure.makes.index(make) for make in structure.makes])[structure.group_of]
    among = {"per-layer": structure.group_of, "global": makes * 0, "isomorphic": makes}[strategy]
    for number in np.unique(among):
        gone = ~keep & (among == number)
        assert gone.sum() <= int(0.4 * (among == number).sum())
        if strategy == "per-layer":
            assert gone.sum() == int(0.4 * (among == number).sum())
            assert scores.values[gone].max(initial=-1) <= scores.values[keep & (among == number)].min()


def test_ocap_decides_itself_what_a_ratio_means(setting):
    model, structure, reference = setting
    scores = sc.score(model, structure, reference, "ocap")
    for ratio in (0.5, 0.9):
        keep = sc.select_nominal(scores, ratio).keep(structure)
        np.testing.assert_array_equal(keep, kept_at(scores, ratio))
        assert (~keep).mean() <= ratio
    [found] = prune_to_ratios(model, reference, [0.9], "ocap")
    np.testing.assert_array_equal(found.plan.keep(structure), kept_at(scores, 0.9))
    assert found.plan.requested == {"kind": "ratio", "share": 0.9}


def test_wrong_ratios(setting):
    model, structure, reference = setting
    scores = sc.score(model, structure, reference, "weight")
    refused("in \\(0, 1\\), got 1.2", sc.select_nominal, scores, 1.2)
    refused("unknown strategy 'per-cost' for a nominal ratio", sc.select_nominal, scores, 0.5, "per-cost")
    refused("nothing is removed by weight", sc.select_nominal, scores, 0.01)
    nothing, half = prune_to_ratios(model, reference, [0.01, 0.5], "weight")
    assert nothing.plan.achieved == {"units": 1.0, "params": 1.0, "macs": 1.0}
    torch.testing.assert_close(nothing.model.eval()(reference.inputs), model.eval()(reference.inputs))
    assert half.plan.achieved["units"] < 0.6
    refused("schedule one-shot", lambda: next(prune_to_ratios(model, reference, [0.5], "weight", RESCORED)))


def test_like_is_compared_with_like(setting):
    model, structure, reference = setting
    plan = sc.select(sc.score(model, structure, reference, "weight"), sc.Budget(units=0.5), "isomorphic")
    keep = plan.keep(structure)
    for make in set(structure.makes):
        alike = [g for g, m in zip(structure.groups, structure.makes, strict=True) if m == make]
        units = np.concatenate([np.arange(g.first, g.first + g.size) for g in alike])
        assert keep[units].mean() == pytest.approx(0.5, abs=1 / len(units) + 1e-9)


def test_first_layers_can_be_left_alone(setting):
    model, structure, reference = setting
    assert structure.first_layers(2) == ("conv1", "layer1.0.conv1")
    left = sc.compress(
        model, reference, sc.Budget(macs=0.7), "weight", PruneSettings(schedule="one-shot", skip_first_layers=2)
    )  # fmt: skip
    keep = left.plan.keep(structure)
    assert keep[structure.group("conv1").units].all()
    assert keep[structure.group("layer1.0.conv1").units].all()
    assert not keep.all()


def test_errors_come_back_from_other_processes():
    error = UnreachableBudgetError("20 % of macs", 0.3, "layer 'a' binds")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.least, again.binding) == (str(error), 0.3, "layer 'a' binds")


# ---- weight masks


@pytest.mark.parametrize("by", ["magnitude", "gradient", "taylor", "random"])
def test_masked_weights(setting, by):
    model, _, reference = setting
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    scores = weight_scores(model, reference, by, batch_size=4)
    masked, left = mask_weights(model, scores, 0.3)
    weights = {name: p for name, p in masked.named_parameters() if name in scores}
    assert all(p.ndim > 1 for p in weights.values())
    total = sum(p.numel() for p in weights.values())
    assert left == round(0.3 * total) / total
    assert sum(int((p != 0).sum()) for p in weights.values()) == round(0.3 * total)
    loss = nn.functional.cross_entropy(model.eval()(reference.inputs), reference.targets)
    gradients = dict(
        zip(weights, torch.autograd.grad(loss, [dict(model.named_parameters())[n] for n in weights]), strict=True)
    )
    if by != "random":
        for name, found in scores.items():
            w, g = before[name], gradients[name]
            expected = {"magnitude": w.abs(), "gradient": g.abs(), "taylor": (w * g).abs()}[by]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())
    refused("unknown score of weights 'size'", weight_scores, model, reference, "size")


# ---- readings


def made_row(criterion="lrp", scored_on="subset", subset="s", seed=0, budget=0.5, accuracy=0.5, **other):
    row = {"criterion": criterion, "scored_on": scored_on, "subset": subset, "seed": seed, "budget": budget}
    row |= {"accuracy": accuracy, "structured": True, "strategy": "one-shot/global", "finetuned": False}
    return row | {"latency_share": None, "scoring_s": 1.0, "surgery_s": 0.1, "retraining_s": None} | other


def test_gains_are_paired():
    aware, blind = [0.9, 0.8, 0.7], [0.5, 0.8, 0.6]
    table = [made_row(seed=s, accuracy=a) for s, a in enumerate(aware)]
    table += [made_row(seed=s, accuracy=a, scored_on="all") for s, a in enumerate(blind)]
    table += [made_row("weight", seed=s) for s in range(3)]
    [gain, over_all] = class_aware.gains(table)
    differences = np.subtract(aware, blind)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (gain["gain"], gain["low"], gain["high"]) == pytest.approx((differences.mean(), *expected))
    assert (gain["budget"], gain["pairs"], gain["better"]) == (0.5, 3, 2)
    assert over_all == {**gain, "budget": None}
    assert class_aware.gains(table[:3]) == []


def test_accuracy_at_equal_latency():
    table = [made_row("none", budget=1.0, accuracy=0.9, strategy="unpruned")]
    table += [
        made_row(budget=b, accuracy=a, latency_share=t)
        for b, a, t in ((0.8, 0.8, 0.8), (0.5, 0.6, 0.85), (0.4, 0.4, 0.6))
    ]
    found = {row["latency_share"]: row["accuracy"] for row in class_aware.at_latency(table, (0.9, 0.8, 0.7, 0.5))}
    # the network at 0.85 is slower and worse than the one at 0.8: it does not count
    assert found == {0.9: pytest.approx(0.85), 0.8: pytest.approx(0.8), 0.7: pytest.approx(0.6), 0.5: None}
    # a time that cannot be told from the unpruned network's reaches no smaller share
    unclear = table[:2] + [table[3] | {"latency_interval_low": 0.3, "latency_interval_high": 1.1}]
    assert class_aware.at_latency(unclear, (0.7,))[0]["accuracy"] is None


def test_overhead_counts_one_scoring_and_all_evaluations():
    table = [made_row(budget=b, evaluation_s=2.0, part_s=8.0) for b in (0.9, 0.5, 0.1)]
    found = overhead(table)
    assert (found.budgets, found.parts, found.total_s, found.least_s) == (3, 1, 8.0, 7.0)
    assert "1.14 times (one scoring pass + 3 evaluations)" in str(found)
    assert overhead([made_row(strategy="rescored/per-cost")]) is None


# ---- command line


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    out = tmp_path_factory.mktemp("train")
    small = ["--model", "resnet20", "--data", "mnist5k", "--set", "model.arguments.width=4", "--set", "data.limit=200"]
    assert run(["train", *small, "--epochs", "1", "--out", str(out)]) == 0
    return [*small, "--weights", str(out / "resnet20.safetensors")]


@pytest.mark.slow
def test_compare_for_subsets(weights, tmp_path, capsys):
    command = [
        "compare",
        *weights,
        "--subset",
        "1,3,5",
        "--subset",
        "0,2",
        "--criterion",
        "taylor",
        "--criterion",
        "weight",
    ]
    command += ["--budget", "0.6", "--seed", "0", "--seed", "1", "--track", "tensorboard", "--out", str(tmp_path)]
    for value in (
        *("prune.schedule=one-shot", "compare.sampling.per_class=2", "compare.variants.published=false"),
        *("compare.variants.blind=[taylor]", "compare.variants.unstructured=[random]", "compare.timing.repeats=1"),
    ):
        command += ["--set", value]
    assert run(command) == 0
    printed = capsys.readouterr().out
    assert "taylor (class-blind)" in printed
    assert "random (masked weights)" in printed
    assert "class-aware minus class-blind" in printed
    assert "1 budgets from one scoring pass" in printed
    assert "nothing gets smaller or faster" in printed
    assert {"compare-classes.csv", "compare-layers.csv", "subsets.svg", "gains.svg"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert "masked weights" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_network_for_some_classes_from_the_command_line(weights, tmp_path, capsys):
    sliced = ["--classes", "7,1,3", "--head", "slice", "--set", "reference.per_class=2"]
    prune = ["--schedule", "one-shot", "--macs", "0.6"]
    assert run(["prune", *weights, *sliced, *prune, "--out", str(tmp_path)]) == 0
    bundle = tmp_path / "bundle"
    assert sc.load(bundle).fc.out_features == 3
    metrics = json.loads((bundle / "metrics.json").read_text())
    assert set(metrics["pruned"]["per_class"]) == {"1", "3", "7"}
    capsys.readouterr()
    small = ["--data", "mnist5k", "--set", "data.limit=200"]
    assert run(["evaluate", "--model", str(bundle), *small, "--out", str(tmp_path / "found")]) == 0
    assert "the network answers for 3 of 10 classes" in capsys.readouterr().err
    found = json.loads((tmp_path / "found" / "metrics.json").read_text())
    assert set(found["per_class"]) == {"1", "3", "7"}
    assert run(["train", "--model", str(bundle), *small, "--epochs", "1", "--out", str(tmp_path / "more")]) == 0
    assert sc.load(tmp_path / "more" / "bundle").fc.out_features == 3
    for wrong, message in (
        (["evaluate", *weights, "--classes", "1,cat"], "unknown class 'cat'; known: 0, 1, 2"),
        (["evaluate", *weights, "--head", "slice"], "needs data.classes"),
        (["compare", *weights, "--head", "slice"], "--head is for the classes of --subset"),
        (["compare", *weights, "--subset", "1,cat", "--dry-run"], "unknown class 'cat'"),
        (["compare", *weights, "--criterion", "nonsense", "--dry-run"], "unknown criterion 'nonsense'"),
        (["compare", *weights, "--subset", "1,2", "--track", "paper"], "unknown tracker 'paper'"),
    ):
        assert run(wrong) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_pruned_network_learns_from_the_unpruned_one(weights, tmp_path):
    prune = ["--schedule", "one-shot", "--macs", "0.6", "--finetune", "1", "--set", "reference.per_class=2"]
    teacher = ["--set", "finetune.distillation={temperature: 3, weight: 0.7}"]
    assert run(["prune", *weights, *prune, *teacher, "--out", str(tmp_path)]) == 0
