"""What can go, what cannot and why, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from networks import user_net, zoo
from secateur.evaluation import count_macs, count_params


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenet_v2", "squeezenet1_1", "regnet_y_400mf"])
def test_costs_agree_with_an_independent_count(name):
    model, x = zoo(name)
    structure = sc.trace(model, x[:1])
    whole = structure.cost()
    assert whole.params == count_params(model)
    # the counter also sees squeeze-excite products and the like; convolutions and linear layers are all there is here
    assert whole.macs == count_macs(model, x)


def test_costs_of_a_pruned_network_agree_with_the_network():
    model, x = zoo("resnet20")
    structure = sc.trace(model, x[:1])
    scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "by hand")
    plan = sc.select(scores, sc.Budget(params=0.4))
    slim, cost = sc.prune(model, plan), structure.cost(plan.keep(structure))
    assert (cost.params, cost.macs) == (count_params(slim), count_macs(slim, x))


def test_marginal_costs_are_what_removing_one_unit_saves():
    model, x = user_net()
    structure = sc.trace(model, x)
    for measure in ("params", "macs"):
        costs = structure.unit_costs(measure)
        for unit in range(0, structure.num_units, 7):
            keep = np.ones(structure.num_units, bool)
            keep[unit] = False
            saved = getattr(structure.cost(), measure) - getattr(structure.cost(keep), measure)
            # a unit on both sides of one weight is counted on both
            assert saved <= costs[unit] <= 1.2 * saved


def test_residual_sums_couple_layers():
    structure = sc.trace(*zoo("resnet20"))
    group = structure.group("layer2.1.conv2")
    assert group.name == "layer2.0.conv2"
    assert "layer2.0.shortcut.0" in group.layers


def test_depthwise_and_gates_join_their_producer():
    structure = sc.trace(*user_net())
    assert structure.group("excite") == structure.group("grouped")
    # whole groups of a grouped convolution go together with the inputs they read
    assert structure.group("stem.0").name in {g.name for g in structure.groups}


def test_outputs_are_locked_with_the_reason():
    structure = sc.trace(*zoo("resnet20"))
    assert [(k.name, k.reason) for k in structure.locked] == [("fc", "is an output of the network")]
    with pytest.raises(sc.RequestError, match=r"'fc' has no removable units.*output"):
        structure.group("fc")


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(5, 4, 1)
        self.c = nn.Conv2d(4, 6, 1)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.c(self.b(self.a(x)[:, :5])).mean((2, 3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layout_does_not_matter(layout):
    model, x = zoo("resnet20")
    structure = sc.trace(model.to(memory_format=layout), x.contiguous(memory_format=layout))
    assert (structure.num_units, len(structure.locked)) == (448, 1)


def test_slices_at_fixed_positions_lock():
    structure = sc.trace(Sliced(), torch.zeros(1, 3, 4, 4))
    assert {g.name for g in structure.groups} == {"b", "c"}
    assert next(k for k in structure.locked if k.name == "a").reason.startswith("is picked apart")


class Padded(nn.Module):
    """Shortcut that pads channels with zeros: fixed channels meet removable ones."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 6, 1)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        a = self.a(x)
        return self.fc((self.b(a) + nn.functional.pad(a, (0, 0, 0, 0, 1, 1))).mean((2, 3)))


def test_channels_that_meet_padding_are_locked():
    model = Padded()
    structure = sc.trace(model, torch.zeros(1, 3, 4, 4))
    assert sum(g.size for g in structure.groups) == 4
    locked = [k for k in structure.locked if k.name == "b"]
    assert locked[0].channels == 2
    scores = sc.Scores(structure, np.arange(structure.num_units, dtype=float), "by hand")
    plan = sc.select(scores, sc.Budget(units=0.5))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(sc.prune(model, plan)(x), sc.mask(model, plan)(x))


class Written(nn.Module):
    """Code with a size written into it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.a(x).mean((2, 3)).view(-1, 8))


def test_written_sizes_are_caught_by_running():
    model = Written()
    structure = sc.trace(model, torch.zeros(1, 3, 4, 4))
    plan = sc.select(sc.Scores(structure, np.arange(8.0), "by hand"), sc.Budget(units=0.5))
    with pytest.raises(sc.RequestError, match="sizes written into it"):
        sc.prune(model, plan)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (nn.Linear(3, 2), torch.zeros(1, 3), "no prunable units"),
        (nn.Conv2d(3, 2, 3), torch.zeros(1, 4, 8, 8), "fails on the example input"),
        (nn.Linear(3, 2), 5, "must be a tensor"),
    ],
)
def test_bad_requests_are_one_line(model, inputs, message):
    with pytest.raises(sc.RequestError, match=message) as caught:
        sc.trace(model, inputs)
    assert "\n" not in str(caught.value)


def test_tracing_leaves_the_network_as_it_was():
    model, x = user_net()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sc.trace(model, x)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_unexecuted_layers_are_listed():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.unused, self.b = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x))

    assert sc.trace(Idle(), torch.zeros(1, 3)).idle == ("unused",)
