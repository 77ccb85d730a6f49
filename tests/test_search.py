"""Searching for the attribution that prunes best: curves, flipping, the space, proposals, and the command."""

from __future__ import annotations

import copy
import itertools
import json
import sqlite3

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from marks import some_slow
from secateur.attribution import composites
from secateur.cli.main import run as command
from secateur.core.errors import RequestError, SecateurError
from secateur.core.parameters import read_parameters, write_parameters
from secateur.criteria import Scores, parse
from secateur.data import ReferenceSet
from secateur.evaluation.faithfulness import pixel_flipping
from secateur.pipeline import pruning_curve
from secateur.pipeline.folding import Folding
from secateur.pipeline.pruning_curve import RATES, CurveMeter, PruningCurve, RatePoint
from secateur.pipeline.repair import Repair
from secateur.pipeline.settings import PruneSettings
from secateur.selection import select_nominal
from secateur.studies.search.findings import is_relevance
from secateur.studies.search.settings import SamplerSettings, SearchStudySettings, SpaceSettings
from secateur.studies.search.space import Space, best_of, composite_of, criterion_of, proposal
from secateur.studies.search.study import SearchStudy


class Small(nn.Module):
    """Two convolutions with norms, one of them in a residual block, and a classifier."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.inner_norm(self.inner(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def trained():
    torch.manual_seed(0)
    net = Small()
    with torch.no_grad():
        for norm in (net.norm, net.inner_norm):
            for value in (norm.running_mean, norm.bias):
                value.normal_()
            for value in (norm.running_var, norm.weight):
                value.uniform_(0.5, 2)
        net.eval()
        net.fc.weight.mul_(20)
        net.fc.bias.copy_(-net(inputs()).mean(0))  # so that all classes occur
    return net


def inputs():
    return torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images(trained):
    """Labelled as the unpruned network answers."""
    with torch.no_grad():
        return inputs(), trained(inputs()).argmax(1)


def scored(net, x, labels):
    reference = ReferenceSet(x[:12], labels[:12], tuple(range(12)))
    return sc.score(net, sc.trace(net, x[:1]), reference, "lrp")


def naive(net, scores, x, labels, rates=RATES):
    """Each rate by itself, by what everybody uses."""
    found = []
    for rate in rates:
        slim = sc.prune(net, select_nominal(scores, rate, "global", nothing=True)) if rate else net
        found.append(sc.evaluate(slim, [(x, labels)]).accuracy)
    return found


def test_a_curve_is_what_networks_pruned_one_by_one_give(trained, images):
    scores = scored(trained, *images)
    meter = CurveMeter(trained, *images, batch_size=7)
    found = [point.accuracy for point in meter.curve(scores).points]
    assert found == naive(trained, scores, *images)
    assert found == [point.accuracy for point in meter.curve(scores, masked=True).points]
    assert found == [point.accuracy for point in meter.curve(scores).points]  # the second one is checked less
    assert len(set(found)) > 2


def test_a_curve_leaves_the_network_as_it_was(trained, images):
    before = copy.deepcopy(trained.state_dict())
    trained.train()
    CurveMeter(trained, *images).curve(scored(trained, *images))
    assert trained.training
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_rates_go_from_coarse_to_fine_and_stop_when_it_is_not_worth_it(trained, images):
    scores, seen = scored(trained, *images), []
    meter = CurveMeter(trained, *images)
    rates = (0.0, 0.2, 0.4, 0.6, 0.8)

    def no(curve):
        seen.append([point.rate for point in curve.points])
        return False

    stopped = meter.curve(scores, rates, proceed=no)
    assert seen == [[0.0, 0.8]]
    assert not stopped.whole
    whole = meter.curve(scores, rates, proceed=lambda curve: True)
    assert whole.whole
    assert [point.rate for point in whole.points] == list(rates)
    assert [whole.points[0], whole.points[4]] == list(stopped.points)


def test_what_is_most_relevant_goes_first_on_request(trained, images):
    scores = scored(trained, *images)
    other = Scores(scores.structure, -scores.values, "turned")
    meter = CurveMeter(trained, *images)
    assert meter.curve(scores, order="most").points == meter.curve(other).points


def test_repaired_curves_are_repaired_and_masked_ones_cannot_be(trained, images):
    scores = scored(trained, *images)
    repair = Repair(PruneSettings(repair="refit"), ReferenceSet(*images, tuple(range(60))))
    meter = CurveMeter(trained, *images)
    rates = (0.0, 0.3)
    slim = sc.prune(trained, select_nominal(scores, 0.3, "global"))
    repair(slim, trained, select_nominal(scores, 0.3, "global"))
    expected = sc.evaluate(slim, [images]).accuracy
    assert meter.curve(scores, rates, repair=repair).points[1].accuracy == expected
    with pytest.raises(RequestError, match="masked networks are not repaired"):
        meter.curve(scores, rates, repair=repair, masked=True)


def test_what_was_masked_or_repaired_is_not_taken_for_plain(trained, images):
    scores, rates = scored(trained, *images), (0.0, 0.3, 0.5)
    plain = CurveMeter(trained, *images).curve(scores, rates)
    meter = CurveMeter(trained, *images)
    repair = Repair(PruneSettings(repair="refit"), ReferenceSet(*images, tuple(range(60))))
    repaired = meter.curve(scores, rates, repair=repair)
    assert repaired.points != plain.points
    assert meter.curve(scores, rates).points == plain.points
    assert meter.curve(scores, rates, repair=repair).points == repaired.points


def test_networks_are_checked_also_behind_masked_ones_and_not_measured_twice(trained, images, monkeypatch):
    scores, checks = scored(trained, *images), []
    cut = pruning_curve.prune
    monkeypatch.setattr(pruning_curve, "prune", lambda *a, check: checks.append(check) or cut(*a, check=check))
    meter = CurveMeter(trained, *images)
    meter.curve(scores, masked=True)
    assert checks == []
    first = meter.curve(scores)
    assert checks
    assert all(checks)
    count = len(checks)
    assert meter.curve(scores) == first
    assert len(checks) == count
    meter.forget()
    assert meter.curve(scores) == first
    assert len(checks) == 2 * count
    assert checks[count:] == [True] + [False] * (count - 1)


@pytest.mark.parametrize("rates", [(), (0.1, 0.2), (0.0, 0.5, 0.3), (0.0, 0.3, 0.3), (0.0, 1.0)])
def test_rates_that_are_none_are_refused(trained, images, rates):
    with pytest.raises(RequestError, match="rates are shares of removed units, ascending from 0 to below 1"):
        CurveMeter(trained, *images).curve(scored(trained, *images), rates)


def test_logits_that_are_not_finite_stop_a_curve(trained, images):
    meter = CurveMeter(trained, *images)
    scores = scored(trained, *images)
    with torch.no_grad():
        trained.fc.bias.fill_(float("nan"))
    with pytest.raises(SecateurError, match="logits of a pruned network are not finite"):
        meter.curve(scores)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_areas_are_means_where_shares_go_in_equal_steps(accuracies):
    steps = len(accuracies) - 1
    points = tuple(
        RatePoint(place / (steps + 1), accuracy, macs=1 - place / (steps + 1))
        for place, accuracy in enumerate(accuracies)
    )
    curve = PruningCurve(points)
    between = [(a + b) / 2 for a, b in itertools.pairwise(accuracies)]
    assert curve.a_pr == pytest.approx(np.mean(accuracies))
    assert curve.area("macs") == pytest.approx(np.mean(between))
    assert min(accuracies) - 1e-9 <= curve.area("macs") <= max(accuracies) + 1e-9


def test_the_highest_rate_ends_where_the_accuracy_first_falls_below():
    curve = PruningCurve(tuple(RatePoint(rate, accuracy) for rate, accuracy in
                               ((0, 0.8), (0.1, 0.79), (0.2, 0.7), (0.3, 0.8))))  # fmt: skip
    assert curve.highest(0.95) == 0.1
    assert curve.highest(0.999) == 0.0
    assert curve.highest(0.5) == 0.3


# batch norms folded


def test_folding_finds_each_norm_and_changes_nothing(trained, images):
    folding = Folding.of(trained, images[0][:2])
    assert folding.pairs == (("first", "norm"), ("inner", "inner_norm"))
    slim = copy.deepcopy(trained)
    folding(slim)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in slim.modules())
    assert torch.allclose(slim(images[0]), trained(images[0]), atol=1e-5)


def test_a_layer_whose_output_is_used_beside_its_norm_is_not_folded(images):
    class Twice(Small):
        def forward(self, x):
            made = self.first(x)
            return self.fc((self.norm(made) + made).mean((2, 3)))

    net = Twice().eval()
    net.norm.running_mean.fill_(2.0)
    assert Folding.of(net, images[0][:2]).pairs == ()


def test_layers_that_share_weights_or_are_called_twice_are_not_folded(images):
    shared = nn.Sequential(
        nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
    ).eval()
    shared[2].weight = shared[0].weight
    assert Folding.of(nn.Sequential(shared, nn.Flatten()), images[0][:2]).pairs == ()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
        (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (5, 4, 7)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6, affine=False), (5, 4, 3, 3)),
        (nn.Conv3d(4, 6, 2, groups=2), nn.BatchNorm3d(6), (5, 4, 3, 3, 3)),
    ],
)
def test_layers_of_all_kinds_are_folded(layer, norm, shape):
    torch.manual_seed(0)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    net = nn.Sequential(layer, norm, nn.Flatten()).eval()
    x = torch.randn(shape)
    folding = Folding.of(net, x)
    assert folding.pairs == (("0", "1"),)
    before = net(x)
    folding(net)
    assert torch.allclose(net(x), before, atol=1e-5)


def test_what_surgery_has_replaced_is_not_folded(trained, images):
    folding = Folding.of(trained, images[0][:2])
    trained.norm = nn.Identity()
    before = trained(images[0])
    folding(trained)
    assert isinstance(trained.inner_norm, nn.Identity)
    assert torch.allclose(trained(images[0]), before, atol=1e-4)


# pixel flipping


def test_flipping_tells_a_right_order_from_a_wrong_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x = torch.randn(20, 1, 8, 8)
    weights = net[1].weight[0] - net[1].weight[1]
    contributions = (weights.reshape(8, 8) * x[:, 0]).detach()
    targets = torch.zeros(20, dtype=torch.long)
    right = pixel_flipping(net, x, targets, contributions, patch=2, steps=8)
    wrong = pixel_flipping(net, x, targets, -contributions, patch=2, steps=8)
    assert right.gain > 0.2
    assert right.insertion > right.deletion
    assert wrong.gain == pytest.approx(-right.gain, abs=1e-6)
    assert wrong.deletion == pytest.approx(right.insertion, abs=1e-6)


def test_flipping_is_the_trapezoid_of_single_steps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0, 0, 0, 0]]))
    x, relevance = torch.ones(1, 1, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    found = pixel_flipping(net, x, torch.tensor([0]), relevance, patch=1, steps=2, batch_size=1)
    p = [1 / (1 + np.exp(-logit)) for logit in (10, 3, 0)]
    q = [1 / (1 + np.exp(-logit)) for logit in (10, 7, 0)]
    assert found.deletion == pytest.approx((p[0] / 2 + p[1] + p[2] / 2) / 2, abs=1e-6)
    assert found.insertion == pytest.approx((q[0] / 2 + q[1] + q[2] / 2) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "patch", "message"),
    [((2, 8), 2, "needs images"), ((2, 8, 8), 3, "does not divide"), ((2, 4, 8), 2, "needs images")],
)
def test_flipping_refuses_shapes(shape, patch, message):
    with pytest.raises(RequestError, match=message):
        pixel_flipping(
            nn.Flatten(), torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long), torch.zeros(shape), patch=patch
        )


# settings as text


@given(
    low=st.sampled_from(["epsilon", "z-plus", "gamma"]),
    gamma=st.floats(1e-6, 10),
    first=st.sampled_from([None, "flat"]),
)
def test_composites_are_written_as_they_are_read(low, gamma, first):
    made = composites.get("graded", low=low, gamma=gamma, first=first)
    assert composites.get(made.name).name == made.name


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(),
    st.sampled_from(["epsilon", "graded(low=z-plus, gamma=0.1)", "null", "1"])
)))  # fmt: skip
def test_parameters_are_read_as_they_were_written(parameters):
    assert read_parameters(write_parameters(parameters), "this") == parameters


def test_a_number_with_an_exponent_is_a_number():
    assert read_parameters("gamma=1e-3, epsilon=2E5", "this") == {"gamma": 0.001, "epsilon": 200000.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("graded(low=z-plus", r"should read NAME\(key=value, key=value\)"),
        ("graded(low)", "'low' should read key=value"),
        ("graded(low=z-plos)", "unknown rule 'z-plos'"),
        ("graded(lower=epsilon)", "lower"),
        ("grade(low=epsilon)", "unknown composite 'grade'"),
        ("graded(low=[a)", "bracket"),
    ],
)
def test_composites_that_are_written_wrong_are_refused(text, message):
    with pytest.raises(RequestError, match=message):
        composites.get(text)


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(RequestError, match="'low' is given twice"):
        composites.get("graded(low=epsilon)", low="epsilon")


def test_a_criterion_with_a_composite_of_its_own_scores(trained, images):
    name, parameters = parse("lrp:composite=graded(low=z-plus, classifier=gamma, gamma=0.1),reduce=abs")
    reference = ReferenceSet(images[0][:12], images[1][:12], tuple(range(12)))
    structure = sc.trace(trained, images[0][:1])
    found = sc.score(trained, structure, reference, sc.criteria.get(name, **parameters))
    made = sc.composites.get("graded", low="z-plus", classifier="gamma", gamma=0.1)
    same = sc.score(trained, structure, reference, sc.criteria.LRP(composite=made, reduce="abs"))
    assert np.array_equal(found.values, same.values)


# the space, and what is proposed


def test_settings_are_written_as_commands_take_them():
    space = Space(SpaceSettings(), attention=True)
    for parameters in space.known:
        name, given_parameters = parse(criterion_of(parameters))
        assert sc.criteria.get(name, **given_parameters)
        assert composites.get(composite_of(parameters)).softmax == parameters["softmax"]


def test_known_composites_come_first_as_far_as_the_space_has_them():
    space = Space(SpaceSettings(), attention=False)
    assert space.known[0] | {"start": "logit", "reduce": "square", "at": "readers"} == space.known[0]
    assert {parameters["low"] for parameters in space.known} == {"epsilon", "z-plus", "alpha2-beta1", "gamma"}
    sampler = SamplerSettings()
    assert [proposal(space, sampler, [], number, ["estimate"]) for number in range(4)] == space.known[:4]
    few = Space(SpaceSettings(low=("gamma",), start=("contrast",)), attention=False)
    assert few.known == []


def row(parameters, number, value):
    return {**parameters, "number": number, "state": "complete", "estimate": value, "a_pr": value, "reason": None}


def searched(space, sampler, count, objective):
    rows = []
    for number in range(count):
        earlier = rows[: number // sampler.together * sampler.together]
        parameters = proposal(space, sampler, earlier, number, ["estimate"])
        rows.append(row(parameters, number, objective(parameters)))
    return rows


def pretended(parameters):
    """An objective that knows what is best."""
    value = 0.1 * (parameters["middle"] == "z-plus") + 0.05 * (parameters["reduce"] == "abs")
    return value + 0.02 * (parameters["high"] == "epsilon") - 0.01 * (parameters["start"] == "contrast")


@pytest.mark.parametrize("kind", some_slow(["gp", "tpe", "random"], "gp"))
def test_proposals_follow_from_earlier_trials_alone_and_repeat_none(kind):
    space = Space(SpaceSettings(gamma=(0.25,)), attention=False)
    sampler = SamplerSettings(kind=kind, startup=2, together=3, known=False)
    rows = searched(space, sampler, 6, pretended)
    assert rows == searched(space, sampler, 6, pretended)
    assert len({space.key(each) for each in rows}) == 6
    other = searched(space, sampler.model_copy(update={"seed": 1}), 6, pretended)
    assert [space.key(each) for each in rows] != [space.key(each) for each in other]


@pytest.mark.slow
def test_a_model_of_the_trials_finds_more_than_chance():
    space = Space(SpaceSettings(gamma=(0.25,)), attention=False)
    found = {}
    for kind in ("tpe", "random"):
        best = []
        for seed in range(4):
            sampler = SamplerSettings(kind=kind, startup=8, together=4, seed=seed, known=False)
            rows = searched(space, sampler, 40, pretended)
            best.append(np.mean([each["estimate"] for each in rows[16:]]))
        found[kind] = np.mean(best)
    assert found["tpe"] > found["random"] + 0.02


def test_a_grid_has_every_setting_once():
    some = SpaceSettings(
        low=("epsilon", "gamma"), middle=("epsilon",), high=("epsilon",), classifier=("epsilon",), gamma=(0.1, 0.9),
        first=("none",), softmax=("attnlrp",), start=("one",), reduce=("abs", "square"), normalise=("none",),
        at=("makers",),
    )  # fmt: skip
    space = Space(some, attention=True)
    assert len(space.grid) == 2 * (1 + 3)  # γ matters where a rule takes it
    found = [proposal(space, SamplerSettings(kind="grid"), [], number, ["estimate"]) for number in range(8)]
    assert {space.key(each) for each in found} == {space.key(each) for each in space.grid}
    with pytest.raises(SecateurError, match="the grid has 8 settings, all tried"):
        proposal(space, SamplerSettings(kind="grid"), [], 8, ["estimate"])


def test_a_space_of_few_settings_is_tried_whole(monkeypatch):
    few = SpaceSettings(
        low=("epsilon",), middle=("epsilon",), high=("epsilon",), classifier=("epsilon", "z-plus"), start=("one",),
        reduce=("abs", "square", "signed"), normalise=("none",), at=("makers",), softmax=("attnlrp",),
    )  # fmt: skip
    space = Space(few, attention=False)
    assert space.size() == 6
    rows = searched(space, SamplerSettings(kind="random", together=2), 6, pretended)
    assert len({space.key(each) for each in rows}) == 6
    asked = SearchStudySettings(space=few, trials={"count": 50})
    assert sum(cell.stage == "search" for cell in SearchStudy(asked).cells()) == 6


@pytest.mark.parametrize(
    ("criterion", "relevance"),
    [("lrp", True), ("lrp:composite=graded(low=z-plus)", True), ("lrp:composite=integrated-gradients", False),
     ("lrp:composite=guided-backprop,start=logit", False), ("taylor", False),
     ("mixture:of=[lrp, weight]", True), ("mixture:of=[taylor, weight]", False)],
)  # fmt: skip
def test_gradient_methods_are_no_relevance(criterion, relevance):
    assert is_relevance(criterion) == relevance


def test_the_best_is_complete_and_of_equal_ones_the_first():
    space = Space(SpaceSettings(), attention=False)
    rows = [row(space.known[0], number, value) for number, value in enumerate((0.2, 0.5, 0.5))]
    rows.append({**row(space.known[0], 3, 0.9), "state": "stopped", "a_pr": None})
    assert best_of(rows, "a_pr")["number"] == 1
    failed = {**row(space.known[0], 0, None), "state": "failed", "reason": "it is too large"}
    with pytest.raises(SecateurError, match="no trial of the search is complete; the first failed because it is too"):
        best_of([failed], "a_pr")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": ("epsilon", "epsilon")}, "space.low has a value twice"),
        ({"gamma": (1.0, 0.1)}, "ascending"),
        ({"gamma": (0.0, 0.1)}, "greater than 0"),
        ({"low": ()}, "at least 1"),
    ],
)
def test_spaces_that_are_none_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SpaceSettings(**changes)


# the command


COMMAND = [
    "optimise", "--model", "resnet20", "--data", "mnist5k", "--allow-untrained", "--device", "cpu",
    "--set", "model.arguments={width: 4}", "--set", "data.limit=200", "--set", "objective.rates=[0, 0.3, 0.6]",
    "--set", "search.limit=20", "--set", "measured.limit=20", "--set", "measured.per_class=1",
    "--set", "space.per_class=[1]", "--set", "sampler.together=2", "--set", "sampler.startup=2",
    "--criterion", "weight", "--seed", "0", "--seed", "1",
]  # fmt: skip


@pytest.mark.slow
def test_a_search_ends_with_a_recipe_that_prunes(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    out = tmp_path / "out"
    assert command([*COMMAND, "--trials", "4", "--faithfulness", "--set", "objective.images=4", "--set",
                    "measure.samples=[1, 2]", "--out", str(out)]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "A_PR: optimised is ahead of weight" in said
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert best["criterion"]["name"] == "lrp"
    text = (out / "composite.txt").read_text().strip()
    assert composites.get(text)
    for path in ("trials.csv", "curves.csv", "measured.csv", "search.svg", "report.html"):
        assert (out / path).stat().st_size
    maps = pd.read_csv(out / "heatmaps.csv")
    assert len(maps) == 4 * maps["setting"].nunique()
    assert set(maps["setting"]) == {"best for pruning", "most faithful"}
    page = (out / "report.html").read_text()
    assert all(picture in page for picture in maps["relevance"])
    with sqlite3.connect(out / "optuna.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM trials").fetchone() == (4,)
    recipe = [
        "prune", "--recipe", str(out / "best.yaml"), "--allow-untrained", "--device", "cpu", "--macs", "0.6",
        "--out", str(tmp_path / "pruned"),
    ]  # fmt: skip
    assert command(recipe) == 0
    metrics = json.loads((tmp_path / "pruned" / "metrics.json").read_text())
    assert metrics
    assert command(["explain", "--model", str(tmp_path / "pruned" / "bundle"), "--data", "mnist5k", "--set",
                    "data.limit=200", "--composite", text, "--dry-run"]) == 0  # fmt: skip


@pytest.mark.slow
def test_trials_that_took_too_long_are_no_results(tmp_path, capsys):
    """A trial that the limit ended is no row of the search, on which the next ones would depend."""
    pytest.importorskip("mlxtend")
    out = tmp_path / "out"
    asked = [*COMMAND, "--trials", "2", "--out", str(out)]
    assert command([*asked, "--set", "execution.time_limit=0.02"]) == 1
    assert "for more time: secateur study retry --set execution.time_limit=SECONDS" in capsys.readouterr().err
    command(["study", "status", "--out", str(out)])
    assert "search: 2 failed" in capsys.readouterr().out.splitlines()
    assert command(["study", "retry", "--out", str(out), "--set", "execution.time_limit=600"]) == 0
    assert set(pd.read_csv(out / "trials.csv")["state"]) <= {"complete", "stopped"}
    capsys.readouterr()
    assert command(asked) == 0
    assert "0 cells worked on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--units", "heads"], "the network has no heads that could go; objective.units may be all, filters"),
        (["--set", "search.split=val", "--set", "measured.split=val"], "images that the search has not seen"),
        (["--set", "objective.rates=[0.1, 0.5]"], "ascending from 0"),
        (["--criterion", "lrq"], "unknown criterion 'lrq'"),
        (["--criterion", "optimised"], "'optimised' is measured in any case"),
        (["--sampler", "grid"], "fix space.softmax to one rule"),
        (["--sampler", "gb"], "sampler.kind"),
        (["--set", "objective.classes=11"], "objective.classes draws 11 classes, there are 10"),
        (["--set", "space.low=[epsilom]"], "space.low"),
    ],
)
def test_searches_that_cannot_be_are_refused_in_one_line(more, message, tmp_path, capsys):
    pytest.importorskip("mlxtend")
    assert command([*COMMAND, *more, "--dry-run", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.strip().count("\n") <= 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_space_with_no_composite_for_the_network_says_why(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    broken = [*COMMAND, "--trials", "2", "--set", "space.per_class=[1000]", "--out", str(tmp_path / "out")]
    assert command(broken) == 1
    said = capsys.readouterr().err
    assert "no trial of the search is complete; the first failed because" in said


def test_a_setting_that_breaks_does_not_stop_the_search(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mlxtend")
    whole = CurveMeter.curve

    def breaks(self, scores, *rest, **more):
        if "z-plus" in scores.criterion:
            raise ZeroDivisionError("division by zero")
        return whole(self, scores, *rest, **more)

    monkeypatch.setattr(CurveMeter, "curve", breaks)
    out = tmp_path / "out"
    assert command([*COMMAND, "--trials", "3", "--out", str(out)]) == 0
    with sqlite3.connect(out / "cells.sqlite") as database:
        found = database.execute("SELECT state, reason, a_pr IS NULL FROM rows_trials ORDER BY number").fetchall()
    assert found == [("complete", None, 0), ("failed", "ZeroDivisionError: division by zero", 1), ("complete", None, 0)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_round_proposes_the_same_whoever_asks_first(number):
    space = Space(SpaceSettings(), attention=True)
    sampler = SamplerSettings(kind="tpe", startup=2, together=3, known=False, seed=number)
    rows = searched(space, sampler, 3, pretended)
    again = {place: proposal(space, sampler, rows, place, ["estimate"]) for place in (5, 3, 4)}
    assert again == {place: proposal(space, sampler, rows, place, ["estimate"]) for place in (3, 4, 5)}
    assert len({space.key(each) for each in (*rows, *again.values())}) == 6
