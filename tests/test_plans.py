"""Plans of indices that another program decided on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import secateur as sc
from networks import user_net, zoo

STRUCTURE = sc.trace(*user_net())


@pytest.mark.parametrize("make", [user_net, lambda: zoo("resnet20")])
@pytest.mark.parametrize("removed", [True, False])
def test_a_plan_replayed_from_its_outputs_is_the_same_surgery(make, removed):
    model, inputs = make()
    structure = sc.trace(model, inputs)
    scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "by hand")
    plan = sc.select(scores, sc.Budget(macs=0.5), min_keep=0.1)
    weights = {layer.weight: layer.name for layer in structure.layers}
    cuts = [cut for cut in plan.cuts if cut.role == "out" and cut.tensor in weights]
    indices = {weights[cut.tensor]: cut.removed if removed else cut.kept() for cut in cuts}
    again = sc.Plan.from_indices(structure, indices, removed=removed)
    assert (again.removed, again.cuts, again.achieved) == (plan.removed, plan.cuts, plan.achieved)
    assert sc.Plan.from_json(json.loads(json.dumps(again.to_json()))) == again
    with torch.no_grad():
        torch.testing.assert_close(sc.prune(model, again)(inputs), sc.mask(model, plan)(inputs), rtol=1e-4, atol=1e-5)


def test_layers_that_are_not_named_follow_their_group():
    plan = sc.Plan.from_indices(STRUCTURE, {"mix": [2, 5]}, criterion="elsewhere")
    assert dict(plan.removed) == {"stem.0": (2, 5)}
    assert {cut.tensor for cut in plan.cuts} >= {"stem.0.weight", "mix.weight", "depthwise.weight"}
    assert plan.summary.startswith("2 units are removed by elsewhere (given); requested: free choice")
    same = sc.Plan.from_indices(STRUCTURE, {"mix": torch.tensor([5, 2]), "stem.0": np.array([2, 5])})
    assert same.removed == plan.removed
    # the depthwise convolution's outputs are those of two layers, one behind the other
    assert dict(sc.Plan.from_indices(STRUCTURE, {"depthwise": [0, 13]}).removed) == {"stem.0": (0,), "dense": (1,)}


def test_whole_heads_go():
    model = torch.nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True).eval()
    structure = sc.trace(model, torch.randn(2, 5, 16))
    heads = next(group for group in structure.groups if group.kind == "heads")
    layer = heads.layers[0]
    rows = [row for third in range(3) for row in range(16 * third + 4, 16 * third + 8)]  # head 1 in q, k and v
    assert dict(sc.Plan.from_indices(structure, {layer: rows}).removed) == {heads.name: (1,)}
    with pytest.raises(sc.RequestError, match="output 4 of '.*' can only be removed with 4, 5, 6, 7, 20, .* them all"):
        sc.Plan.from_indices(structure, {layer: rows[:3]})


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ({"nope": [1]}, "layer 'nope' has no removable units: there is no such layer"),
        ({"dens": [1]}, r"did you mean 'dense'\?"),
        ({"head.4": [1]}, "is an output of the network"),
        ({"dense": [8]}, "'dense' has outputs 0 to 7, got 8"),
        ({"dense": [-1]}, "'dense' has outputs 0 to 7, got -1"),
        ({"dense": [1, 2, 1]}, "output 1 of 'dense' is given more than once"),
        ({"dense": []}, "the indices remove nothing"),
        ({}, "the indices remove nothing"),
        ({"dense": range(8)}, "leave nothing of 'dense'"),
        ({"dense": np.ones(8, bool)}, "a list of indices, got ndarray of bool .*; for a mask, numpy.flatnonzero"),
        ({"dense": [1.0]}, "a list of indices, got list of float64"),
        ({"dense": 3}, "a list of indices, got int"),
        ({"dense": [[1], [2, 3]]}, "a list of indices, got list"),
        ({"stem.0": [1], "mix": [2]}, "'stem.0' and 'mix' contradict each other: 'stem.0' removes output 1"),
        ({"grouped": [0]}, r"output 0 of 'grouped' can .* with 0, 1 \(whole groups of 'point\[groups\]'\)"),
        ([3], "by name of layer"),
    ],
)
def test_what_cannot_be_replayed(indices, message):
    with pytest.raises(sc.RequestError, match=message) as caught:
        sc.Plan.from_indices(STRUCTURE, indices)
    assert "\n" not in str(caught.value)


def test_layers_that_keep_different_outputs_disagree():
    with pytest.raises(sc.RequestError, match="contradict each other"):
        sc.Plan.from_indices(STRUCTURE, {"stem.0": [0, 1, 2], "mix": [0, 1]}, removed=False)
    with pytest.raises(sc.RequestError, match="leave nothing of 'dense'"):
        sc.Plan.from_indices(STRUCTURE, {"dense": []}, removed=False)
