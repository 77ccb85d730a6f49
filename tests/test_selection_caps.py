"""Caps on what goes, and shares by layer: met exactly, refused where they contradict each other."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from networks import zoo
from secateur.cli.main import run
from secateur.selection import STRATEGIES, UnreachableBudgetError, select_nominal
from secateur.training import TrainSettings

STRUCTURE = sc.trace(*(lambda m, x: (m, x[:1]))(*zoo("resnet20")))
STRATEGY = st.sampled_from(sorted(STRATEGIES))
ORDER = st.sampled_from(["least", "most"])


def scores(seed=0, structure=STRUCTURE):
    return sc.Scores(structure, np.random.default_rng(seed).random(structure.num_units), "by hand")


def lost(plan, structure=STRUCTURE):
    keep = plan.keep(structure)
    return {group.name: int((~keep[group.units]).sum()) for group in structure.groups}


def reached(*arguments, **more):
    try:
        return sc.select(*arguments, **more)
    except UnreachableBudgetError as error:
        return error


@given(seed=st.integers(0, 99), strategy=STRATEGY, order=ORDER, most=st.integers(1, 200), share=st.floats(0.3, 0.95))
@settings(max_examples=60, deadline=None)
def test_no_more_units_go_than_may(seed, strategy, order, most, share):
    ranked, budget = scores(seed), sc.Budget(macs=share)
    free = sc.select(ranked, budget, strategy, order=order)
    if sum(lost(free).values()) <= most:  # a cap that nothing runs into changes nothing
        assert sc.select(ranked, budget, strategy, order=order, max_remove=most) == free
        return
    found = reached(ranked, budget, strategy, order=order, max_remove=most)
    if isinstance(found, UnreachableBudgetError):
        assert found.capped
        assert found.least > share
        # what can be reached is what the message says, by exactly so many units
        plan = sc.select(ranked, sc.Budget(macs=found.least), strategy, order=order, max_remove=most)
        assert plan.achieved["macs"] == pytest.approx(found.least)
        assert sum(lost(plan).values()) == most
    else:
        assert sum(lost(found).values()) <= most
        assert found.achieved["macs"] <= share + 1e-9


@given(seed=st.integers(0, 99), strategy=STRATEGY, round_to=st.sampled_from([1, 4]), share=st.floats(0.5, 0.9))
@settings(max_examples=40, deadline=None)
def test_layers_give_up_no_more_than_their_cap(seed, strategy, round_to, share):
    caps = {"conv1": 4, "layer2.0.conv1": 0.25, "layer3.1.conv1": 8}
    bounds = {"max_remove": caps, "round_to": round_to, "min_keep": 4, "protect": ["layer1.1.conv1"]}
    plan = sc.select(scores(seed), sc.Budget(units=share), strategy, **bounds)
    gone = lost(plan)
    assert gone["conv1"] <= 4
    assert gone["layer2.0.conv1"] <= 8
    assert gone["layer3.1.conv1"] <= 8
    assert not gone["layer1.1.conv1"]
    for group in STRUCTURE.groups:
        assert gone[group.name] == 0 or (group.size - gone[group.name]) % round_to == 0
    assert plan.achieved["units"] <= share + 1e-9


@pytest.mark.slow
@given(seed=st.integers(0, 99), strategy=STRATEGY, order=ORDER, most=st.integers(5, 40))
@settings(max_examples=20, deadline=None)
def test_caps_count_from_the_plan_before(seed, strategy, order, most):
    ranked, plan = scores(seed), None
    for _ in range(4):
        before = plan
        with pytest.raises(UnreachableBudgetError) as caught:
            sc.select(ranked, sc.Budget(units=0.1), strategy, order=order, within=plan, max_remove=most)
        budget = sc.Budget(units=caught.value.least)
        plan = sc.select(ranked, budget, strategy, order=order, within=plan, max_remove=most)
        gone = sum(lost(plan).values()) - (0 if before is None else sum(lost(before).values()))
        assert gone == most
        if before is not None:
            assert not (plan.keep(STRUCTURE) & ~before.keep(STRUCTURE)).any()


def test_a_share_of_all_units_is_rounded_down():
    with pytest.raises(UnreachableBudgetError, match=r"allows 22 units; .*, or raise max_remove$") as caught:
        sc.select(scores(), sc.Budget(units=0.5), max_remove=0.05)  # 5 % of 448
    assert caught.value.least == pytest.approx(1 - 22 / 448)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.capped) == (str(caught.value), True)


def test_messages_name_the_layer_whose_cap_binds():
    caps = {group.name: 1 for group in STRUCTURE.groups}
    with pytest.raises(UnreachableBudgetError, match=r"binds \(max_remove allows 1 of its units\)") as caught:
        sc.select(scores(), sc.Budget(macs=0.5), max_remove=caps)
    assert caught.value.capped
    with pytest.raises(UnreachableBudgetError) as caught:
        sc.select(scores(), sc.Budget(macs=0.01), min_keep=8, max_remove={"conv1": 16})
    assert not caught.value.capped  # further steps would not help
    assert str(caught.value).endswith("ask for more, or lower min_keep, or raise max_remove")


@pytest.mark.parametrize("bad", [0, -1, 1.0, 1.5, True, "3", {"conv1": 0}, {"conv1": None}, {}, [3], float("nan")])
def test_caps_that_say_nothing(bad):
    with pytest.raises(sc.RequestError, match="max_remove"):
        sc.select(scores(), sc.Budget(macs=0.5), max_remove=bad)


@given(seed=st.integers(0, 99), strategy=STRATEGY, order=ORDER)
@settings(max_examples=20, deadline=None)
def test_layers_keep_exactly_their_shares(seed, strategy, order):
    shares = {"conv1": 0.8, "layer2.0.conv1": 0.5, "layer3.2.conv1": 1.0}
    ranked = scores(seed)
    alone = sc.select(ranked, layer_shares=shares, strategy=strategy, order=order)
    assert {name: count for name, count in lost(alone).items() if count} == {"conv1": 4, "layer2.0.conv1": 16}
    assert alone.requested == {"layer_shares": shares}
    assert "shares of 3 layers" in alone.summary
    more = sc.select(ranked, sc.Budget(macs=0.5), strategy, order=order, layer_shares=shares)
    gone = lost(more)
    assert (gone["conv1"], gone["layer2.0.conv1"], gone["layer3.2.conv1"]) == (4, 16, 0)
    assert 0.49 <= more.achieved["macs"] <= 0.5
    # within a layer the lowest go (or the highest, for control)
    group = STRUCTURE.group("layer2.0.conv1")
    ordered = np.argsort(ranked.values[group.units] * (1 if order == "least" else -1))
    assert set(more.removed["layer2.0.conv1"]) == set(ordered[:16].tolist())
    assert sc.Plan.from_json(more.to_json()) == more


def test_shares_are_of_the_network_that_was_traced():
    first = sc.select(scores(), layer_shares={"layer2.0.conv1": 0.75})
    second = sc.select(scores(1), layer_shares={"layer2.0.conv1": 0.5}, within=first)
    assert lost(second)["layer2.0.conv1"] == 16
    assert set(first.removed["layer2.0.conv1"]) < set(second.removed["layer2.0.conv1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_shares": {"convv1": 0.5}}, r"no such layer \(did you mean 'conv1'\?\)"),
        ({"max_remove": {"layer9": 2}}, "'layer9' has no removable units"),
        ({"layer_shares": {"fc": 0.5}}, "'fc' has no removable units: .*output of the network"),
        ({"layer_shares": {"conv1": 50}}, r"in \(0, 1\], got 50 for 'conv1'"),
        ({"layer_shares": 0.5}, "by name of layer"),
        ({"layer_shares": {"conv1": 0.01}}, "keeps 0 of 16 units of 'conv1', but min_keep asks for 1"),
        ({"layer_shares": {"conv1": 0.5}, "min_keep": 10}, "keeps 8 of 16 units of 'conv1', but min_keep asks for 10"),
        ({"layer_shares": {"conv1": 0.5}, "protect": ["conv1"]}, "keeps 8 of 16 units of 'conv1', but protect keeps"),
        ({"layer_shares": {"conv1": 0.8}, "round_to": 8}, "keeps 12 of 16 .* no multiple of round_to=8"),
        ({"layer_shares": {"conv1": 0.5}, "max_remove": {"conv1": 4}}, "8 units of 'conv1', max_remove allows 4"),
        ({"layer_shares": {"conv1": 0.5}, "max_remove": 4}, "removes 8 units, max_remove allows 4"),
        ({"layer_shares": {"conv1": 0.5, "layer1.0.conv2": 0.25}}, "'conv1' 0.5 and 'layer1.0.conv2' 0.25, but"),
        ({"max_remove": {"conv1": 2, "layer1.0.conv2": 3}}, "gives 'conv1' 2 and 'layer1.0.conv2' 3, but their units"),
        ({"layer_shares": {g.name: 0.25 for g in STRUCTURE.groups}}, "layer_shares alone leave .* less than the"),
    ],
)
def test_contradictions_are_refused_in_one_line(arguments, message):
    with pytest.raises(sc.RequestError, match=message) as caught:
        sc.select(scores(), sc.Budget(macs=0.9), **arguments)
    assert "\n" not in str(caught.value)


def test_a_budget_or_shares_are_needed():
    with pytest.raises(sc.RequestError, match="a budget must be an object"):
        sc.select(scores())
    with pytest.raises(sc.RequestError, match="remove nothing"):
        sc.select(scores(), layer_shares={"conv1": 1.0})


def test_nominal_ratios_refuse_what_a_cap_would_hide():
    most = int(0.3 * 448)
    plan = select_nominal(scores(), 0.3, "global", max_remove=most)
    assert sum(lost(plan).values()) == most
    with pytest.raises(sc.RequestError, match="a nominal ratio of 0.3 removes 134 units, max_remove allows 133"):
        select_nominal(scores(), 0.3, "global", max_remove=most - 1)
    with pytest.raises(sc.RequestError, match="a nominal ratio of 0.5 removes 8 units of 'conv1', max_remove allows 3"):
        select_nominal(scores(), 0.5, max_remove={"conv1": 3})


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu())


@pytest.mark.parametrize("schedule", ["rescored", "iterative"])
def test_steps_remove_no_more_than_may_and_go_on_until_the_budget(schedule):
    torch.manual_seed(0)
    model, samples = Small(), (torch.randn(30, 4), torch.arange(30) % 3)
    reference = sc.ReferenceSet.sample(torch.utils.data.TensorDataset(*samples), per_class=10)
    how = sc.PruneSettings(schedule=schedule, step=0.25, max_remove=3, strategy="global")
    training = torch.utils.data.TensorDataset(*samples)
    more = {"train": training, "finetune": TrainSettings(epochs=1)} if schedule == "iterative" else {}
    budgets = [sc.Budget(units=share) for share in (0.75, 0.5)]
    found = list(sc.prune_to_budgets(model, reference, budgets, "weight", how, **more))
    assert [round(f.plan.achieved["units"], 3) for f in found] == [0.75, 0.5]
    kept = [40, *(round(40 * step.achieved["units"]) for step in found[-1].history)]
    assert max(before - after for before, after in itertools.pairwise(kept)) == 3
    assert len(found[-1].history) == 8  # 10 units in steps of 3, twice
    with pytest.raises(UnreachableBudgetError, match="max_remove allows 3 units"):
        sc.compress(model, reference, sc.Budget(units=0.5), "weight", how.model_copy(update={"schedule": "one-shot"}))
    with pytest.raises(UnreachableBudgetError, match="at least"):  # no endless steps
        sc.compress(model, reference, sc.Budget(units=0.01), "weight", how, **more)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("caps", "message"),
    [
        ("{layer9: 3}", "layer 'layer9' has no removable units"),
        ("0.1", "max_remove allows 11 units"),
        ("1.0", "max_remove is a number of units"),
    ],
)
def test_commands_refuse_caps_before_any_work(caps, message, capsys):
    request = ["--model", "resnet20", "--set", "model.arguments={width: 4}", "--allow-untrained", "--data", "mnist5k"]
    settings = ["--set", "prune.schedule=one-shot", "--set", f"prune.max_remove={caps}", "--device", "cpu"]
    assert run(["prune", *request, "--units", "0.5", *settings, "--dry-run"]) == 2
    assert message in capsys.readouterr().err
