"""Relevance against zennit, against the matrix form, and its invariances."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18, resnet50, vgg16_bn
from zennit import rules as zennit_rules
from zennit import types
from zennit.attribution import Gradient
from zennit.composites import (
    DeconvNet,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    GuidedBackprop,
    LayerMapComposite,
    layer_map_base,
)
from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer

import secateur as sc
from marks import some_slow
from networks import randomised, user_net
from secateur.attribution import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus, unit_statistics
from secateur.attribution.functional import MatrixMap

TINY = 1e-12


def everywhere(rule):
    return lambda c, e: LayerMapComposite(layer_map_base(e) + [(types.Linear, rule(e))], canonizers=c)


ZENNIT = {
    "epsilon": everywhere(lambda e: zennit_rules.Epsilon(epsilon=e)),
    "epsilon-plus": lambda c, e: EpsilonPlus(epsilon=e, stabilizer=e, canonizers=c),
    "epsilon-plus-flat": lambda c, e: EpsilonPlusFlat(epsilon=e, stabilizer=e, canonizers=c),
    "alpha2-beta1": lambda c, e: EpsilonAlpha2Beta1(epsilon=e, stabilizer=e, canonizers=c),
    "alpha2-beta1-flat": lambda c, e: EpsilonAlpha2Beta1Flat(epsilon=e, stabilizer=e, canonizers=c),
    "epsilon-gamma-box": lambda c, e: EpsilonGammaBox(-4.0, 4.0, epsilon=e, stabilizer=e, canonizers=c),
    "excitation-backprop": lambda c, e: ExcitationBackprop(stabilizer=e, canonizers=c),
    "guided-backprop": lambda c, e: GuidedBackprop(canonizers=c),
    "deconvnet": lambda c, e: DeconvNet(canonizers=c),
}


def ours(name):
    return sc.composites.get(name, low=-4.0, high=4.0) if name.endswith("box") else name


def compare_with_zennit(model, x, targets, composite, canonizers=(), limits=((torch.float64, 1e-8),)):
    """Largest differences of heatmaps and of every convolution's unit relevance are within the limits."""
    classes = int(model(x[:1]).shape[1])
    reference = folded(model.double())
    made = {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: (o.retain_grad(), made.__setitem__(name, o))[0])
        for name, module in reference.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    for dtype, limit in limits:
        with Gradient(model=reference, composite=ZENNIT[composite](list(canonizers), 1e-6)) as attributor:
            _, expected = attributor(x.double(), torch.eye(classes).double()[targets])
        found = sc.attribute(copy.deepcopy(model).to(dtype), x.to(dtype), targets, ours(composite))
        difference = float((found.input - expected).abs().max() / expected.abs().max())
        assert difference < limit, f"{composite} input {dtype}: {difference:.1e}"
        for name, output in made.items():
            units = output.grad.sum((2, 3))
            difference = float((found.units[name] - units).abs().max() / units.abs().max().clamp(min=1e-300))
            assert difference < limit, f"{composite} units of {name} {dtype}: {difference:.1e}"
    for hook in hooks:
        hook.remove()


# the ε-rule everywhere divides by sums near zero: single precision itself is off by some 2e-4 then, zennit's as well;
# how far the other composites are off depends on the CPU's vectors (2e-5 with AVX-512, 2e-4 with AVX2)
BOTH = {"epsilon": ((torch.float64, 1e-8), (torch.float32, 1e-3))}
USUAL = ((torch.float64, 1e-8), (torch.float32, 5e-4))


def folded(model: nn.Module) -> nn.Module:
    """Batch norms merged into the convolutions before them, exactly (zennit's own merging keeps their eps)."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        previous = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = (name, child)
    return model


@pytest.mark.parametrize("composite", some_slow(ZENNIT, "epsilon-plus", "alpha2-beta1", "guided-backprop", "deconvnet"))
def test_agrees_with_zennit_on_resnet18(composite):
    torch.manual_seed(0)
    model = randomised(resnet18(weights=None, num_classes=10))
    compare_with_zennit(
        model,
        torch.randn(2, 3, 40, 40),
        torch.tensor([1, 7]),
        composite,
        [ResNetBasicBlockCanonizer()],
        BOTH.get(composite, USUAL),
    )


@pytest.mark.slow
@pytest.mark.parametrize("composite", list(ZENNIT))
@pytest.mark.parametrize(
    ("network", "canonizer"), [(resnet50, ResNetBottleneckCanonizer), (vgg16_bn, None)], ids=["resnet50", "vgg16_bn"]
)
def test_agrees_with_zennit_on_deep_networks(network, canonizer, composite):
    torch.manual_seed(0)
    model = randomised(network(weights=None, num_classes=10))
    canonizers = [] if canonizer is None else [canonizer()]
    compare_with_zennit(
        model, torch.randn(2, 3, 64, 64), torch.tensor([1, 7]), composite, canonizers, BOTH.get(composite, USUAL)
    )


def random_cnn(seed):
    """Two to four convolutions of random shape, with and without bias, norm, activation, pooling and groups."""
    torch.manual_seed(seed)
    dice = random.Random(seed)
    layers, channels, side = [], 3, 12
    for _ in range(dice.randint(2, 4)):
        groups = channels if dice.random() < 0.2 and channels > 3 else 1
        width = channels * dice.randint(1, 2) if groups > 1 else dice.randint(4, 9)
        kernel = dice.choice([1, 3, (3, 1)])
        layers.append(
            nn.Conv2d(channels, width, kernel, dice.choice([1, 1, 2]), padding=dice.choice([1, 2]),
                      dilation=dice.choice([1, 1, 2]), groups=groups, bias=dice.random() < 0.6)
        )  # fmt: skip
        if dice.random() < 0.4:
            layers.append(nn.BatchNorm2d(width))
        layers.append(dice.choice([nn.ReLU, nn.ReLU, nn.Tanh, nn.Identity, nn.LeakyReLU, nn.SiLU])())
        layers.append(dice.choice([nn.Identity(), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2, 1, 1)]))
        channels = width
    head = [nn.Linear(channels * 4, 7, bias=dice.random() < 0.6), nn.ReLU(), nn.Linear(7, 5)]
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head)), torch.randn(
        3, 3, side, side
    )


@pytest.mark.parametrize("seed", range(50))
def test_agrees_with_zennit_on_random_networks(seed):
    model, x = random_cnn(seed)
    for composite in ZENNIT:
        if composite == "excitation-backprop":
            continue  # zennit has no rule for activations other than ReLU in it
        compare_with_zennit(copy.deepcopy(model), x, torch.tensor([0, 3, 4]), composite)


def slow_truth(rule, x, weight, bias, relevance):
    """Each rule element by element, in the form of its paper."""
    result = torch.zeros_like(x)
    for n in range(len(x)):
        for j in range(len(weight)):
            w, b, r = weight[j], bias[j], relevance[n, j]
            c = x[n] * w
            z = c.sum() + b
            if isinstance(rule, AlphaBeta):
                for factor, part, extra in (
                    (rule.alpha, c.clamp(min=0), b.clamp(min=0)),
                    (-rule.beta, c.clamp(max=0), b.clamp(max=0)),
                ):
                    if factor and part.any():
                        result[n] += factor * part / (part.sum() + extra) * r
            elif isinstance(rule, Gamma):
                g = rule.gamma
                sign = 1 if z > 0 else -1
                part = c + g * torch.where(sign * c > 0, c, 0)
                result[n] += part / (part.sum() + b + g * (b if sign * b > 0 else 0)) * r
            elif isinstance(rule, Flat):
                result[n] += r / len(w)
            elif isinstance(rule, WSquare):
                result[n] += w**2 / (w**2).sum() * r
            elif isinstance(rule, ZBox):
                part = c - rule.low * w.clamp(min=0) - rule.high * w.clamp(max=0)
                result[n] += part / part.sum() * r
            else:
                result[n] += c / z * r
    return result


@pytest.mark.parametrize(
    "rule",
    [Epsilon(0), Epsilon(1e-14), ZPlus(1e-14), AlphaBeta(2, 1, 1e-14), AlphaBeta(3, 2, 1e-14), Gamma(0.25, 1e-14)]
    + [Flat(1e-14), WSquare(1e-14), ZBox(-3.0, 3.0, 1e-14)],
    ids=lambda r: repr(r),
)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_rules_agree_with_their_formula(rule, seed):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias, g = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 6), (4, 6), (4,), (3, 4))
    )
    op = MatrixMap(weight, bias)
    z = op(x, weight, bias)
    found = rule.backward(g, g * z, x, z, op)
    found = found if rule.gives_relevance else x * found
    torch.testing.assert_close(found, slow_truth(rule, x, weight, bias, g * z), rtol=1e-8, atol=1e-9)


@given(seed=st.integers(0, 10_000), composite=st.sampled_from(["epsilon", "epsilon-plus", "epsilon-plus-flat"]))
@settings(max_examples=25, deadline=None)
def test_relevance_is_conserved_without_biases(seed, composite):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, bias=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False),
    ).double()  # fmt: skip
    x, targets = torch.rand(4, 2, 8, 8).double() + 0.1, torch.tensor([0, 1, 2, 0])
    parameters = {"epsilon": TINY} if composite == "epsilon" else {"epsilon": TINY, "stabiliser": TINY}
    chosen = sc.composites.get(composite, **parameters)
    found = sc.attribute(model, x, targets, chosen)
    alive = found.logits.gather(1, targets[:, None])[:, 0].abs() > 1e-6
    torch.testing.assert_close(
        found.input.sum((1, 2, 3))[alive], torch.ones(int(alive.sum())).double(), rtol=0, atol=1e-4
    )


def test_unit_relevance_adds_up_like_the_input():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)).double()
    found = sc.attribute(model, torch.randn(4, 5).double(), [0, 1, 2, 0], sc.composites.get("epsilon", epsilon=TINY))
    torch.testing.assert_close(found.units["0"].sum(1), found.input.sum(1))


def test_makers_and_readers_share_the_same_relevance():
    """What the layers of a residual stream make is what its readers get."""
    model, x = user_net()
    model, batch = model.double(), (x.double(), torch.tensor([0, 1]))
    makers = unit_statistics(model, [batch], None, start="loss", at="makers")
    readers = unit_statistics(model, [batch], None, start="loss", at="readers")
    structure = sc.trace(model, x.double())
    from secateur.criteria.aggregation import sample_relevance

    group = structure.group("squeeze").units
    a = sample_relevance(structure, makers, "relevance", False, "makers")[:, group]
    b = sample_relevance(structure, readers, "relevance", False, "readers")[:, group]
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b))


def test_every_operation_of_a_users_network_has_a_rule_and_batches_do_not_matter():
    model, x = user_net()
    x = torch.cat([x, -x, 2 * x])
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    for composite in ("epsilon", "epsilon-plus", "alpha2-beta1", "epsilon-gamma", "epsilon-gamma-box", "graded"):
        whole = sc.attribute(model.double(), x.double(), targets, composite)
        parts = sc.attribute(model, x.double(), targets, composite, batch_size=2)
        torch.testing.assert_close(whole.input, parts.input)
        assert torch.isfinite(whole.input).all()


def test_the_network_comes_back_after_an_exception():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            raise ValueError("broken")

    model = Fails().train()
    with pytest.raises(ValueError, match="broken"):
        sc.attribute(model, torch.zeros(1, 3), [0])
    assert model.training
    assert model.fc.weight.requires_grad


@pytest.mark.parametrize(
    ("inputs", "targets", "composite", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), [0, 1], "epsilon", "floating point"),
        (torch.zeros(0, 3), [], "epsilon", "empty"),
        (torch.zeros(2, 3), [0], "epsilon", "one class index per sample"),
        (torch.zeros(2, 3), [0, 9], "epsilon", "out of range"),
        (torch.zeros(2, 3), [0, 1], "epsilonn", "did you mean 'epsilon'"),
    ],
)
def test_wrong_requests(inputs, targets, composite, message):
    with pytest.raises(sc.RequestError, match=message):
        sc.attribute(nn.Linear(3, 2), inputs, targets, composite)


def test_operations_without_a_rule_are_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return torch.sin(self.fc(x))

    with pytest.raises(sc.RequestError, match="operation 'sin' in the network's forward has no relevance rule"):
        sc.attribute(Odd(), torch.randn(2, 3), [0, 1])


def test_non_finite_relevance_names_the_layer_and_sample():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(3, 3)
    x[1, 0] = float("nan")
    with pytest.raises(sc.SecateurError, match=r"layer '[02]'.*sample 1"):
        sc.attribute(model, x, [0, 1, 0])


def test_no_memory_is_left_behind():
    import gc
    import weakref

    model, x = user_net()
    held = weakref.ref(x)
    sc.attribute(model, x, [0, 1])
    del x
    gc.collect()
    assert held() is None
