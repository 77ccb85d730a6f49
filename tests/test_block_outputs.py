"""What residual blocks add to their stream can stay, by structure and not by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.data import ReferenceSet
from secateur.pipeline import PruneSettings, prune_to_budgets, prune_to_ratios


class Gated(nn.Module):
    """Two layers whose outputs are multiplied, as in gated linear units, or added up in one of several ways."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.c, self.how = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3), how

    def forward(self, x):
        return self.c(torch.relu(self.how(self, x)))


@pytest.mark.parametrize(
    ("how", "added"),
    [
        (lambda net, x: net.a(x) * net.b(x), False),
        (lambda net, x: net.a(x) + net.a.bias, False),
        (lambda net, x: (lambda y: y + y.sigmoid())(net.a(x)), False),
        (lambda net, x: net.a(x) + net.b(x), True),
        (lambda net, x: net.a(x).sub_(net.b(x)), True),
        (lambda net, x: torch.add(net.a(x), net.b(x), alpha=0.5), True),
        (lambda net, x: torch.addmm(net.a(x), x, net.b.weight.t()), True),
        (lambda net, x: torch.lerp(net.a(x), net.b(x), 0.5), True),
    ],
    ids="product bias itself sum difference scaled addmm lerp".split(),
)
def test_sums_of_layers_are_told_from_products(how, added):
    structure = sc.trace(Gated(how), torch.randn(2, 4))
    assert structure.block_outputs == (("a",) if added else ())


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    model, inputs = sc.build("resnet20", num_classes=4, width=4), torch.randn(8, 3, 16, 16)
    return model, sc.trace(model, inputs[:1]), ReferenceSet(inputs, torch.arange(8) % 4, tuple(range(8)))


def test_only_inner_layers_of_blocks_are_free(setting):
    structure = setting[1]
    inner = {name for name, _ in setting[0].named_modules() if name.endswith(".conv1")}
    assert {group.name for group in structure.groups if not group.added} == inner
    half = structure.reduced(np.arange(structure.num_units) % 2 == 0)
    assert half.block_outputs == structure.block_outputs


def spared(setting, compressed):
    structure = setting[1]
    keep = compressed.plan.keep(structure)
    assert not keep.all()
    return all(keep[structure.group(name).units].all() for name in structure.block_outputs)


@pytest.mark.parametrize("schedule", ["one-shot", "rescored", "iterative"])
def test_every_schedule_spares_block_outputs(setting, schedule):
    model, structure, reference = setting
    tune = {}
    if schedule == "iterative":
        data = torch.utils.data.TensorDataset(reference.inputs, reference.targets)
        tune = {"train": data, "finetune": sc.TrainSettings(epochs=1, batch_size=4, device="cpu", keep="last")}
    for spare in (True, False):
        how = PruneSettings(schedule=schedule, step=0.2, spare_block_outputs=spare)
        [found] = prune_to_budgets(model, reference, [sc.Budget(macs=0.6)], "weight", how, structure=structure, **tune)
        assert spared(setting, found) == spare


def test_nominal_ratios_count_the_other_units(setting):
    model, structure, reference = setting
    how = PruneSettings.published(strategy="per-layer", spare_block_outputs=True)
    [found] = prune_to_ratios(model, reference, [0.5], "weight", how, structure=structure)
    assert spared(setting, found)
    free = sum(group.size for group in structure.groups if not group.added)
    assert (~found.plan.keep(structure)).sum() == free // 2


def test_budgets_that_blocks_alone_cannot_meet_are_refused(setting):
    model, structure, reference = setting
    how = PruneSettings(schedule="one-shot", spare_block_outputs=True)
    with pytest.raises(sc.RequestError, match="protect"):
        list(prune_to_budgets(model, reference, [sc.Budget(macs=0.05)], "weight", how, structure=structure))


def test_a_network_of_nothing_but_block_outputs_is_refused():
    torch.manual_seed(0)
    model, x = Gated(lambda net, x: net.a(x) + net.b(x)), torch.randn(4, 4)
    reference = ReferenceSet(x, torch.arange(4) % 3, tuple(range(4)))
    how = PruneSettings.published(spare_block_outputs=True)
    with pytest.raises(sc.RequestError, match="no unit can be removed: .*spare_block_outputs keep all"):
        next(prune_to_ratios(model, reference, [0.5], "weight", how))
    with pytest.raises(sc.RequestError, match="no unit can be removed"):
        sc.compress(model, reference, sc.Budget(units=0.5), "weight", how)
