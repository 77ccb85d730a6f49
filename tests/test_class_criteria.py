"""Criteria of class-aware pruning, each against an independent, slow formula."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import secateur as sc
from networks import Attention, SelfAttention, Tokens, randomised, user_net
from secateur.attribution import maps
from secateur.criteria import get, kept_at
from secateur.criteria.contract import check_criterion
from secateur.criteria.filter_weights import lamp_scores
from secateur.criteria.gates import gated
from secateur.criteria.replay import Replay
from secateur.criteria.samples import first_balanced
from secateur.data import ReferenceSet
from secateur.models import build


class Chain(nn.Module):
    """Convolution, norm and in-place ReLU, twice; a linear layer."""

    def __init__(self):
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two, self.norm2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.relu(self.norm1(self.one(x)))
        return self.head(self.relu(self.norm2(self.two(x))).mean((2, 3)))


class Residual(nn.Module):
    """A stream that two layers add to, with in-place ReLUs and an in-place sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.inner, self.norm1 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.outer, self.norm2 = nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x = self.relu(self.norm0(self.stem(x)))
        y = self.norm2(self.outer(self.relu(self.norm1(self.inner(x)))))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


def prepared(model, count=8, side=6, classes=4):
    torch.manual_seed(1)
    model = randomised(model).double().eval()
    inputs = torch.randn(count, 3, side, side).double()
    return model, sc.trace(model, inputs[:1]), ReferenceSet(inputs, torch.arange(count) % classes, tuple(range(count)))


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return prepared(Chain())


@pytest.fixture
def residual():
    torch.manual_seed(0)
    return prepared(Residual())


def behind(model, inputs, *names):
    """Outputs of modules, by hooks; in-place operations later do not change them."""
    found, handles = {}, []
    for name in names:

        def keep(module, given, out, name=name):
            found[name] = out.detach().clone()

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def scored(setting, criterion, **parameters):
    model, structure, reference = setting
    chosen = get(criterion, **parameters) if isinstance(criterion, str) else criterion
    return sc.score(model, structure, reference, chosen)


def in_group(setting, values, name):
    return values[setting[1].group(name).units]


# maps


def test_maps_behind_norms_and_activations(residual):
    model, _, reference = residual
    n0, n1, n2 = behind(model, reference.inputs, "norm0", "norm1", "norm2")
    behind_each = maps(model, [reference.inputs[:3], reference.inputs[3:]], lambda m: m.sum(2), "next")
    for name, expected in (("stem", n0), ("inner", n1), ("outer", n2)):
        torch.testing.assert_close(behind_each[name], expected.sum((2, 3)), rtol=1e-12, atol=1e-12)
    active = maps(model, [reference.inputs], lambda m: m.sum(2), "activation")
    stream = n0.relu()
    for name, expected in (("stem", stream), ("inner", n1.relu()), ("outer", (n2 + stream).relu())):
        torch.testing.assert_close(active[name], expected.sum((2, 3)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(active["head"], model(reference.inputs).detach(), rtol=1e-12, atol=1e-12)


def figure_of(network, x, layer, stage="activation"):
    with torch.no_grad():
        return maps(network, [x], lambda m: m.sum(2), stage)[layer].float()


@pytest.mark.parametrize(
    ("norm", "dims"),
    [(nn.GroupNorm(2, 4), 2), (nn.InstanceNorm2d(4, affine=True), 2), (nn.BatchNorm1d(4), 1), (nn.GroupNorm(1, 4), 3)],
    ids=str,
)
def test_maps_of_all_dimensions_and_norms(norm, dims):
    torch.manual_seed(0)
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 4, 3)
    network = nn.Sequential(layer, norm, nn.Dropout(0.5), nn.SiLU()).eval()
    x = torch.randn(3, 2, *[5] * dims)
    expected = norm(layer(x)).detach()
    torch.testing.assert_close(figure_of(network, x, "0", "next"), expected.flatten(2).sum(2))
    torch.testing.assert_close(figure_of(network, x, "0"), F.silu(expected).flatten(2).sum(2))


class Permuted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Linear(4, 6)

    def forward(self, x):
        tokens = self.norm(self.conv(x).flatten(2).transpose(1, 2))
        return F.gelu(self.up(tokens)).mean(1)


def test_maps_follow_channels_through_permutations_and_windows():
    torch.manual_seed(0)
    network, x = Permuted().eval(), torch.randn(3, 3, 6, 6)
    tokens = network.norm(network.conv(x).flatten(2).transpose(1, 2)).detach()
    torch.testing.assert_close(figure_of(network, x, "conv", "next"), tokens.sum(1))
    torch.testing.assert_close(figure_of(network, x, "up"), F.gelu(network.up(tokens)).sum(1).detach())

    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(4, 5)

        def forward(self, x):  # [N, 6, 4] to windows of 2
            return torch.relu_(self.mix(x.reshape(-1, 2, 4))).reshape(len(x), 6, 5).mean(1)

    network, x = Windows(), torch.randn(3, 6, 4)
    torch.testing.assert_close(figure_of(network, x, "mix"), network.mix(x).relu().sum(1).detach())


def test_maps_of_shared_layers_and_dense_blocks():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    network, x = Twice(), torch.randn(3, 4)
    first = network.layer(x).relu()
    torch.testing.assert_close(figure_of(network, x, "layer"), ((first + network.layer(first)) / 2).detach())

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
            self.norm, self.c = nn.BatchNorm2d(5), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            a = self.a(x)
            return self.c(F.relu(self.norm(torch.cat([a, self.b(a)], 1)), inplace=True)).mean((2, 3))

    network, x = randomised(Dense()), torch.randn(3, 3, 4, 4)
    a = network.a(x)
    both = network.norm(torch.cat([a, network.b(a)], 1)).relu().sum((2, 3)).detach()
    torch.testing.assert_close(figure_of(network, x, "a"), both[:, :2])
    torch.testing.assert_close(figure_of(network, x, "b"), both[:, 2:])
    torch.testing.assert_close(figure_of(network, x, "a", "next"), a.sum((2, 3)).detach())


def test_maps_of_layers_that_do_not_depend_on_the_inputs_and_code_that_cannot_be_seen():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias, self.layer = nn.Linear(2, 3), nn.Linear(4, 3)
            self.register_buffer("places", torch.randn(7, 2))

        def forward(self, x):
            return self.layer(x) + self.bias(self.places).mean(0)

    x, table = torch.randn(5, 4), Table()
    found = maps(table, [x[:2], x[2:]], lambda m: m.sum(2))
    assert set(found) == {"layer", "bias"}
    same = table.bias(table.places).sum(0).expand(5, -1)
    torch.testing.assert_close(found["bias"], same.double())

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            x = self.layer(x)
            with torch._C.DisableTorchFunction():
                return x * 2

    with pytest.raises(sc.RequestError, match="code that cannot be watched"):
        maps(Own(), [x], lambda m: m.sum(2))
    with pytest.raises(sc.RequestError, match="unknown stage 'relu'; known: next, activation"):
        maps(Own(), [x], lambda m: m.sum(2), "relu")
    with pytest.raises(sc.RequestError, match="no reference samples"):
        maps(Own(), [], lambda m: m.sum(2))


def plain(order):
    """A network without norms between its convolutions."""
    torch.manual_seed(0)
    layers = {
        "c": lambda: nn.Conv2d(3, 4, 3),
        "r": nn.ReLU,
        "n": lambda: nn.BatchNorm2d(4),
        "p": lambda: nn.MaxPool2d(2),
    }
    body = [layers[letter]() for letter in order]
    return randomised(nn.Sequential(*body, nn.Conv2d(4, 5, 1), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))).eval()


@pytest.mark.parametrize(
    ("order", "looked_at"), [("cr", 1), ("cnr", 1), ("crn", 1), ("cpr", 0)], ids=["plain", "norm", "norm later", "pool"]
)
def test_maps_behind_the_module_that_follows(order, looked_at):
    x = torch.randn(3, 3, 6, 6)
    network = plain(order)
    network(x)
    expected = network[: looked_at + 1](x).detach()
    torch.testing.assert_close(figure_of(network, x, "0", "next"), expected.flatten(2).sum(2))
    last = len(order)  # its GELU
    torch.testing.assert_close(
        figure_of(network, x, f"{last}", "next"), network[: last + 2](x).detach().flatten(2).sum(2)
    )


# OCAP, CAP, APoZ


def published_ocap(norms_NC, ratio):
    """Channels that any image keeps, image by image."""
    kept = set()
    for norms in norms_NC:
        scaled = norms / np.linalg.norm(norms)
        off = min(int(ratio * len(norms) + 1e-9), len(norms) - 1)
        kept |= set(np.argsort(scaled)[off:].tolist())
    return kept


ACTIVATIONS = {
    None: lambda m: m,
    "relu": torch.relu,
    "leaky-relu": lambda m: torch.where(m > 0, m, 0.01 * m),
    "sigmoid": lambda m: 1 / (1 + (-m).exp()),
    "tanh": lambda m: (m.exp() - (-m).exp()) / (m.exp() + (-m).exp()),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ocap_keeps_what_the_published_procedure_keeps(residual, activation):
    model, structure, reference = residual
    scores = scored(residual, "ocap", activation=activation)
    figures = {}
    names = {"stem": "norm0", "inner": "norm1", "outer": "norm2"}
    for name, out in zip(names, behind(model, reference.inputs, *names.values()), strict=True):
        figures[name] = ACTIVATIONS[activation](out).flatten(2).norm(dim=2).numpy()
    for ratio in (0, 0.1, 0.2, 0.25, 0.4, 0.5, 0.6, 0.75, 0.8, 0.9, 0.973, 0.9994, 1):
        keep = kept_at(scores, ratio)
        expected = {
            "inner": published_ocap(figures["inner"], ratio),
            "stem": published_ocap(figures["stem"], ratio) | published_ocap(figures["outer"], ratio),
        }
        for name, units in expected.items():
            assert set(np.flatnonzero(keep[structure.group(name).units])) == units, (name, ratio)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_ocap_at_any_ratio(channels, images, seed, percent):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, channels), nn.Tanh(), nn.Linear(channels, 2)).double()  # no ties, as of zeros
    x = torch.randn(images, 3).double()
    if channels == 1:
        return  # a layer of one unit cannot be pruned
    reference = ReferenceSet(x, torch.zeros(images, dtype=torch.long), tuple(range(images)))
    scores = sc.score(network, sc.trace(network, x[:1]), reference, "ocap")
    kept = published_ocap(network[0](x).tanh().abs().detach().numpy(), percent / 100)
    assert set(np.flatnonzero(kept_at(scores, percent / 100))) == kept


def test_ocap_looks_at_the_first_images_of_each_class_in_turn(chain):
    model, structure, reference = chain
    few = get("ocap", images=3)
    expected = [0, 1, 2]  # targets are 0, 1, 2, 3, 0, ...
    chosen = ReferenceSet(reference.inputs[expected], reference.targets[expected], tuple(expected))
    np.testing.assert_array_equal(
        sc.score(model, structure, reference, few).values, sc.score(model, structure, chosen, "ocap").values
    )
    sorted_targets = ReferenceSet(torch.zeros(7, 1), torch.tensor([0, 0, 0, 0, 1, 1, 2]), tuple(range(10, 17)))
    assert first_balanced(sorted_targets, 5, "ocap").indices == (10, 11, 14, 15, 16)
    with pytest.raises(
        sc.RequestError, match="'ocap' asks for 30 reference samples, there are 8; raise per_class to 8"
    ):
        sc.score(model, structure, reference, get("ocap", images=30))
    with pytest.raises(sc.RequestError, match="images must be at least 1, got 0"):
        get("ocap", images=0)
    with pytest.raises(sc.RequestError, match="between 0 and 1, got 1.5"):
        kept_at(sc.score(model, structure, reference, "ocap"), 1.5)
    with pytest.raises(
        sc.RequestError, match="'weight' do not define what stays at a nominal ratio; use criterion 'ocap'"
    ):
        kept_at(sc.score(model, structure, reference, "weight"), 0.5)


def test_cap_and_apoz(residual):
    model, _, reference = residual
    n0, n1, n2 = behind(model, reference.inputs, "norm0", "norm1", "norm2")

    def size(maps_NCHW):
        return maps_NCHW.abs().sum((2, 3)).mean(0).numpy()

    cap = scored(residual, "cap").values
    np.testing.assert_allclose(in_group(residual, cap, "inner"), size(n1), rtol=1e-10)
    np.testing.assert_allclose(in_group(residual, cap, "stem"), size(n0) + size(n2), rtol=1e-10)
    for name, function in ACTIVATIONS.items():
        found = in_group(residual, scored(residual, "cap", activation=name).values, "inner")
        np.testing.assert_allclose(found, size(function(n1)), rtol=1e-9)

    def open_share(maps_NCHW):
        return (maps_NCHW > 0).double().mean((0, 2, 3)).numpy()

    apoz = scored(residual, "apoz").values
    np.testing.assert_allclose(in_group(residual, apoz, "inner"), open_share(n1), rtol=1e-10)
    stream = (open_share(n0) + open_share(n2 + n0.relu())) / 2
    np.testing.assert_allclose(in_group(residual, apoz, "stem"), stream, rtol=1e-10)


def test_ocap_and_cap_look_behind_the_relu_of_networks_without_norms():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)
    )
    setting = prepared(network)
    model, structure, reference = setting
    for layer, relu in (("0", "1"), ("2", "3")):
        [out] = behind(model, reference.inputs, relu)
        cap = in_group(setting, scored(setting, "cap").values, layer)
        np.testing.assert_allclose(cap, out.abs().sum((2, 3)).mean(0).numpy(), rtol=1e-10)
        kept = kept_at(scored(setting, "ocap"), 0.5)[structure.group(layer).units]
        assert set(np.flatnonzero(kept)) == published_ocap(out.flatten(2).norm(dim=2).numpy(), 0.5)


# gradients


def test_sensitivity(chain):
    model, structure, reference = chain
    x = reference.inputs
    with torch.enable_grad():
        a = model.norm1(model.one(x)).relu().detach().requires_grad_(True)
        b = model.norm2(model.two(a)).relu()
        logits = model.head(b.mean((2, 3)))
        loss = F.cross_entropy(logits, reference.targets, reduction="sum")
        at_a, at_b = torch.autograd.grad(loss, (a, b))
    values = scored(chain, "sensitivity").values
    np.testing.assert_allclose(in_group(chain, values, "one"), at_a.abs().sum((2, 3)).mean(0).numpy(), rtol=1e-10)
    # the head reads the mean: its sensitivity is that of one value
    np.testing.assert_allclose(in_group(chain, values, "two"), at_b.sum((2, 3)).abs().mean(0).numpy(), rtol=1e-10)
    centred = sc.score(model, structure, reference, "sensitivity", centred=True).values
    np.testing.assert_array_equal(values, centred)


def coupled(name):
    """(parameter, dimension) of all that goes with a group of the residual network."""
    return {
        "inner": [("inner.weight", 0), ("inner.bias", 0), ("norm1.weight", 0), ("norm1.bias", 0), ("outer.weight", 1)],
        "stem": [
            *(("stem.weight", 0), ("stem.bias", 0), ("norm0.weight", 0), ("norm0.bias", 0), ("inner.weight", 1)),
            *(("outer.weight", 0), ("outer.bias", 0), ("norm2.weight", 0), ("norm2.bias", 0), ("head.weight", 1)),
        ],
    }[name]


def gradients(model, inputs, targets):
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(F.cross_entropy(model(inputs), targets), parameters)
    return dict(zip(names, found, strict=True))


def per_unit(tensor, dim):
    return [tensor.select(dim, unit) for unit in range(tensor.shape[dim])]


@pytest.mark.parametrize("group", ["inner", "stem"])
def test_taylor_group_and_hessian(residual, group):
    model, _, reference = residual
    weights = dict(model.named_parameters())
    mean = gradients(model, reference.inputs, reference.targets)
    product = {name: (weights[name] * mean[name]).detach() for name in weights}
    expected = sum(np.array([p.abs().sum() for p in per_unit(product[n], d)]) for n, d in coupled(group))
    signed = sum(np.array([p.sum().abs() for p in per_unit(product[n], d)]) for n, d in coupled(group))
    np.testing.assert_allclose(in_group(residual, scored(residual, "taylor-group").values, group), expected, rtol=1e-9)
    np.testing.assert_allclose(
        in_group(residual, scored(residual, "taylor-group", inner="signed").values, group), signed, rtol=1e-9
    )
    each = [gradients(model, x[None], y[None]) for x, y in zip(reference.inputs, reference.targets, strict=True)]
    fisher = {n: torch.stack([g[n] for g in each]).square().mean(0) for n in weights}
    rise = {n: (weights[n].square() * fisher[n] / 2).detach() for n in weights}
    expected = sum(np.array([p.sum() for p in per_unit(rise[n], d)]) for n, d in coupled(group))
    np.testing.assert_allclose(in_group(residual, scored(residual, "hessian").values, group), expected, rtol=1e-9)


@pytest.mark.parametrize("criterion", ["hessian", "taylor-group", "shapley", "apoz"])
def test_networks_come_back_as_they_were_also_from_errors(residual, criterion):
    model, structure, reference = residual
    model.train()
    model.inner.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls = 0

    def fail(module, given):
        nonlocal calls
        calls += 1
        if calls > 5:
            raise KeyboardInterrupt

    handle = model.head.register_forward_pre_hook(fail)
    many = ReferenceSet(reference.inputs.repeat(4, 1, 1, 1), reference.targets.repeat(4), tuple(range(32)))
    with pytest.raises(KeyboardInterrupt):
        sc.score(model, structure, many, criterion, batch_size=4)
    handle.remove()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["inner.weight", "inner.bias"]
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()


# filters and norms


def test_fpgm_and_lamp(residual):
    model, _, _ = residual

    def rows(name):
        return model.get_submodule(name).weight.detach().flatten(1)

    def far(w):
        return np.array([sum(float((a - b).norm()) for b in w) for a in w])

    fpgm = scored(residual, "fpgm").values
    np.testing.assert_allclose(in_group(residual, fpgm, "inner"), far(rows("inner")), rtol=1e-9)
    np.testing.assert_allclose(in_group(residual, fpgm, "stem"), far(rows("stem")) + far(rows("outer")), rtol=1e-9)

    def published(sizes):
        order, scores = np.argsort(sizes), np.empty(len(sizes))
        for place, unit in enumerate(order):
            scores[unit] = sizes[unit] / sum(sizes[other] for other in order[place:])
        return scores

    lamp = scored(residual, "lamp").values
    inner = rows("inner").square().sum(1).numpy()
    np.testing.assert_allclose(in_group(residual, lamp, "inner"), published(inner), rtol=1e-10)
    stream = (rows("stem").square().sum(1) + rows("outer").square().sum(1)).numpy()
    np.testing.assert_allclose(in_group(residual, lamp, "stem"), published(stream), rtol=1e-10)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.randoms())
def test_lamp_has_no_favourites_among_equals(sizes, random):
    values = np.array(sizes, float)
    scores = lamp_scores(values)
    assert np.isfinite(scores).all()
    assert scores.max() <= 1
    order = list(range(len(sizes)))
    random.shuffle(order)
    np.testing.assert_array_equal(lamp_scores(values[order]), scores[order])


def test_bn_scale(residual):
    model, _, _ = residual
    with torch.no_grad():
        model.norm1.weight.neg_()
    values = scored(residual, "bn-scale").values
    scale = [getattr(model, f"norm{i}").weight.detach().abs().numpy() for i in range(3)]
    np.testing.assert_allclose(in_group(residual, values, "inner"), scale[1])
    np.testing.assert_allclose(in_group(residual, values, "stem"), (scale[0] + scale[2]) / 2)


def test_units_without_a_norm_go_last_by_bn_scale():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)
    )
    setting = prepared(network, classes=2)
    values = scored(setting, "bn-scale").values
    assert in_group(setting, values, "3").min() > in_group(setting, values, "0").max()
    plain = prepared(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)), classes=2)
    with pytest.raises(sc.RequestError, match="no removable unit passes a norm with a scale; take another criterion"):
        scored(plain, "bn-scale")


# Shapley values


def loss_without(model, reference, closed):
    """Mean cross-entropy with hidden neurons set to zero."""
    h = F.relu(model[0](reference.inputs)).clone()
    h[:, list(closed)] = 0
    return float(F.cross_entropy(model[2](h), reference.targets).detach())


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double().eval()
    reference = ReferenceSet(torch.randn(9, 4).double(), torch.arange(9) % 3, tuple(range(9)))
    return model, sc.trace(model, reference.inputs[:1]), reference


def test_shapley_values_converge_to_the_exact_ones(small):
    model, _, reference = small
    units = range(6)
    subsets = [s for size in range(7) for s in itertools.combinations(units, size)]
    loss = {s: loss_without(model, reference, set(units) - set(s)) for s in subsets}
    exact = np.zeros(6)
    for unit in units:
        for s in subsets:
            if unit not in s:
                weight = math.factorial(len(s)) * math.factorial(5 - len(s)) / math.factorial(6)
                exact[unit] += weight * (loss[s] - loss[tuple(sorted((*s, unit)))])
    errors = {}
    for count in (20, 500):
        found = [scored(small, "shapley", permutations=count, seed=seed).values for seed in range(2)]
        errors[count] = np.abs(np.array(found) - exact).max()
        # whatever the orders, what the units bring adds up
        np.testing.assert_allclose(np.sum(found, 1), loss[()] - loss[tuple(units)], rtol=1e-9)
        assert not np.allclose(found[0], found[1], rtol=1e-6)
    assert errors[500] < 0.1 * np.ptp(exact)
    assert errors[500] < errors[20]


def test_shapley_samples_and_errors(small):
    model, structure, reference = small
    part = ReferenceSet(reference.inputs[:3], reference.targets[:3], (0, 1, 2))
    np.testing.assert_array_equal(
        scored(small, "shapley", samples=3).values, sc.score(model, structure, part, "shapley").values
    )
    with pytest.raises(sc.RequestError, match="asks for 12 reference samples, there are 9; raise per_class to 4"):
        scored(small, "shapley", samples=12)
    with pytest.raises(sc.RequestError, match="permutations must be at least 1, got 0"):
        get("shapley", permutations=0)
    wrong = ReferenceSet(reference.inputs, reference.targets + 1, reference.indices)
    with pytest.raises(sc.RequestError, match="target 3 is out of range for 3 outputs"):
        sc.score(model, structure, wrong, "shapley")


def attention_net(block):
    torch.manual_seed(0)
    return Tokens(block()).eval(), torch.randn(4, 5, 6)


def user():
    model, x = user_net()
    return model, x


def resnet20():
    torch.manual_seed(0)
    return randomised(build("resnet20", num_classes=10)), torch.randn(2, 3, 16, 16)


def residual_net():
    torch.manual_seed(0)
    return randomised(Residual()).eval(), torch.randn(3, 3, 6, 6)


@pytest.mark.parametrize(
    "make",
    [residual_net, user, resnet20, lambda: attention_net(Attention), lambda: attention_net(SelfAttention)],
    ids=["residual", "user", "resnet20", "attention", "self-attention"],
)
def test_replay_is_plain_evaluation(make):
    """Every group, with some units closed in turn, equals the network run from the start on closed parameters."""
    model, x = make()
    structure = sc.trace(model, x[:1], stream=True)
    parameters, kept = dict(model.named_parameters()), x.clone()
    skipped = []
    draw = np.random.default_rng(0)
    with torch.no_grad():
        whole = model(x)
        for group in structure.groups:
            with gated(structure, group, parameters) as gate:
                replay = Replay(model, x, gate.parameters)
                torch.testing.assert_close(replay(), whole, rtol=1e-5, atol=1e-5)
                for _ in range(2):
                    gate.close()
                    for unit in draw.permutation(group.size)[:3]:
                        gate.open(int(unit))
                        torch.testing.assert_close(replay(), model(x.clone()), rtol=1e-5, atol=1e-5)
                skipped.append(replay.skipped)
                assert replay.replays
        assert torch.equal(model(x), whole)
    assert torch.equal(x, kept)
    assert max(skipped) > 3
    assert skipped[-1] > skipped[0]


def test_a_gate_opens_what_all_its_units_let_through():
    """Step by step the same parameters as closing all other units at once, where both dimensions hang on one stream."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mix, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.head(torch.relu(x + self.mix(x)))

    torch.manual_seed(0)
    for model, x in ((Mixed(), torch.randn(2, 3)), attention_net(Attention)):
        structure = sc.trace(model, x[:1], stream=True)
        parameters = dict(model.named_parameters())
        original = {name: p.detach().clone() for name, p in parameters.items()}
        for group in structure.groups:
            with torch.no_grad(), gated(structure, group, parameters) as gate:
                gate.close()
                keep = np.ones(structure.num_units, bool)
                keep[group.units] = False
                for unit in (0, group.size - 1):
                    gate.open(unit)
                    keep[group.first + unit] = True
                    for name, p in parameters.items():
                        expected = original[name].clone()
                        for axis in structure.axes:
                            if axis.tensor == name:
                                gone = torch.from_numpy(np.flatnonzero(~axis.stays(keep)))
                                expected.index_fill_(axis.dim, gone, 0)
                        assert torch.equal(p, expected), (group.name, name)
            assert all(torch.equal(p, original[name]) for name, p in parameters.items())


def test_replay_gives_way_where_it_would_be_wrong():
    """Code that no function mode sees reads the weight: found out, and evaluated plainly."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x):
            x = torch.relu(self.first(x))
            with torch._C.DisableTorchFunction():
                x = self.second(x)
            return self.head(torch.relu(x))

    torch.manual_seed(0)
    model, x = Own(), torch.randn(6, 3)
    with torch.no_grad():
        replay = Replay(model, x, [model.second.weight])
        replay()
        model.second.weight.zero_()
        found = replay.check(lambda output: output.sum(1))
        torch.testing.assert_close(found, model(x).sum(1))
        torch.testing.assert_close(replay(), model(x))
    assert not replay.replays


# all together


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ocap", {"activation": "leaky-relu", "images": 5}),
        ("cap", {"activation": "sigmoid", "normalise": "l2"}),
        ("apoz", {"normalise": "l1"}),
        ("sensitivity", {"at": "makers", "normalise": "l2"}),
        ("shapley", {"permutations": 2, "samples": 4, "normalise": "l2"}),
        ("fpgm", {"normalise": "l2"}),
        ("hessian", {"normalise": "l2"}),
        ("taylor-group", {"inner": "signed", "normalise": "l2"}),
    ],
)
def test_contract_of_variants(name, parameters):
    chosen = get(name, **parameters)
    check_criterion(chosen)
    assert hash(chosen) == hash(get(name, **parameters))
    assert all(f"{key}={value!r}" in repr(chosen) for key, value in parameters.items())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("cap", {"normalise": "l3"}, "unknown normalisation 'l3'; known: l1, l2, sum"),
        ("cap", {"activation": "gelu"}, "unknown activation 'gelu'; known: relu, leaky-relu, sigmoid, tanh"),
        ("ocap", {"activation": "leaky"}, "unknown activation 'leaky'; known: relu, leaky-relu, sigmoid, tanh"),
        ("taylor-group", {"inner": "square"}, "unknown inner sum 'square'; known: abs, signed"),
        ("sensitivity", {"at": "here"}, "unknown place to look at units"),
        ("ocap", {"images": 2.5}, "images must be a positive integer, got 2.5"),
    ],
)
def test_wrong_parameters(name, parameters, message):
    with pytest.raises(sc.RequestError, match=message):
        get(name, **parameters)


def test_on_a_vision_transformer_and_a_depthwise_network():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, num_classes=4, depth=2).eval()
    mobile = randomised(build("mobilenet_v2", num_classes=4))
    few = ("ocap", "apoz", "bn-scale", "taylor-group")
    for model, names in ((vit, ("ocap", "cap", "apoz", "sensitivity", "fpgm", "lamp", "hessian")), (mobile, few)):
        inputs = torch.randn(4, 3, 32, 32)
        structure = sc.trace(model, inputs[:1])
        reference = ReferenceSet(inputs, torch.arange(4), tuple(range(4)))
        found = {name: sc.score(model, structure, reference, name) for name in names}
        assert all((scores.values >= 0).all() for scores in found.values())
        for group in structure.groups:
            assert (found["ocap"].values[group.units] > 0).all(), group.name
            assert (found["apoz"].values[group.units] > 0).any(), group.name
        assert 0 < kept_at(found["ocap"], 0.9).mean() < 1


# the published protocols of LRP


def shared_by(x, weight, relevance, stabiliser=1e-6):
    """Relevance of a convolution's inputs by its positive weights: R_i = Σ_j x_i w_ij⁺ / Σ_i' x_i' w_i'j⁺ · R_j."""
    plus, padding = weight.clamp(min=0), weight.shape[-1] // 2
    s = relevance / (F.conv2d(x, plus, padding=padding) + stabiliser)
    return x * F.conv_transpose2d(s, plus, padding=padding)


def test_lrp_as_published_for_residual_networks(residual):
    """z⁺ without biases, ε for sums, pooling and the head, start 1, Σ|R| at the convolutions over the layer's sum."""
    model, _, reference = residual
    for norm in (model.norm0, model.norm1, model.norm2):
        norm.weight.data.abs_()  # a negative scale turns the signs of the weights that z⁺ looks at
    x = reference.inputs
    n0, n1, n2 = behind(model, x, "norm0", "norm1", "norm2")
    stream, inner = n0.relu(), n1.relu()
    pooled = (n2 + stream).relu()
    head, mean = model.head.weight.detach(), pooled.mean((2, 3))
    z = (mean @ head.T + model.head.bias.detach())[range(8), reference.targets]
    at_sum = (mean * head[reference.targets] / z[:, None])[:, :, None, None] * pooled / pooled.sum((2, 3), keepdim=True)
    at_outer = n2 / (n2 + stream) * at_sum
    at_inner = shared_by(inner, model.outer.weight.detach(), at_outer)
    at_stem = stream / (n2 + stream) * at_sum + shared_by(stream, model.inner.weight.detach(), at_inner)

    def score(*relevance):
        total = sum(r.abs().sum((0, 2, 3)) for r in relevance).numpy()
        return total / total.sum()

    published = {"composite": "epsilon-plus", "bias": False, "start": "one", "reduce": "abs", "positions": "abs"}
    values = scored(residual, "lrp", normalise="sum", at="makers", **published).values
    np.testing.assert_allclose(in_group(residual, values, "inner"), score(at_inner), rtol=1e-4)
    np.testing.assert_allclose(in_group(residual, values, "stem"), score(at_stem, at_outer), rtol=1e-4)


def test_lrp_as_published_for_networks_without_norms():
    """Positive weights alone, start at the logit, signed sums at the convolutions over the layer's sum."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(180, 4),
    )  # fmt: skip
    setting = prepared(network)
    model, _, reference = setting
    [a, b] = behind(model, reference.inputs, "1", "3")
    plus = model[5].weight.detach().clamp(min=0)[reference.targets]
    logits = model(reference.inputs).detach()[range(8), reference.targets]
    features = b.flatten(1)
    shares = features * plus / ((features * plus).sum(1, keepdim=True) + 1e-6)
    at_second = (shares * logits[:, None]).reshape(b.shape)
    at_first = shared_by(a, model[2].weight.detach(), at_second)
    published = {"composite": "plus-weights", "start": "logit", "reduce": "signed", "normalise": "sum", "at": "makers"}
    values = scored(setting, "lrp", **published).values
    for layer, relevance in (("0", at_first), ("2", at_second)):
        total = relevance.sum((0, 2, 3)).numpy()
        np.testing.assert_allclose(in_group(setting, values, layer), total / total.sum(), rtol=1e-4)


def test_biases_take_relevance_unless_told_otherwise(residual):
    shared, all_to_inputs = (
        scored(residual, "lrp", composite="epsilon-plus", bias=bias, reduce="signed").values for bias in (True, False)
    )
    assert not np.allclose(shared, all_to_inputs, rtol=1e-2)
    with pytest.raises(sc.RequestError, match="composite 'epsilon' cannot be built with {'bias': False}"):
        get("lrp", bias=False)
