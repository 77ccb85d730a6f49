"""Gradient methods, starts, positions, accounts and heads; what the engine leaves alone and what it says no to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from networks import user_net
from secateur.attribution import operations, treat, unit_statistics

RULES = ["epsilon", "epsilon-plus-flat", "alpha2-beta1", "epsilon-gamma-box", "attnlrp", "cp-lrp", "graded"]
GRADIENTS = ["gradient", "gradient-input", "guided-backprop", "deconvnet"]
INTEGRATED = sc.composites.get("integrated-gradients", steps=3)
EVERY = [*RULES, "excitation-backprop", *GRADIENTS, INTEGRATED]
SMALL = {"rtol": 1e-8, "atol": 1e-10}


class FusedBlock(nn.Module):
    """A pre-norm block with packed queries, keys and values, fused attention and layer scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.scale1, self.scale2 = (nn.Parameter(torch.rand(width) + 0.5) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.scale1 * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.scale2 * self.mlp(self.norm2(x))


class ModuleBlock(nn.Module):
    """A pre-norm block with nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TinyTransformer(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width) / 2)
        self.first, self.second = ModuleBlock(width, 3), FusedBlock(width, 4)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.norm(self.second(self.first(x)))[:, 0])


def tiny_transformer(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = TinyTransformer()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # many are 0 from the start, and would have nothing to absorb
            nn.init.normal_(parameter, std=0.1)
    return model.eval(), torch.randn(2, 3, 8, 8)


NETWORKS = {"user_net": user_net, "transformer": tiny_transformer}


def six_samples(network: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """In double precision, so that small differences are mistakes."""
    model, x = NETWORKS[network]()
    x = torch.cat([x, torch.randn(4, *x.shape[1:], generator=torch.Generator().manual_seed(1))])
    return model.double(), x.double(), torch.tensor([0, 1, 2, 0, 1, 2])


def per_unit(model: nn.Module, name: str, values: torch.Tensor) -> torch.Tensor:
    """What is kept of a layer, with all positions in one last dimension: [N, U, positions]."""
    last = name.endswith("in_proj_weight") or isinstance(dict(model.named_modules())[name], nn.Linear)
    values = values.movedim(-1, 1) if last else values  # else heads or channels
    return values.reshape(*values.shape[:2], -1)


def assert_same(found: sc.Relevance, expected: sc.Relevance, order: object = slice(None), **limits: float) -> None:
    limits = limits or SMALL
    torch.testing.assert_close(found.input, expected.input[order], **limits)
    assert list(found.units) == list(expected.units)
    for name, units in found.units.items():
        torch.testing.assert_close(units, expected.units[name][order], **limits)


# -- gradient methods -------------------------------------------------------------------------------------------


def outputs_and_gradients(model, x, targets, names):
    """The target logit's gradient at the input and at the outputs of modules, by hooks and autograd."""
    outputs, gradients = {}, {}

    def watch(name):
        def hook(module, args, output):
            outputs[name] = output.detach().clone()
            output = output.clone()  # the network may overwrite it
            output.register_hook(lambda g: gradients.__setitem__(name, g))
            return output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    x = x.clone().requires_grad_()
    model(x).gather(1, targets[:, None]).sum().backward()
    for handle in handles:
        handle.remove()
    return x.grad, outputs, gradients


def test_gradients_are_those_of_autograd():
    model, x, targets = six_samples("user_net")
    # the stem's units are looked at behind its batch norm
    place = {"stem.0": "stem.1"} | {n: n for n in "dense depthwise point grouped squeeze excite mix head.4".split()}
    gradient, outputs, gradients = outputs_and_gradients(model, x, targets, place.values())
    found = sc.attribute(model, x, targets, "gradient")
    times_input = sc.attribute(model, x, targets, "gradient-input")
    torch.testing.assert_close(found.input, gradient, **SMALL)
    torch.testing.assert_close(times_input.input, x * gradient, **SMALL)
    for name, at in place.items():
        g, a = (per_unit(model, name, tensors[at]) for tensors in (gradients, outputs))
        torch.testing.assert_close(found.units[name], g.sum(2), **SMALL)
        torch.testing.assert_close(times_input.units[name], (a * g).sum(2), **SMALL)


def test_a_transformers_gradient_is_that_of_autograd():
    model, x, targets = six_samples("transformer")
    gradient, _, gradients = outputs_and_gradients(model, x, targets, ["second.qkv", "second.mlp.0"])
    found = sc.attribute(model, x, targets, "gradient")
    torch.testing.assert_close(found.input, gradient, **SMALL)
    for name, g in gradients.items():
        torch.testing.assert_close(found.units[name], g.sum(1), **SMALL)


@pytest.mark.parametrize("network", NETWORKS)
def test_integrated_gradients_agree_with_captum(network):
    captum = pytest.importorskip("captum.attr")
    model, x, targets = six_samples(network)
    steps = 7
    chosen = sc.composites.get("integrated-gradients", steps=steps, baseline=0.2)
    found = sc.attribute(model, x, targets, chosen)
    theirs = captum.IntegratedGradients(model).attribute(
        x, torch.full_like(x, 0.2), targets, method="riemann_trapezoid", n_steps=steps + 1
    )
    # captum gives each of its n points 1/n, and half of it to both ends: that adds up to (n - 1)/n
    torch.testing.assert_close(found.input, theirs * (steps + 1) / steps, rtol=1e-4, atol=1e-7)


def test_conductance_of_layers_that_all_paths_cross_adds_up_to_the_change():
    model, x, targets = six_samples("transformer")
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x))).gather(1, targets[:, None])[:, 0]
    errors = {}
    for steps in (8, 32):
        found = sc.attribute(model, x, targets, sc.composites.get("integrated-gradients", steps=steps))
        torch.testing.assert_close(found.start, change, **SMALL)
        sums = {"input": found.input.flatten(1), "patches": found.units["patches"], "head": found.units["head"]}
        errors[steps] = {name: float((value.sum(1) - change).abs().max()) for name, value in sums.items()}
    # a trapezoid's error falls with the square of the steps; the head is linear, and has none
    assert errors[8]["head"] < 1e-10
    for name in ("input", "patches"):
        assert errors[32][name] < errors[8][name] / 8
        assert errors[32][name] < 0.01 * float(change.abs().max())


def test_conductance_of_a_hidden_layer_against_finite_differences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(1, 4).double()
    found = sc.attribute(model, x, [1], sc.composites.get("integrated-gradients", steps=400))
    with torch.no_grad():
        hidden, start = model[0](x), model[0](torch.zeros_like(x))
        # a unit's path is its own here: what it adds is the change of tanh times its weight
        expected = model[2].weight[1] * (hidden.tanh() - start.tanh())
    torch.testing.assert_close(found.units["0"], expected, rtol=1e-4, atol=1e-6)


def test_smoothgrad_depends_on_its_seed_alone():
    model, x, targets = six_samples("user_net")

    def smooth(seed, batch_size=64):
        chosen = sc.composites.get("smoothgrad", samples=4, noise=0.2, seed=seed)
        return sc.attribute(model, x, targets, chosen, batch_size=batch_size)

    found = smooth(3)
    assert torch.equal(found.input, smooth(3).input)
    assert_same(smooth(3, batch_size=1), found)
    assert_same(smooth(3, batch_size=4), found)
    assert not torch.allclose(smooth(4).input, found.input)


def test_smoothgrad_is_the_mean_gradient_of_noisy_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x = torch.randn(2, 3).double()
    seen = []
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    found = sc.attribute(model, x, [0, 1], sc.composites.get("smoothgrad", samples=40, noise=0.1))
    handle.remove()
    gradients = [outputs_and_gradients(model, noisy, torch.tensor([0, 1]), [])[0] for noisy in seen]
    torch.testing.assert_close(found.input, torch.stack(gradients).mean(0), **SMALL)
    noise = (torch.stack(seen) - x) / (x.max() - x.min())
    assert 0.08 < float(noise.std()) < 0.12


@pytest.mark.parametrize("relu", ["module", "in place", "function", "method"])
@pytest.mark.parametrize("composite", ["guided-backprop", "deconvnet"])
def test_guided_backprop_and_deconvnet_on_a_small_network(composite, relu):
    torch.manual_seed(0)

    class Rectified(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 3)])
            self.act = nn.ReLU(inplace=relu == "in place")

        def forward(self, x):
            for layer in self.layers[:-1]:
                x = layer(x)
                x = F.relu(x) if relu == "function" else x.relu_() if relu == "method" else self.act(x)
            return self.layers[-1](x)

    model, x, targets = Rectified().double(), torch.randn(4, 5).double(), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        before = [model.layers[0](x)]
        before.append(model.layers[1](before[0].relu()))
        g, expected = F.one_hot(targets, 3).double(), {}
        for i in (2, 1, 0):
            expected[f"layers.{i}"] = g
            g = g @ model.layers[i].weight
            if i:
                g = g.clamp(min=0) * (before[i - 1] > 0 if composite == "guided-backprop" else 1)
    found = sc.attribute(model, x, targets, composite)
    torch.testing.assert_close(found.input, g, **SMALL)
    for name, value in expected.items():
        torch.testing.assert_close(found.units[name], value, **SMALL)


# -- start and positions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-gamma-box", "attnlrp", "gradient-input", "gradient"])
@pytest.mark.parametrize("network", NETWORKS)
def test_starts_are_linear_in_each_other(network, composite):
    model, x, targets = six_samples(network)

    def found(start):
        return sc.attribute(model, x, targets, composite, start=start)

    hot = F.one_hot(targets, 3).double()
    one, logit = found("one"), found("logit")
    assert_same(found(hot), one)
    assert_same(found(hot * one.logits), logit)
    torch.testing.assert_close(one.start, torch.ones(6).double())
    torch.testing.assert_close(logit.start, one.logits.gather(1, targets[:, None])[:, 0])
    by_class = [found(F.one_hot(torch.full((6,), k), 3) * one.logits).input for k in range(3)]
    for start, weights in (("contrast", 1.5 * hot - 0.5), ("loss", one.logits.softmax(1) - hot)):
        expected = sum(w.reshape(6, 1, 1, 1) * r for w, r in zip(weights.T, by_class, strict=True))
        torch.testing.assert_close(found(start).input, expected, **SMALL)


def test_the_default_start_is_one_for_rules_and_the_logit_for_gradients():
    model, x, targets = six_samples("user_net")
    for composite, start in (("epsilon", "one"), ("gradient-input", "logit")):
        assert_same(sc.attribute(model, x, targets, composite), sc.attribute(model, x, targets, composite, start=start))


def test_the_start_loss_is_the_gradient_of_the_cross_entropy():
    model, x, targets = six_samples("user_net")
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), targets, reduction="sum").backward()
    found = sc.attribute(model, x, targets, "gradient", start="loss")
    torch.testing.assert_close(found.input, leaf.grad, **SMALL)


def test_a_given_start_is_split_with_the_batch():
    model, x, targets = six_samples("user_net")
    start = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).double()
    whole = sc.attribute(model, x, targets, start=start)
    torch.testing.assert_close(whole.start, start.sum(1))
    assert_same(sc.attribute(model, x, targets, start=start, batch_size=4), whole)


@pytest.mark.parametrize(
    "composite", ["epsilon", "alpha2-beta1", "attnlrp", "gradient", "gradient-input", INTEGRATED], ids=str
)
@pytest.mark.parametrize("network", NETWORKS)
def test_positions(network, composite):
    model, x, targets = six_samples(network)
    total, absolute, kept = (
        sc.attribute(model, x, targets, composite, positions=positions) for positions in ("sum", "abs", "keep")
    )
    assert list(total.units) == list(absolute.units) == list(kept.units)
    shapes = (
        {"stem.0": (6, 12, 8, 8), "point": (6, 24, 8, 8), "head.4": (6, 3)}
        if network == "user_net"
        else {"patches": (6, 12, 2, 2), "first.attention": (6, 3, 5, 4), "second.mlp.0": (6, 5, 24), "head": (6, 3)}
    )
    assert {name: kept.units[name].shape for name in shapes} == shapes
    for name, units in kept.units.items():
        positions = per_unit(model, name, units)
        torch.testing.assert_close(total.units[name], positions.sum(2), **SMALL)
        if composite is not INTEGRATED:  # there, it is the sum over steps of absolute values
            torch.testing.assert_close(absolute.units[name], positions.abs().sum(2), **SMALL)
        assert (absolute.units[name] >= total.units[name].abs() - 1e-9).all()


# -- invariances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composite", EVERY, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_batches_and_the_order_of_samples_do_not_matter(network, composite):
    model, x, targets = six_samples(network)
    whole = sc.attribute(model, x, targets, composite)
    assert_same(sc.attribute(model, x, targets, composite, batch_size=4), whole)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    assert_same(sc.attribute(model, x[order], targets[order], composite), whole, order)


@pytest.mark.parametrize(
    "composite", ["epsilon", "epsilon-plus-flat", "epsilon-gamma-box", "attnlrp", "gradient-input"]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_channels_last_gives_the_same(network, composite):
    model, x, targets = six_samples(network)
    expected = sc.attribute(model, x, targets, composite)
    last = x.to(memory_format=torch.channels_last)
    assert_same(sc.attribute(model, last, targets, composite), expected)
    assert_same(sc.attribute(model.to(memory_format=torch.channels_last), last, targets, composite), expected)


@pytest.mark.parametrize("composite", ["epsilon-plus", "epsilon-gamma", "attnlrp", "cp-lrp", "gradient-input"])
@pytest.mark.parametrize("network", NETWORKS)
def test_autocast(network, composite):
    model, x = NETWORKS[network]()
    expected = sc.attribute(model, x, [0, 1], composite)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sc.attribute(model, x, [0, 1], composite)
    assert all(torch.isfinite(values).all() for values in (found.input, *found.units.values()))
    cosine = F.cosine_similarity(found.input.float().flatten(1), expected.input.flatten(1))
    assert float(cosine.min()) > 0.98


class Full(nn.Module):
    """A network on a machine that holds few samples."""

    def __init__(self, model: nn.Module, room: int) -> None:
        super().__init__()
        self.model, self.room, self.calls = model, room, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        y = self.model(x)
        if len(x) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return y


@pytest.mark.parametrize(
    "composite", ["epsilon", "epsilon-gamma-box", INTEGRATED, sc.composites.get("smoothgrad", samples=2)], ids=str
)
def test_batches_are_halved_when_memory_does_not_suffice(composite):
    model, x, targets = six_samples("user_net")
    full, roomy = Full(model, 2), Full(model, 64)
    found, expected = (sc.attribute(wrapped, x, targets, composite) for wrapped in (full, roomy))
    assert len(full.calls) > len(roomy.calls)
    assert_same(found, expected)
    torch.testing.assert_close(found.start, expected.start)


def test_a_sample_that_does_not_fit_alone_is_one_clear_error():
    model, x, targets = six_samples("user_net")
    with pytest.raises(sc.SecateurError, match="one sample alone does not fit into memory"):
        sc.attribute(Full(model, 0), x, targets)


# -- what is left alone -----------------------------------------------------------------------------------------


def hooks_of(model: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for module in model.modules() for kind in kinds]


@pytest.mark.parametrize("composite", ["epsilon", "alpha2-beta1-flat", "deconvnet", INTEGRATED], ids=str)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_and_the_inputs_come_back_as_they_were(composite, fails):
    model, x = user_net()
    model.train()
    model.stem[1].eval()
    model.head.eval()
    model.mix.weight.requires_grad_(False)
    called = []
    model.point.register_forward_hook(lambda module, args, output: called.append("forward"))
    model.stem.register_forward_pre_hook(lambda module, args: called.append("before"))

    def fail(module, args):
        if fails:
            raise KeyError("in the middle")

    model.excite.register_forward_pre_hook(fail)
    hooks = hooks_of(model)
    modes = [module.training for module in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    state, before = copy.deepcopy(model.state_dict()), x.clone()
    if fails:
        with pytest.raises(KeyError, match="in the middle"):
            sc.attribute(model, x, [0, 1], composite)
    else:
        sc.attribute(model, x, [0, 1], composite)
    assert {"forward", "before"} == set(called)
    assert hooks_of(model) == hooks
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, before)
    assert not x.requires_grad


class Careless(nn.Module):
    """Overwrites its input and whatever it computes, or does not."""

    def __init__(self, over: bool) -> None:
        super().__init__()
        self.over = over
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.two, self.three, self.four = (nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.relu, self.silu = nn.ReLU(inplace=over), nn.SiLU(inplace=over)
        self.gate, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = self.over
        x = x.sub_(0.1) if over else x - 0.1
        x = self.relu(self.norm(self.one(x)))
        y = self.silu(self.two(x))
        if over:
            y += x
        else:
            y = y + x
        gate = self.gate(y.mean((2, 3)))
        gate = (gate.sigmoid_() if over else gate.sigmoid())[:, :, None, None]
        y = y.mul_(gate) if over else y * gate
        z = self.three(y)
        z = z.add_(y, alpha=0.5) if over else z + 0.5 * y
        w = self.four(self.relu(z))
        if over:
            w[:, :2] = y[:, 2:4]
            w /= 2.0
        else:
            w = torch.cat([y[:, 2:4], w[:, 2:]], 1) / 2.0
        w = F.leaky_relu_(w, 0.1) if over else F.leaky_relu(w, 0.1)
        return self.head(w.mean((2, 3)))


@pytest.mark.parametrize("composite", EVERY[:-1], ids=str)
def test_operations_in_place_give_the_same(composite):
    torch.manual_seed(0)
    over, plain = Careless(True).double(), Careless(False).double()
    plain.load_state_dict(over.state_dict())
    x = torch.randn(2, 3, 6, 6).double()
    before = x.clone()
    found, expected = (sc.attribute(model, x, [0, 2], composite) for model in (over, plain))
    assert torch.equal(x, before)
    assert_same(found, expected)


def test_operations_in_place_give_the_same_to_readers():
    torch.manual_seed(0)
    over, plain = Careless(True).double(), Careless(False).double()
    plain.load_state_dict(over.state_dict())
    x, targets = torch.randn(2, 3, 6, 6).double(), torch.tensor([0, 2])
    found, expected = (unit_statistics(m, [(x.clone(), targets)], "epsilon-gamma") for m in (over, plain))
    for name, statistics in expected.items():
        torch.testing.assert_close(found[name].relevance, statistics.relevance, **SMALL)
        torch.testing.assert_close(found[name].activation, statistics.activation, **SMALL)


# -- account and heads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composite", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_account_closes(network, composite):
    model, x, targets = six_samples(network)
    found = sc.attribute(model, x, targets, composite, account=True)
    size = 1 + sum(a.abs() for a in found.absorbed.values())
    assert float(((found.gap - sum(found.absorbed.values())) / size).abs().max()) < 1e-8
    assert_same(found, sc.attribute(model, x, targets, composite))
    assert_same(found, sc.attribute(model, x, targets, composite, account=True, batch_size=4))


class Between(nn.Module):
    """A user's operation between two linear layers."""

    def __init__(self, operation):
        super().__init__()
        self.one, self.two, self.operation = nn.Linear(6, 6), nn.Linear(6, 3), operation

    def forward(self, x):
        return self.two(self.operation(self.one(x)))


BETWEEN = {
    "rms norm by hand": lambda t: t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + 1e-6),
    "rms norm": lambda t: F.rms_norm(t, (6,)),
    "gate detached": lambda t: t * t.detach().sigmoid(),
    "constant over activation": lambda t: t * (1 / (t.abs() + 1)),
    "softmax gate": lambda t: t * t.softmax(-1),
    "standardised": lambda t: (lambda v, m: (t - m) * (v + 1e-5).rsqrt())(*torch.var_mean(t, dim=1, keepdim=True)),
    "std_mean": lambda t: (lambda v, m: (t - m) / v)(*torch.std_mean(t, 1, keepdim=True)),
    "mean": lambda t: t - t.mean(1, keepdim=True),
    "layer norm": lambda t: F.layer_norm(t, (6,)),
    "group norm": lambda t: F.group_norm(t, 2),
    "normalize": lambda t: F.normalize(t, dim=-1),
    "glu": lambda t: F.glu(torch.cat([t, t.tanh()], 1)),
    "sigmoid": torch.sigmoid,
    "softplus": lambda t: F.softplus(t, beta=2.0),
    "hardtanh": lambda t: t.clamp(min=0.5),
    "lerp": lambda t: torch.lerp(t, t.tanh(), 0.3),
    "addcmul": lambda t: torch.addcmul(t, t.tanh(), t.sigmoid(), value=0.5),
    "einsum": lambda t: torch.einsum("ni,nj->nj", t, t.tanh()),
    "square": torch.square,
    "power": lambda t: t**3,
    "gelu by hand": lambda t: 0.5 * t * (1 + torch.tanh(0.8 * t)),
}


@pytest.mark.parametrize("composite", ["attnlrp", "epsilon(softmax=attnlrp-plus)", "cp-lrp"])
@pytest.mark.parametrize("name", BETWEEN)
def test_the_account_closes_around_operations(name, composite):
    torch.manual_seed(1)
    model, x = Between(BETWEEN[name]).double(), torch.randn(2, 6).double()
    found = sc.attribute(model, x, [0, 1], composite, account=True)
    torch.testing.assert_close(found.gap, sum(found.absorbed.values()), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["rms norm by hand", "rms norm", "gate detached", "standardised", "std_mean"])
def test_a_factor_that_is_a_constant_takes_no_relevance(name):
    torch.manual_seed(1)
    model, x = Between(BETWEEN[name]).double(), torch.randn(2, 6).double()
    chosen = sc.composites.get("epsilon", epsilon=1e-12)
    found = sc.attribute(model, x, [0, 1], chosen)
    read = unit_statistics(model, [(x, torch.tensor([0, 1]))], chosen)["two"].relevance
    if name in ("standardised", "std_mean"):  # less its mean, which is linear
        torch.testing.assert_close(found.units["one"].sum(1), read.sum(1), rtol=1e-6, atol=1e-6)
    else:
        torch.testing.assert_close(found.units["one"], read, rtol=1e-6, atol=1e-6)


def test_operations_in_place_give_the_same_account():
    torch.manual_seed(0)
    over = Careless(True).double()
    x = torch.randn(2, 3, 6, 6).double()
    counted = sc.attribute(over, x, [0, 2], "epsilon-gamma", account=True)
    torch.testing.assert_close(counted.gap, sum(counted.absorbed.values()), rtol=0, atol=1e-8)


def test_biases_absorb_at_their_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)).double()
    x = torch.randn(3, 4).double()
    found = sc.attribute(model, x, [0, 1, 0], "epsilon", account=True)
    with torch.no_grad():
        hidden = model[0](x)
        share = (
            (hidden > 0)
            * model[2].weight[torch.tensor([0, 1, 0])]
            / found.logits.gather(1, torch.tensor([[0], [1], [0]]))
        )
    torch.testing.assert_close(found.absorbed["0"], (share * model[0].bias).sum(1).detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.absorbed["2"], torch.zeros(3).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("composite", ["attnlrp", "epsilon(softmax=attnlrp-plus)", "cp-lrp", "gradient-input"])
def test_heads_have_the_relevance_that_the_output_projection_reads(composite):
    model, x, targets = six_samples("transformer")
    found = sc.attribute(model, x, targets, composite)
    readers = unit_statistics(model, [(x, targets)], composite)
    for attention, projection, heads in (
        ("first.attention", "first.attention.out_proj", 3),
        ("second", "second.proj", 4),
    ):
        assert found.units[attention].shape == (6, heads)
        expected = readers[projection].relevance.unflatten(1, (heads, -1)).sum(2)
        torch.testing.assert_close(found.units[attention], expected, **SMALL)


@pytest.mark.parametrize("composite", ["attnlrp", "epsilon(softmax=attnlrp-plus)", "cp-lrp", "gradient-input"])
def test_attention_spelt_out_is_attention(composite):
    class SpeltOut(FusedBlock):
        def forward(self, x):
            q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
            x = x + self.scale1 * self.proj((weights @ v).transpose(1, 2).reshape(x.shape))
            return x + self.scale2 * self.mlp(self.norm2(x))

    model, x, targets = six_samples("transformer")
    expected = sc.attribute(model, x, targets, composite)
    spelt = SpeltOut(12, 4).double()
    spelt.load_state_dict(model.second.state_dict())
    model.second = spelt
    assert_same(sc.attribute(model, x, targets, composite), expected)


# -- wrong requests ---------------------------------------------------------------------------------------------

IMAGES = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (IMAGES.to(torch.uint8), [0, 1], {}, "floating point.*uint8"),
        (IMAGES[:0], [], {}, "empty"),
        (torch.zeros(2, 4, 8, 8), [0, 1], {}, r"layer 'stem\.0'.* reads 3 channels.*\[2, 4, 8, 8\]"),
        (IMAGES[0], [0, 1, 2], {}, r"layer 'stem\.0'.* reads 3 channels.*samples first"),
        (torch.zeros(2, 3, 12, 12), [0, 1], {}, r"layer 'head\.1' \(linear\) reads 192 features, got shape \[2, 432\]"),
        (IMAGES, [0.0, 1.0], {}, "integer class indices, got torch.float32"),
        (IMAGES, [0], {}, "one class index per sample"),
        (IMAGES, torch.eye(3, dtype=torch.int64)[:2], {}, "one class index per sample"),
        (IMAGES, [0, 3], {}, "target 3 is out of range for 3 outputs"),
        (IMAGES, [0, -1], {}, "target -1 is out of range for 3 outputs"),
        (IMAGES, [0, 1], {"start": torch.zeros(2, 4)}, r"\[2, 3\], got \[2, 4\]"),
        (IMAGES, [0, 1], {"start": torch.zeros(2)}, r"\[2, 3\], got \[2\]"),
        (IMAGES, [0, 1], {"start": "two"}, "unknown start 'two'; known: one, logit"),
        (IMAGES, [0, 1], {"start": "one", "composite": "integrated-gradients"}, "many inputs"),
        (IMAGES, [0, 1], {"positions": "mean"}, "unknown positions 'mean'; known: sum, abs, keep"),
        (IMAGES, [0, 1], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (IMAGES, [0, 1], {"composite": "guided-backpropp"}, "did you mean 'guided-backprop'"),
    ],
)
def test_wrong_requests_say_what_is_wrong(inputs, targets, options, message):
    model, _ = user_net()
    with pytest.raises(sc.RequestError, match=message):
        sc.attribute(model, inputs, targets, **options)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("epsilon", {"gamma": 0.25}, "gamma"),
        ("integrated-gradients", {"steps": 0}, "steps of integrated gradients must be at least 1"),
        ("smoothgrad", {"samples": 0}, "samples of SmoothGrad must be at least 1"),
        ("attnlrp", {"epsilon": -1.0}, "ε >= 0"),
        ("epsilon", {"softmax": "linear"}, "unknown softmax rule 'linear'"),
        ("graded", {"middle": "delta"}, "unknown rule 'delta' for 'middle'"),
    ],
)
def test_wrong_parameters_of_composites(name, parameters, message):
    with pytest.raises(sc.RequestError, match=message):
        sc.composites.get(name, **parameters)


@pytest.mark.parametrize("composite", ["epsilon", "gradient"])
def test_a_batch_norm_without_running_statistics_is_refused_by_name(composite):
    model, x = user_net()
    model.stem[1] = nn.BatchNorm2d(12, track_running_stats=False)
    with pytest.raises(sc.RequestError, match=r"batch norm 'stem\.1' has no running statistics"):
        sc.attribute(model, x, [0, 1], composite)


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def test_an_operation_without_a_rule_can_be_given_one():
    model, x = user_net()
    model.head[2] = Odd()
    with pytest.raises(sc.RequestError, match=r"'sin' in module 'head\.2'.*treat\('sin'"):
        sc.attribute(model, x, [0, 1])
    assert torch.isfinite(sc.attribute(model, x, [0, 1], "gradient-input").input).all()
    treat("sin", "identity")
    try:
        treated = sc.attribute(model.double(), x.double(), [0, 1], "epsilon", account=True)
    finally:
        operations._TABLE.pop("sin")
    # unchanged past the sine: what it hands on is what the last layer gives its inputs
    readers_sum = treated.start - treated.absorbed["head.4"]
    torch.testing.assert_close(treated.units["head.1"].sum(1), readers_sum, rtol=0, atol=1e-4)
    with pytest.raises(sc.RequestError, match="unknown treatment 'linear'"):
        treat("sin", "linear")


class Constant(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc = how, nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "detached":
            return self.fc(x.detach())
        return self.fc(torch.ones_like(x) if self.how == "ones" else x.new_ones(x.shape))


@pytest.mark.parametrize("composite", ["epsilon", "gradient"])
@pytest.mark.parametrize("how", ["detached", "ones", "new"])
def test_a_network_that_does_not_look_at_its_inputs_is_refused(how, composite):
    with pytest.raises(sc.RequestError, match="do not depend on the inputs"):
        sc.attribute(Constant(how), torch.randn(2, 3), [0, 1], composite)


@pytest.mark.parametrize("layers", [[nn.Conv2d(3, 4, 1), nn.Flatten(2)], [nn.Conv2d(3, 4, 1)]])
def test_a_network_that_gives_no_logits_is_refused(layers):
    with pytest.raises(sc.RequestError, match=r"logits of shape \[N, classes\], got shape \[2, 4, "):
        sc.attribute(nn.Sequential(*layers), torch.randn(2, 3, 2, 2), [0, 1])


def overwritten(t):
    t = t.clone()
    t[:, 0] = 2.0
    return t


WITH_CONSTANTS = {
    "add_ alpha": lambda t: t.clone().add_(torch.ones(6).double(), alpha=2),
    "sub_ alpha": lambda t: t.clone().sub_(torch.ones(6).double(), alpha=2),
    "masked_fill": lambda t: t.masked_fill(t < 0, 1.0),
    "where": lambda t: torch.where(t > 0, t, 0.7),
    "index_fill": lambda t: t.index_fill(1, torch.tensor([0]), 2.0),
    "overwritten": overwritten,
    "pad": lambda t: F.pad(t[:, :4], (1, 1), value=1.0),
    "maximum": lambda t: torch.maximum(t, torch.tensor(0.3).double()),
    "stack": lambda t: torch.stack([t, torch.ones_like(t)]).sum(0),
    "cat": lambda t: torch.cat([t[:, :3], torch.ones_like(t[:, 3:])], 1),
}


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_the_account_closes_around_constants(name, composite):
    torch.manual_seed(1)
    model, x = Between(WITH_CONSTANTS[name]).double(), torch.randn(2, 6).double()
    found = sc.attribute(model, x, [0, 1], composite, account=True)
    torch.testing.assert_close(found.gap, sum(found.absorbed.values()), rtol=0, atol=1e-8)


def test_a_relu_in_place_does_not_change_what_the_layer_said():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    over = nn.Sequential(plain[0], nn.ReLU(inplace=True), plain[2])
    batch = (torch.randn(3, 8).double(), torch.tensor([0, 1, 2]))
    found, expected = (unit_statistics(m, [batch], "epsilon", at="makers")["0"] for m in (over, plain))
    torch.testing.assert_close(found.activation, expected.activation, **SMALL)
    torch.testing.assert_close(found.centred(), expected.centred(), **SMALL)


def test_inputs_that_require_a_gradient_get_none():
    model, x = user_net()
    x.requires_grad_()
    found = sc.attribute(model, x, [0, 1])
    assert x.requires_grad
    assert x.grad is None
    assert not found.input.requires_grad
    assert not any(units.requires_grad for units in found.units.values())


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_start_for_other_samples_is_refused(length):
    model, x = user_net()
    with pytest.raises(sc.RequestError, match="start"):
        sc.attribute(model, x, [0, 1], start=torch.zeros(length, 3))


def test_integrated_gradients_of_operations_in_place_are_the_same():
    torch.manual_seed(0)
    over, plain = Careless(True).double(), Careless(False).double()
    plain.load_state_dict(over.state_dict())
    x = torch.randn(2, 3, 6, 6).double()
    found, expected = (sc.attribute(model, x, [0, 2], INTEGRATED) for model in (over, plain))
    assert_same(found, expected)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 3 * g


@pytest.mark.parametrize("last", [True, False])
def test_code_that_cannot_be_watched_is_refused(last):
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return Own.apply(self.two(self.one(x))) if last else self.two(Own.apply(self.one(x)))

    model, x = Hides(), torch.randn(2, 4)
    with pytest.raises(sc.RequestError, match="cannot be watched"):
        sc.attribute(model, x, [0, 1], "epsilon")
    assert sc.attribute(model, x, [0, 1], "gradient").input.any()


def test_the_noise_of_smoothgrad_belongs_to_the_sample():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(6, 4).double(), torch.arange(6) % 3
    noisy = sc.composites.get("smoothgrad", samples=3, noise=0.3)
    whole = sc.attribute(model, x, y, noisy).input
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(sc.attribute(model, x[order], y[order], noisy, batch_size=4).input, whole[order])
    torch.testing.assert_close(sc.attribute(model, x[2:3], y[2:3], noisy).input, whole[2:3])
    reference = sc.ReferenceSet(x, y, tuple(range(6)))
    shuffled = sc.ReferenceSet(x[order], y[order], tuple(range(6)))
    structure = sc.trace(model, x[:1])
    criterion = sc.criteria.get("lrp", composite=noisy)
    scores = sc.score(model, structure, reference, criterion).values
    for other, size in ((reference, 4), (shuffled, 64), (shuffled, 1)):
        found = sc.score(model, structure, other, criterion, batch_size=size).values
        torch.testing.assert_close(torch.tensor(found), torch.tensor(scores))


@pytest.mark.parametrize("start", ["logit", "contrast", "loss", "one"])
@pytest.mark.parametrize("label", [0, 1])
def test_one_logit_is_the_log_odds_of_class_1(start, label):
    """The gradient of a network with one output f is that of a network with the two logits -f/2 and f/2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    x = torch.randn(3, 4).double().requires_grad_()
    f = model(x)[:, 0]
    sign = 2 * label - 1
    objective = {
        "logit": sign * f,
        "contrast": sign * f,
        "loss": torch.nn.functional.cross_entropy(
            torch.stack([-f / 2, f / 2], 1), torch.full((3,), label), reduction="none"
        ),
        "one": f.abs().log(),  # whose gradient is 1 / f
    }[start]
    (expected,) = torch.autograd.grad(objective.sum(), x)
    found = sc.attribute(model, x, [label] * 3, "gradient-input", start=start)
    torch.testing.assert_close(found.input, expected * x.detach())
    with pytest.raises(sc.RequestError, match="target 2 is out of range for one output, whose classes are 0 and 1"):
        sc.attribute(model, x, [2] * 3)


def test_inputs_that_are_no_batch_of_numbers():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    for inputs, message in (
        ({"input_ids": torch.zeros(2, 4)}, "inputs must be one tensor, samples first, got dict"),
        (torch.tensor(1.0), "a tensor without dimensions"),
        (torch.zeros(2, 4, dtype=torch.long), "token ids have no relevance"),
    ):
        with pytest.raises(sc.RequestError, match=message):
            sc.attribute(model, inputs, [0, 0])
    with pytest.raises(sc.RequestError, match="batch_size must be a positive integer, got 2.5"):
        sc.attribute(model, torch.zeros(2, 4), [0, 0], batch_size=2.5)
    with pytest.raises(sc.RequestError, match=r"samples of SmoothGrad must be a positive integer, got 2.5"):
        sc.composites.get("smoothgrad", samples=2.5)


def test_logits_in_an_object():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return Output(self.layer(x))

    model, x = Wrapped(), torch.randn(2, 4)
    expected = sc.attribute(model.layer, x, [0, 1], "gradient").input
    torch.testing.assert_close(sc.attribute(model, x, [0, 1], "gradient").input, expected)
