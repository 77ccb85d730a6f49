"""Whole runs: schedules, nesting, comparison, resumption, recipes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from comparisons import compare_settings
from networks import user_net
from secateur.core.timing import column_names
from secateur.criteria import parse
from secateur.pipeline import load_recipe
from secateur.studies.compare import COLUMNS, compare, write_rows
from secateur.surgery import edits_of


@pytest.fixture
def setting():
    model, _ = user_net()
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(60, 3, 8, 8, generator=generator), torch.arange(60) % 3
    data = TensorDataset(x, y)
    return model, data, sc.ReferenceSet.sample(data, 5)


@pytest.mark.parametrize("schedule", ["one-shot", "rescored", "iterative"])
def test_schedules_reach_nested_budgets_and_leave_the_original(setting, schedule):
    model, data, reference = setting
    before = {k: v.clone() for k, v in model.state_dict().items()}
    settings = sc.PruneSettings(schedule=schedule, step=0.1)
    budgets = [sc.Budget(macs=s) for s in (0.4, 0.8, 0.6)]
    structure, kept = sc.trace(model, reference.inputs[:1]), None
    tune = sc.TrainSettings(epochs=1, batch_size=20, learning_rate=0.01, device="cpu")
    results = list(sc.prune_to_budgets(model, reference, budgets, "lrp", settings, train=data, val=data, finetune=tune))
    assert [r.plan.requested["share"] for r in results] == [0.8, 0.6, 0.4]
    for result in results:
        keep = result.plan.keep(structure)
        assert kept is None or not (keep & ~kept).any()
        kept = keep
        # the plan against the original says exactly what the network has lost
        assert {(c.tensor, c.dim): c.removed for c in edits_of(result.model).cuts} == {
            (c.tensor, c.dim): c.removed for c in result.plan.cuts
        }
        assert result.plan.achieved["macs"] <= result.plan.requested["share"] + 1e-9
    assert len(results[-1].history) == (1 if schedule == "one-shot" else 6)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_rescored_without_repair_equals_plain_surgery(setting):
    model, _, reference = setting
    settings = sc.PruneSettings(repair="none", centred=False, recalibrate=False, step=0.1)
    best = sc.compress(model, reference, sc.Budget(macs=0.5), "taylor", settings)
    x = reference.inputs
    torch.testing.assert_close(best.model(x), sc.prune(model, best.plan)(x))


@pytest.mark.slow
def test_the_default_recipe_keeps_more_of_the_function_than_chance(setting):
    """Networks pruned by relevance stay closer to the original than ones pruned at random."""
    model, _, reference = setting
    x = reference.inputs

    def distance(criterion):
        return float(
            (sc.compress(model, reference, sc.Budget(macs=0.6), criterion).model(x) - model(x)).detach().pow(2).mean()
        )

    chance = np.mean([distance(sc.criteria.get("random", seed=s)) for s in range(6)])
    assert distance("lrp") < chance


def test_bad_schedules(setting):
    model, data, reference = setting
    with pytest.raises(sc.RequestError, match="needs training images"):
        sc.compress(model, reference, sc.Budget(macs=0.5), settings=sc.PruneSettings(schedule="iterative"))
    with pytest.raises(sc.RequestError, match="all of one kind"):
        list(sc.prune_to_budgets(model, reference, [sc.Budget(macs=0.5), sc.Budget(units=0.5)]))
    with pytest.raises(sc.RequestError, match="unknown criterion"):
        sc.compress(model, reference, sc.Budget(macs=0.5), "magic")


@pytest.mark.slow
def test_compare_is_tidy_resumable_and_the_same_again(tiny_data, tmp_path):
    torch.manual_seed(0)
    model = sc.build("resnet20", in_channels=1, width=4)
    settings = compare_settings(
        criteria=("lrp", "random"),
        budgets=(0.8, 0.5),
        seeds=(0, 1),
        per_class=2,
        repeats=1,
        published=False,
        limit=50,
    )
    steps = sc.PruneSettings(step=0.2)
    tune = sc.TrainSettings(epochs=1, batch_size=64, device="cpu")
    rows = compare(model, tiny_data, settings, steps, finetune=tune, folder=tmp_path / "parts")
    assert len(rows) == 1 + 2 * 2 * 2 * 2
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    again = compare(model, tiny_data, settings, steps, finetune=tune, folder=tmp_path / "parts")
    assert rows == again  # found, with the times of before
    anew = compare(model, tiny_data, settings, steps, finetune=tune, folder=tmp_path / "other")
    timed = (*column_names(), "scoring_s", "surgery_s", "evaluation_s", "retraining_s", "part_s")
    strip = [[{k: v for k, v in r.items() if k not in timed} for r in table] for table in (rows, anew)]
    assert json.loads(json.dumps(strip[0])) == json.loads(json.dumps(strip[1]))
    write_rows(rows, tmp_path)
    for frame in (pd.read_csv(tmp_path / "compare.csv"), pd.read_parquet(tmp_path / "compare.parquet")):
        assert list(frame.columns) == list(COLUMNS)
        assert len(frame) == len(rows)
        assert (frame["macs"] <= frame["budget"] + 1e-9).all()


def test_criterion_texts():
    assert parse("lrp:composite=epsilon-plus,reduce=abs") == (
        "lrp",
        {"composite": "epsilon-plus", "reduce": "abs"},
    )
    with pytest.raises(sc.RequestError, match="key=value"):
        parse("lrp:abs")


def test_recipes(tmp_path):
    assert load_recipe("resnet20-cifar10").train.epochs == 50
    path = tmp_path / "mine.yaml"
    path.write_text("prune: {step: 0.5}\nbudget: {share: 2}\n")
    with pytest.raises(sc.RequestError, match=r"'budget\.share'.*less than or equal to 1, got 2"):
        load_recipe(path)
    path.write_text("prnue: {step: 0.5}\n")
    with pytest.raises(sc.RequestError, match="a recipe has no key 'prnue' .did you mean 'prune'"):
        load_recipe(path)
    path.write_text("a: [1\n")
    with pytest.raises(sc.RequestError, match="not valid YAML"):
        load_recipe(path)
    with pytest.raises(sc.RequestError, match="known: class-aware.*compare-cifar10, demo, .*resnet20-cifar10"):
        load_recipe("nothing")
    with pytest.raises(sc.RequestError, match="schema_version"):
        load_recipe(None, {"schema_version": 2})


@pytest.mark.parametrize(("groups", "strategy"), [(1, "per-cost"), (2, "per-cost"), (8, "per-layer")])
def test_networks_with_depthwise_convolutions_are_ranked_per_layer(groups, strategy):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ).eval()  # fmt: skip
    reference = sc.ReferenceSet(torch.randn(6, 1, 8, 8), torch.arange(6) % 2, tuple(range(6)))
    assert sc.compress(net, reference, sc.Budget(macs=0.6)).plan.strategy == strategy
    assert sc.compress(net, reference, sc.Budget(macs=0.6), "weight").plan.strategy == "per-layer"
    asked = sc.PruneSettings(strategy="per-cost")
    assert sc.compress(net, reference, sc.Budget(macs=0.6), settings=asked).plan.strategy == "per-cost"
