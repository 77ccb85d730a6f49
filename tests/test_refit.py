"""Refit: columns of every layer kind, least squares, exactness, and networks of all sorts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.core.errors import RequestError, SecateurError
from secateur.data import ReferenceSet
from secateur.pipeline import PruneSettings
from secateur.selection import Plan
from secateur.surgery import refit
from secateur.surgery.least_squares import Moments, Rows, add_to_weight, columns_of

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def convolutions(draw):
    """A convolution of any kind, and the shape of an input that it takes."""
    space, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3]))
    kernel, stride, dilation = (draw(st.integers(1, 3)) for _ in range(3))
    made, taken = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    common = {
        "kernel_size": kernel,
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if draw(st.booleans()):
        padding = draw(st.integers(0, dilation * (kernel - 1)))
        more = draw(st.integers(0, max(stride, dilation) - 1))
        layer = TRANSPOSED[space](taken, made, padding=padding, output_padding=more, **common)
    else:
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        padding = draw(st.integers(0, 2))
        if stride == 1 and kernel % 2 and draw(st.booleans()):
            padding = "same"
        layer = CONVS[space](taken, made, padding=padding, padding_mode=mode, **common)
    return layer.double(), (2, taken, *[draw(st.integers(8, 9))] * space)


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 2**31))
def test_a_convolution_is_its_columns_times_its_weights(drawn, seed):
    layer, shape = drawn
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.double)
    with torch.no_grad():
        before = layer(x)
        positions = torch.arange(before[0, 0].numel()).expand(len(x), -1)
        columns = columns_of(layer, x, positions)
        change = torch.randn(
            layer.groups, before.shape[1] // layer.groups, columns.shape[-1], generator=generator
        ).double()
        add_to_weight(layer, change)
        after = layer(x)
    expected = torch.einsum("nqgi,goi->ngoq", columns, change).reshape(before.shape)
    torch.testing.assert_close(after - before, expected, atol=1e-10, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**31))
def test_normal_equations_agree_with_least_squares(groups, inputs, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, groups, inputs, generator=generator, dtype=torch.double)
    r = torch.randn(60, groups, outputs, generator=generator, dtype=torch.double)
    moments = Moments()
    moments.add(x[:40], r[:40])
    moments.add(x[40:], r[40:])
    change, bias = moments.solve(1e-13)
    for group in range(groups):
        design = torch.cat([x[:, group], torch.ones(60, 1, dtype=torch.double)], 1)
        expected = torch.linalg.lstsq(design, r[:, group]).solution
        torch.testing.assert_close(change[group].T, expected[:-1], atol=1e-8, rtol=1e-8)
        torch.testing.assert_close(bias[group], expected[-1], atol=1e-8, rtol=1e-8)
    dual = Rows(x, r)
    for strength in (1e-3, 0.1, 3.0):
        for ours, theirs in zip(moments.solve(strength), dual.solve(strength), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    assert moments.error(change, bias) == pytest.approx(dual.error(change, bias), rel=1e-6)
    left = r - torch.einsum("rgi,goi->rgo", x, change) - bias
    assert moments.error(change, bias) == pytest.approx(float(left.square().sum()), rel=1e-9)
    assert moments.error(None, bias) == pytest.approx(float((r - bias).square().sum()), rel=1e-9)


class Block(nn.Module):
    """A residual block whose shortcut is computed behind the branch."""

    def __init__(self, taken, made, inplace):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(taken, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)
        self.conv2, self.bn2 = nn.Conv2d(made, made, 3, padding=1, bias=False), nn.BatchNorm2d(made)
        self.shortcut = nn.Sequential(nn.Conv2d(taken, made, 1, bias=False), nn.BatchNorm2d(made))
        self.inplace = inplace

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.inplace:
            out += self.shortcut(x)
        else:
            out = self.shortcut(x) + out
        return F.relu(out)


def residual(inplace=True):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Block(8, 12, inplace), Block(12, 12, inplace),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


class Attention(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2, self.heads = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), heads
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self.drop(self.proj(mixed))
        return x + self.drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


def transformer():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), Attention(), Attention(), nn.Flatten(), nn.Linear(6 * 16, 4)).eval()


class Encoder(nn.Module):
    """PyTorch's own encoder layers, whose attention calls none of its layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.flatten(1))


def encoder():
    torch.manual_seed(0)
    net = Encoder().eval()
    for layer in net.layers:
        nn.init.normal_(layer.self_attn.in_proj_weight, std=0.5)
    return net


def mixed():
    """Depthwise, grouped, dilated, strided and transposed layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU6(),
        nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, dilation=2, padding=2), nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(4),
    ).eval()  # fmt: skip


def images(count=40, size=8, channels=3):
    generator = torch.Generator().manual_seed(1)
    smooth = torch.randn(count, channels, size // 2, size // 2, generator=generator)
    return F.interpolate(smooth, size=size, mode="bilinear")


NETWORKS = {
    "residual, in place": (residual, images()),
    "residual": (lambda: residual(inplace=False), images()),
    "transformer": (transformer, torch.randn(60, 6, 5, generator=torch.Generator().manual_seed(1))),
    "encoder": (encoder, torch.randn(60, 6, 5, generator=torch.Generator().manual_seed(1))),
    "mixed": (mixed, images()),
}


def opened(name):
    make, inputs = NETWORKS[name]
    net = make()
    net(inputs[:2])  # lazy layers
    return net, ReferenceSet(inputs, torch.arange(len(inputs)) % 4, tuple(range(len(inputs))))


def plan_of(net, reference, share, seed=0):
    structure = sc.trace(net, reference.inputs[:1])
    keep = np.random.default_rng(seed).random(structure.num_units) < share
    for group in structure.groups:
        keep[group.first] = True
    return Plan.of(structure, keep, {}, "by chance", "none")


def output_error(slim, net, inputs):
    with torch.no_grad():
        expected, found = net(inputs), slim.eval()(inputs)
    return float((found - expected).square().mean() / expected.var())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_refit_brings_the_output_back_where_the_mean_does_not(name):
    net, reference = opened(name)
    plan = plan_of(net, reference, 0.6)
    before = copy.deepcopy(net.state_dict())
    plain, shifted, fitted = (sc.prune(net, plan) for _ in range(3))
    sc.compensate(shifted, net, plan, reference)
    fits = refit(fitted, net, plan, reference)
    errors = [output_error(slim, net, reference.inputs) for slim in (plain, shifted, fitted)]
    assert errors[2] < 0.7 * min(errors[:2]), errors
    layers = {n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))}
    packed = {f"{n}.in_proj" for n, m in net.named_modules() if isinstance(m, nn.MultiheadAttention)}
    assert {fit.layer for fit in fits} == layers | packed
    assert not any(fit.reason for fit in fits)
    assert all(fit.after <= min(fit.before, fit.mean) + 1e-12 for fit in fits)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    sums = [fit.layer for fit in fits if fit.summed]
    assert len(sums) == {"residual, in place": 2, "residual": 2, "transformer": 4, "encoder": 4, "mixed": 0}[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_without_removal_nothing_changes(name):
    net, reference = opened(name)
    structure = sc.trace(net, reference.inputs[:1])
    plan = Plan.of(structure, np.ones(structure.num_units, bool), {}, "none", "none", nothing=True)
    slim = copy.deepcopy(net)
    refit(slim, net, plan, reference, strength=1e-6)
    for key, value in slim.state_dict().items():
        expected = net.state_dict()[key]
        if "running" not in key and "bn" not in key:
            scale = expected.abs().max().clamp_min(1e-3)
            assert (value - expected).abs().max() <= 1e-6 * scale, key
    assert output_error(slim, net, reference.inputs) < 1e-10


def test_units_that_others_can_make_up_for_are_not_missed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 12), nn.Linear(12, 12), nn.Linear(12, 3)).double()  # of rank 5
    inputs = torch.randn(50, 5, dtype=torch.double)
    reference = ReferenceSet(inputs, torch.zeros(50, dtype=torch.long), tuple(range(50)))
    structure = sc.trace(net, inputs[:1])
    plan = Plan.of(structure, np.tile(np.arange(12) < 6, 2), {}, "by hand", "none")
    slim = sc.prune(net, plan)
    assert output_error(slim, net, inputs) > 0.05
    refit(slim, net, plan, reference, strength=1e-12)
    assert output_error(slim, net, inputs) < 1e-10


def test_training_mode_begins_with_the_same_function():
    net, reference = opened("residual")
    plan = plan_of(net, reference, 0.6)
    slim = sc.prune(net, plan)
    slim.train()
    refit(slim, net, plan, reference)
    assert slim.training
    assert all(module.training for module in slim.modules())
    with torch.no_grad():
        trained = copy.deepcopy(slim)(reference.inputs)
        evaluated = slim.eval()(reference.inputs)
    # the first convolution has no norm, and statistics of a batch are those of the reference samples
    torch.testing.assert_close(trained, evaluated, atol=2e-2, rtol=2e-2)


def test_the_same_request_gives_the_same_network_whatever_the_batches():
    net, reference = opened("residual")
    plan = plan_of(net, reference, 0.6)
    found = []
    for batch_size in (7, 64, 7):
        slim = sc.prune(net, plan)
        refit(slim, net, plan, reference, batch_size=batch_size)
        found.append(slim.state_dict())
    assert all(torch.equal(value, found[2][key]) for key, value in found[0].items())
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], atol=1e-4, rtol=1e-4)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.relu(self.shared(F.relu(self.shared(x)))))


def test_what_cannot_be_refitted_is_named():
    net = Twice().eval()
    inputs = torch.randn(30, 6)
    reference = ReferenceSet(inputs, torch.zeros(30, dtype=torch.long), tuple(range(30)))
    plan = plan_of(net, reference, 0.7)
    fits = {fit.layer: fit.reason for fit in refit(sc.prune(net, plan), net, plan, reference)}
    assert fits == {"first": "", "shared": "it is called more than once", "last": ""}


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder transposed."""

    def __init__(self):
        super().__init__()
        self.up, self.inner, self.head = nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(F.linear(F.relu(self.inner(F.relu(self.up(x)))), self.up.weight.t()))


def test_weights_that_are_used_transposed_stay():
    net = Tied().eval()
    inputs = torch.randn(30, 6)
    reference = ReferenceSet(inputs, torch.zeros(30, dtype=torch.long), tuple(range(30)))
    plan = plan_of(net, reference, 0.7)
    slim = sc.prune(net, plan)
    weight = slim.up.weight.clone()
    fits = {fit.layer: fit.reason for fit in refit(slim, net, plan, reference)}
    assert fits == {"up": "its weight is used in another way, too", "inner": "", "head": ""}
    assert torch.equal(slim.up.weight, weight)
    with pytest.raises(RequestError, match="the weight of 'up' reads 6 and 10 channels"):
        sc.score(net, sc.trace(net, inputs[:1]), reference, "activation")


class Named(nn.Module):
    """Its layers take their inputs by name."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.last(input=F.relu(self.first(input=x)))


def test_weights_in_one_storage_and_inputs_by_name_are_taken():
    net = Named().eval()
    whole = torch.cat([p.detach().flatten() for p in net.parameters()])
    at = 0
    for parameter in net.parameters():  # as those lie that a file is mapped for
        parameter.data = whole[at : at + parameter.numel()].view(parameter.shape)
        at += parameter.numel()
    inputs = torch.randn(30, 6)
    reference = ReferenceSet(inputs, torch.zeros(30, dtype=torch.long), tuple(range(30)))
    plan = plan_of(net, reference, 0.7)
    slim = sc.prune(net, plan)
    assert {fit.layer: fit.reason for fit in refit(slim, net, plan, reference)} == {"first": "", "last": ""}


def test_a_head_without_a_bias_gets_none():
    net = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3, bias=False)).eval()
    inputs = torch.randn(30, 6)
    reference = ReferenceSet(inputs, torch.zeros(30, dtype=torch.long), tuple(range(30)))
    plan = plan_of(net, reference, 0.7)
    slim = sc.prune(net, plan)
    fits = {fit.layer: fit.reason for fit in refit(slim, net, plan, reference)}
    assert fits == {"0": "", "2": "it gives the network's output without a bias, which it should not get"}
    assert slim[2].bias is None


def test_layers_whose_channels_cannot_be_matched_are_left():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, 2, groups=2), nn.ReLU(),
        nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    ).eval()  # fmt: skip
    reference = ReferenceSet(images(), torch.arange(40) % 2, tuple(range(40)))
    for seed in range(4):
        plan = plan_of(net, reference, 0.6, seed)
        plain, slim = sc.prune(net, plan), sc.prune(net, plan)
        fits = {fit.layer: fit for fit in refit(slim, net, plan, reference)}
        assert set(fits) == {"0", "2", "4", "7"}
        assert not any(fits[layer].reason for layer in ("0", "4", "7"))
        assert fits["2"].reason.startswith("it is not known which channels")
        assert output_error(slim, net, reference.inputs) < output_error(plain, net, reference.inputs)


def test_wrong_requests_and_broken_inputs():
    net, reference = opened("residual")
    plan = plan_of(net, reference, 0.6)
    slim = sc.prune(net, plan)
    with pytest.raises(RequestError, match="must be above 0"):
        refit(slim, net, plan, reference, strength=0.0)
    broken = ReferenceSet(reference.inputs.clone().fill_(float("nan")), reference.targets, reference.indices)
    with pytest.raises(SecateurError, match="layer '2.conv1' are not finite|layer '0' are not finite"):
        refit(slim, net, plan, broken)
    small = ReferenceSet(reference.inputs[..., :2, 0], reference.targets, reference.indices)
    with pytest.raises(RequestError, match="fails on reference samples of shape"):
        refit(slim, net, plan, small)
    few = ReferenceSet(reference.inputs[:3], reference.targets[:3], (0, 1, 2))
    fits = refit(slim, net, plan, few)
    assert {fit.strength for fit in fits} <= {None, 0.1}


def test_networks_of_half_precision_are_fitted_in_single():
    net, reference = opened("residual")
    plan = plan_of(net, reference, 0.6)
    coarse = ReferenceSet(reference.inputs.bfloat16(), reference.targets, reference.indices)
    net = net.bfloat16()
    plain, slim = sc.prune(net, plan), sc.prune(net, plan)
    refit(slim, net, plan, coarse)
    assert slim[2].conv1.weight.dtype == torch.bfloat16
    assert output_error(slim, net, coarse.inputs) < output_error(plain, net, coarse.inputs)


def test_dead_inputs_leave_weights_alone():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    nn.init.constant_(net[0].bias, -100.0)
    inputs = torch.randn(20, 4)
    reference = ReferenceSet(inputs, torch.zeros(20, dtype=torch.long), tuple(range(20)))
    plan = Plan.of(sc.trace(net, inputs[:1]), np.arange(6) < 4, {}, "by hand", "none")
    slim = sc.prune(net, plan)
    refit(slim, net, plan, reference)
    assert torch.equal(slim[2].weight, net[2].weight[:, :4])


@pytest.mark.parametrize("schedule", ["one-shot", "rescored"])
def test_pruning_refits_by_default(schedule, tmp_path):
    net, reference = opened("residual")
    asked = {"schedule": schedule, "step": 0.2}
    mean = PruneSettings(repair="mean", **asked)
    plain = sc.compress(net, reference, sc.Budget(macs=0.5), "weight", mean)
    fitted = sc.compress(net, reference, sc.Budget(macs=0.5), "weight", PruneSettings(**asked))
    assert not plain.fits
    assert {fit.layer for fit in fitted.fits} == {
        n for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))
    }
    assert fitted.plan.removed == plain.plan.removed
    assert output_error(fitted.model, net, reference.inputs) < output_error(plain.model, net, reference.inputs)
    page = fitted.report(tmp_path / "page.html").read_text()
    assert "What the refit brought back" in page
    assert "Left as they are" not in page
    assert "What the refit brought back" not in plain.report(tmp_path / "plain.html").read_text()
    sc.save(fitted.model, tmp_path / "bundle")
    loaded = sc.load(tmp_path / "bundle", residual())
    assert torch.equal(loaded(reference.inputs), fitted.model(reference.inputs))
    with pytest.raises(RequestError, match="repair_samples=20 are drawn from training images"):
        sc.compress(net, reference, sc.Budget(macs=0.5), "weight", PruneSettings(repair="refit", repair_samples=20))
    data = torch.utils.data.TensorDataset(reference.inputs, reference.targets)
    asked = PruneSettings(repair="refit", repair_samples=20, schedule="one-shot")
    assert "refitted on 20" in asked.label
    again = sc.compress(net, reference, sc.Budget(macs=0.5), "weight", asked, train=data)
    assert output_error(again.model, net, reference.inputs) < 1
