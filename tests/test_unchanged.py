"""Passes of pruned networks that leave out what is as in the original: the same logits, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.criteria import Scores
from secateur.pipeline.unchanged import Unchanged


class Residual(nn.Module):
    """Sums, an activation in place behind a module, and a branch that is read much later."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.one, self.two = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.three, self.four = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.stem(x), inplace=True)
        early = x.mean((2, 3))
        x = x + self.two(F.relu(self.one(x)))
        x += self.four(F.relu_(self.three(x)))
        return self.head(x.mean((2, 3)) + early)


class ByHand(Residual):
    """The third convolution is never called: its weights are read by the network itself."""

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.two(F.relu(self.one(x)))
        x = x + self.four(F.relu(F.conv2d(x, self.three.weight, self.three.bias, padding=1)))
        return self.head(x.mean((2, 3)))


class Twice(Residual):
    """A module that is called twice, before and after what is pruned."""

    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.again(self.stem(x)))
        x = x + self.two(F.relu(self.one(x)))
        return self.head(F.relu(self.again(x)).mean((2, 3)))


class WithKeywords(Residual):
    def forward(self, x):
        x = self.stem(input=x)
        x = self.two(input=F.relu(self.one(input=x)))
        return self.head(input=x.mean((2, 3)))


class Prompted(nn.Module):
    """A network whose own parameter is read at its begin."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.randn(8))
        self.one, self.two, self.head = nn.Linear(12, 8), nn.Linear(8, 9), nn.Linear(9, 5)

    def forward(self, x):
        x = F.gelu(self.one(x.mean(1).flatten(1)[:, :12]) + self.shift)
        return self.head(F.gelu(self.two(x)))


NETWORKS = {
    "residual": (Residual, "three", {"stem", "two"}),
    "weights read elsewhere": (ByHand, "three", set()),
    "called twice": (Twice, "one", {"stem"}),
    "keywords": (WithKeywords, "one", {"stem"}),
    "parameter of the network": (Prompted, "two", {"one"}),
    "nothing before it": (Residual, "stem.0", set()),
}


def without_two(model, layer, x):
    """Without two units of a layer."""
    structure = sc.trace(model, x[:1])
    scores = Scores(structure, np.arange(float(structure.num_units)), "by hand")
    (group,) = [group for group in structure.groups if layer in group.layers]
    others = [each.name for each in structure.groups if each is not group]
    budget = sc.Budget(units=1 - 2 / structure.num_units)
    return sc.prune(model, sc.select(scores, budget, protect=others))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_shortened_pass_is_the_whole_one(name):
    torch.manual_seed(0)
    make, layer, expected = NETWORKS[name]
    model, x = make().eval(), torch.randn(7, 3, 6, 6)
    unchanged = Unchanged(model, x.split(3))
    for _ in range(2):  # what is kept is as good as what is computed
        slim = without_two(model, layer, x).eval()
        with torch.no_grad():
            whole = [slim(batch) for batch in x.split(3)]
            with unchanged.shortened(slim) as left_out:
                found = [slim(batch) for batch in x.split(3)]
            again = [slim(batch) for batch in x.split(3)]
        assert expected <= set(left_out)
        assert bool(left_out) == bool(expected)
        assert all(map(torch.equal, found, whole))
        assert all(map(torch.equal, again, whole))


def test_what_is_left_out_is_not_computed():
    torch.manual_seed(0)
    model, x, computed = Residual().eval(), torch.randn(4, 3, 6, 6), []
    slim = without_two(model, "three", x).eval()
    unchanged = Unchanged(model, [x])
    with unchanged.shortened(slim), torch.no_grad():
        for name in ("stem.0", "one", "three"):
            slim.get_submodule(name).register_forward_hook(
                lambda _, __, y, name=name: computed.append(name) if y.isfinite().all() else None
            )
        slim(x)
    assert computed == ["three"]


def test_outputs_that_do_not_fit_into_memory_are_computed():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(4, 3, 6, 6)
    slim = without_two(model, "three", x).eval()
    size = 4 * 4 * 8 * 6 * 6  # of one output of the stem, for four samples
    found = []
    for memory in (3 * size, size, size - 1):
        with Unchanged(model, [x], memory).shortened(slim) as left_out:
            found.append(set(left_out))
    assert {"stem", "two"} <= found[0]
    assert found[1] == {"stem"}
    assert found[2] == set()


def test_another_network_is_computed_whole():
    """A network that only looks alike: another module does what the original's does, elsewhere."""
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(4, 3, 6, 6)
    other = without_two(model, "three", x).eval()
    with torch.no_grad():
        other.stem[0].weight.add_(1.0)
    with Unchanged(model, [x]).shortened(other) as left_out:
        assert left_out == ()


def test_a_network_with_a_forward_of_its_own_gets_it_back():
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(4, 3, 6, 6)
    slim = without_two(model, "three", x).eval()
    mine = slim.stem.forward
    slim.stem.forward = mine
    with Unchanged(model, [x]).shortened(slim) as left_out:
        assert "stem" in left_out
        assert slim.stem.forward != mine
    assert slim.stem.forward == mine
    assert "forward" not in slim.two.__dict__
