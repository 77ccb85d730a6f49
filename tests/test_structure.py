"""What can go, what cannot and why, and what it costs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from networks import Attention, SelfAttention, Tokens, user_net, zoo
from secateur.evaluation import count_macs, count_params
from secateur.structure.functions import function_named


@pytest.mark.slow
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
    # a gate goes with what it opens; groups of a grouped convolution with the inputs that they read
    assert "excite" in structure.group("grouped").layers
    assert {"point", "grouped", "excite"} <= set(structure.group("point[groups]").layers)
    assert structure.group("point[groups]").size == 8
    # a depthwise convolution passes on what others make
    assert structure.group("depthwise") in (structure.group("stem.0"), structure.group("dense"))


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


def pruned_equals_masked(model, x, share=0.5, **options):
    structure = sc.trace(model, x[:1], **options)
    scores = sc.Scores(structure, np.random.default_rng(0).random(structure.num_units), "by hand")
    plan = sc.select(scores, sc.Budget(units=share), "per-layer")
    model, x = model.double().eval(), x.double()
    slim = sc.prune(model, plan)
    torch.testing.assert_close(slim(x), sc.mask(model, plan)(x), rtol=1e-10, atol=1e-10)
    cost = structure.cost(plan.keep(structure))
    assert (cost.params, cost.macs) == (count_params(slim), count_macs(slim, x))
    return structure, plan, slim


def test_slices_follow_what_is_left_of_them():
    structure, plan, slim = pruned_equals_masked(Sliced(), torch.randn(2, 3, 4, 4))
    # the five channels that are read, and the three that are not, are groups of their own
    assert [(g.name, g.size) for g in structure.groups] == [("a", 5), ("a#2", 3), ("b", 4), ("c", 6)]
    left = 8 - len(plan.removed["a"]) - len(plan.removed["a#2"])
    assert (slim.a.out_channels, "" in plan.edits.corrections, plan.edits.code) == (left, True, {})


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


def test_written_sizes_are_written_anew_and_any_batch_goes():
    _, _, slim = pruned_equals_masked(Written(), torch.randn(3, 3, 4, 4))
    assert isinstance(slim, Written)
    assert slim(torch.randn(5, 3, 6, 6).double()).shape == (5, 2)


@pytest.mark.parametrize(
    "block",
    [
        lambda: Attention(),
        lambda: SelfAttention(),
        lambda: SelfAttention(batch_first=False),
        lambda: nn.TransformerEncoderLayer(24, 4, 48, batch_first=True),
    ],
)
def test_heads_and_places_within_heads_really_go(block):
    torch.manual_seed(0)
    model, x = Tokens(block()), torch.randn(3, 5, 6)
    structure, plan, slim = pruned_equals_masked(model, x)
    kinds = {g.kind: g for g in structure.groups}
    assert kinds["heads"].size == 4
    assert kinds["dims"].size in (6, 12)  # queries with keys, values; or all three together
    projection = next(p for n, p in slim.named_parameters() if n.endswith(("qkv.weight", "in_proj_weight")))
    assert len(projection) < 72
    assert slim(torch.randn(7, 5, 6).double()).shape == (7, 3)


def test_the_whole_residual_stream_goes_on_request():
    torch.manual_seed(0)
    model, x = Tokens(Attention()), torch.randn(3, 5, 6)
    assert "stream" not in {g.kind for g in sc.trace(model, x).groups}
    structure, plan, slim = pruned_equals_masked(model, x, stream=True)
    assert next(g for g in structure.groups if g.kind == "stream").size == 24
    assert slim.block.norm.normalized_shape == (12,)
    assert slim.cls.shape == (1, 1, 12)


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is standardised anew at every call."""

    def forward(self, x):
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, keepdim=True)) / (weight.var(1, keepdim=True) + 1e-5).sqrt()
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


@pytest.mark.parametrize(
    "layer",
    [
        lambda *sizes: StandardisedConv(*sizes, padding=1),
        lambda *sizes: nn.utils.parametrizations.weight_norm(nn.Conv2d(*sizes, padding=1)),
    ],
    ids=["standardised", "weight norm"],
)
def test_computed_weights_become_parameters(layer, tmp_path):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(layer(3, 8, 3), nn.ReLU(), layer(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))

    structure, plan, slim = pruned_equals_masked(make(), torch.randn(2, 3, 4, 4))
    assert [g.size for g in structure.groups] == [8, 6]
    assert structure.cost().params == count_params(make())
    x = torch.randn(2, 3, 4, 4).double()
    assert torch.equal(sc.load(sc.save(slim, tmp_path / "b"), model=make())(x), slim(x))


def test_modules_with_code_of_their_own_copy_pickle_and_train():
    torch.manual_seed(0)
    _, plan, slim = pruned_equals_masked(Tokens(Attention()), torch.randn(3, 5, 6))
    assert (set(plan.edits.corrections), plan.edits.code) == ({"block"}, {})
    assert isinstance(slim.block, Attention)
    x = torch.randn(2, 5, 6).double()
    for again in (copy.deepcopy(slim), pickle.loads(pickle.dumps(slim))):
        assert torch.equal(again(x), slim(x))
    slim.train()(x).sum().backward()
    assert all(p.grad is not None for p in slim.parameters())


def test_recorded_code_calls_torch_functions_only():
    assert function_named("torch.Tensor.reshape") is not None
    for name in (
        "torch.load",
        "torch.save",
        "torch.Tensor.apply_",
        "torch.Tensor.__reduce_ex__",
        "os.system",
        "torch.hub",
    ):
        assert function_named(name) is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_reduced_structure_is_that_of_the_pruned_network(stream):
    torch.manual_seed(0)
    model, x = (Tokens(Attention()).eval(), torch.randn(2, 5, 6)) if stream else user_net()
    structure = sc.trace(model, x, stream=stream)
    keep = np.random.default_rng(0).random(structure.num_units) < 0.6
    slim = sc.prune(model, sc.Plan.of(structure, keep, {}, "by hand", "none"))
    here = structure.reduced(keep)
    assert here.num_units == keep.sum()
    assert here.cost() == structure.cost(keep)
    assert here.fingerprint == sc.trace(slim, x, stream=stream).fingerprint
    again = sc.Plan.of(here, np.random.default_rng(1).random(here.num_units) < 0.7, {}, "by hand", "none")
    torch.testing.assert_close(sc.prune(slim, again)(x), sc.mask(slim, again)(x))


class Peeking(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.b(x if x.sum() > 0 else -x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x, y, *, scale=1.0):
        return self.c(torch.relu(self.a(x) + self.b(y)) * scale)


def sharing_memory():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight.data = model[0].weight.data
    return model


def test_several_and_keyword_inputs_are_taken():
    x, y = torch.randn(2, 3), torch.randn(2, 5)
    for inputs in ((x, y), {"x": x, "y": y, "scale": 2.0}):
        structure = sc.trace(TwoInputs(), inputs)
        assert [(g.size, g.layers) for g in structure.groups] == [(8, ("a", "b"))]


def test_tied_weights_go_together_and_stay_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    with pytest.raises(sc.RequestError, match="no prunable units"):
        sc.trace(model, torch.randn(2, 4))  # what the tied layers read is the input
    deep = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    deep[4].weight = deep[2].weight
    structure, _, slim = pruned_equals_masked(deep, torch.randn(2, 3))
    assert slim[4].weight is slim[2].weight
    assert len(structure.groups) == 1


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (nn.Linear(3, 2), torch.zeros(1, 3), "no prunable units"),
        (nn.Conv2d(3, 2, 3), torch.zeros(1, 4, 8, 8), "fails on the example input"),
        (nn.Linear(3, 2), 5, "must be a tensor"),
        (Peeking(), torch.randn(1, 3), "reads values of activations"),
        (TwoInputs(), torch.randn(1, 3), "give all its inputs, as a tuple"),
        (sharing_memory(), torch.randn(1, 4), "share memory without being one parameter"),
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


def test_looks_at_inputs_are_noted_and_the_layers_of_training_are_watched():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.extra = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x, mask):
            h = torch.relu(self.a(x))
            h = h if mask.all() else h * mask
            return (self.b(h), self.extra(h)) if self.training else self.b(h)

    torch.manual_seed(0)
    model, x, mask = Masked().double(), torch.randn(3, 4).double(), torch.ones(3, 1)
    structure = sc.trace(model, (x, mask))
    assert len(structure.peeks) == 1
    assert "reads values of inputs" in structure.peeks[0]
    assert structure.idle == ()
    plan = sc.select(sc.Scores(structure, np.arange(8.0), "by hand"), sc.Budget(units=0.5))
    slim, masked = sc.prune(model, plan, (x, mask)).train(), sc.mask(model, plan).train()
    for ours, expected in zip(slim(x, mask), masked(x, mask), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
