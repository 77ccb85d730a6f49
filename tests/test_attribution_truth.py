"""Every rule against relevance written out in matrix form, in double precision, for layers and transformers alike."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.attribution import AlphaBeta, Composite, Epsilon, Flat, Gamma, Pass, Stop, WSquare, ZBox, ZPlus
from test_attribution import slow_truth

NONE = 1e-14


def matrix_of(layer, x):
    """The dense matrix and offset of a linear layer of any kind, by the images of the unit vectors."""
    size = x[0].numel()
    with torch.no_grad():
        offset = layer(torch.zeros_like(x[:1])).flatten()
        columns = layer(torch.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])).flatten(1)
    return (columns - offset).T, offset


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1, dilation=2, groups=2), (2, 5, 6)),
    "conv2d-same": (lambda: nn.Conv2d(2, 3, 4, padding="same"), (2, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 2, 2), (2, 3, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 4)),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 3, 3)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 2, 2, dilation=2), (2, 2, 2, 2)),
}
RULES = [
    Epsilon(0), Epsilon(NONE), ZPlus(NONE), AlphaBeta(2, 1, NONE), AlphaBeta(1.5, 0.5, NONE), Gamma(0.25, NONE),
    Gamma(0, NONE), Flat(NONE), WSquare(NONE), ZBox(-3.0, 3.0, NONE),
]  # fmt: skip


@pytest.mark.parametrize("kind", list(LAYERS))
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_every_rule_on_every_layer(rule, kind, signed):
    """The input's relevance of one layer and a fixed read-out, against the dense matrix."""
    torch.manual_seed(3)
    make, shape = LAYERS[kind]
    layer = make().double()
    x = torch.randn(2, *shape).double() if signed else torch.rand(2, *shape).double() + 0.01
    model = nn.Sequential(layer, nn.Flatten())
    z = model(x)
    start = torch.randn_like(z) * z  # relevance of every output
    found = sc.attribute(model, x, [0, 0], Composite("one-rule", lambda context: rule, 0.0), start=start)
    weight, offset = matrix_of(layer, x)
    if isinstance(rule, (Flat, WSquare, ZBox)) and kind != "linear":
        # padding is no input: these rules share among the inputs that are there
        reached, _ = matrix_of(_of_ones(layer), x)
        expected = _by_reach(rule, x.flatten(1), weight, reached, start)
    else:
        expected = slow_truth(rule, x.flatten(1), weight, offset, start)
    torch.testing.assert_close(found.input.flatten(1), expected, rtol=1e-9, atol=1e-10)


def _of_ones(layer):
    twin = type(layer).__new__(type(layer))
    twin.__dict__ = dict(layer.__dict__)
    twin._parameters = {
        "weight": nn.Parameter(torch.ones_like(layer.weight)),
        "bias": None if layer.bias is None else nn.Parameter(torch.zeros_like(layer.bias)),
    }
    return twin


def _by_reach(rule, x, weight, reached, start):
    if isinstance(rule, Flat):
        shares = reached / reached.sum(1, keepdim=True)
        return start @ shares
    if isinstance(rule, WSquare):
        return start @ (weight**2 / (weight**2).sum(1, keepdim=True))
    contributions = (
        x[:, None] * weight - rule.low * weight.clamp(min=0)[None] - rule.high * weight.clamp(max=0)[None]
    )  # [N, outputs, inputs]
    return (contributions / contributions.sum(2, keepdim=True) * start[:, :, None]).sum(1)


def test_pass_and_stop():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).double(), torch.randn(2, 4).double()
    through = sc.attribute(model, x, [0, 1], Composite("p", lambda c: Pass(NONE) if c.first else Epsilon(NONE), 0.0))
    torch.testing.assert_close(through.input, through.units["0"])
    stopped = sc.attribute(model, x, [0, 1], Composite("s", lambda c: Stop() if c.first else Epsilon(NONE), 0.0))
    assert not stopped.input.any()
    assert stopped.units["0"].any()


# -- relevance passed on by hand; R of an operation's output in, R of its inputs out -------------------------------


def through_linear(x, weight, bias, relevance):
    """LRP-0 on the last dimension."""
    z = x @ weight.T + (0 if bias is None else bias)
    return x * ((relevance / z) @ weight)


def through_norm(x, weight, bias, relevance, eps, centre=True):
    """y = (x - mean) / std · w + b with std constant, a matrix per position."""
    n = x.shape[-1]
    middle = torch.eye(n).double() - (1 / n if centre else 0)
    deviation = x - x.mean(-1, keepdim=True) if centre else x
    scale = 1 / (deviation.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    y = deviation * scale * weight + bias
    result = torch.zeros_like(x)
    for j in range(n):
        contributions = x * middle[j] * scale * weight[j]
        result += contributions * (relevance[..., j : j + 1] / y[..., j : j + 1])
    return result


def through_product(a, b, relevance):
    """O = A B: uniform rule of AttnLRP, R_A_ji = Σ_p A_ji B_ip / (2 O_jp) R_jp."""
    out = a @ b
    terms = a[..., :, :, None] * b[..., None, :, :] / (2 * out[..., :, None, :]) * relevance[..., :, None, :]
    return terms.sum(-1), terms.sum(-3)


def through_softmax(scores, relevance):
    """R_i = x_i (R_i - s_i Σ_j R_j)."""
    weights = scores.softmax(-1)
    return scores * (relevance - weights * relevance.sum(-1, keepdim=True))


class Attention(nn.Module):
    """One attention layer, written in four ways."""

    def __init__(self, how, heads=2, width=6):
        super().__init__()
        self.how, self.heads = how, heads
        if how == "module":
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        if self.how == "module":
            return self.attention(x, x, x, need_weights=False)[0]
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "matmul":
            scores = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
            out = F.softmax(scores, dim=-1) @ v
        else:
            scores = torch.einsum("nhid,nhjd->nhij", q, k) / math.sqrt(q.shape[-1])
            out = torch.einsum("nhij,nhjd->nhid", scores.softmax(-1), v)
        return self.proj(out.transpose(1, 2).reshape(n, tokens, width))


class ReadOut(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).flatten(1)


def attention_truth(layer, x, relevance, softmax):
    """All of the layer by hand; ``relevance`` of its output."""
    if layer.how == "module":
        mine = layer.attention
        qkv_weight, qkv_bias, proj = mine.in_proj_weight, mine.in_proj_bias, mine.out_proj
    else:
        qkv_weight, qkv_bias, proj = layer.qkv.weight, layer.qkv.bias, layer.proj
    n, tokens, width = x.shape
    qkv = x @ qkv_weight.T + qkv_bias
    q, k, v = qkv.reshape(n, tokens, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    scale = q.shape[-1] ** -0.5
    scores = q @ k.transpose(-2, -1) * scale
    weights = scores.softmax(-1)
    out = weights @ v
    joined = out.transpose(1, 2).reshape(n, tokens, width)
    r_joined = through_linear(joined, proj.weight, proj.bias, relevance)
    r_out = r_joined.reshape(n, tokens, layer.heads, -1).transpose(1, 2)
    if softmax == "cp-lrp":
        r_v = (weights[..., None] * v[..., None, :, :] / out[..., :, None, :] * r_out[..., :, None, :]).sum(-3)
        r_q = r_k = torch.zeros_like(q)
    else:
        r_weights, r_v = through_product(weights, v, r_out)
        r_scores = (through_softmax_plus if softmax == "attnlrp-plus" else through_softmax)(scores, r_weights)
        r_q, r_k_t = through_product(q, k.transpose(-2, -1) * scale, r_scores)
        r_k = r_k_t.transpose(-2, -1)
    r_qkv = torch.stack([r_q, r_k, r_v]).permute(1, 3, 0, 2, 4).reshape(n, tokens, -1)
    return through_linear(x, qkv_weight, qkv_bias, r_qkv), r_out.sum((2, 3))


def through_softmax_plus(x, relevance):
    """z⁺ on the terms of the softmax's Taylor expansion, all of them spelt out."""
    s = x.softmax(-1)
    terms = s[..., :, None] * (torch.eye(x.shape[-1], dtype=x.dtype) - s[..., None, :]) * x[..., None, :]
    positive = terms.clamp(min=0)
    return (positive / positive.sum(-1, keepdim=True).clamp(min=1e-300) * relevance[..., :, None]).sum(-2)


@pytest.mark.parametrize("softmax", ["attnlrp", "attnlrp-plus", "cp-lrp"])
@pytest.mark.parametrize("how", ["module", "fused", "matmul", "einsum"])
def test_attention(how, softmax):
    torch.manual_seed(0)
    layer = Attention(how).double()
    x = torch.randn(2, 4, 6).double()
    y = layer(x).detach()
    start = torch.randn_like(y) * y
    composite = sc.composites.get("epsilon", epsilon=0.0, softmax=softmax)
    found = sc.attribute(ReadOut(layer), x, [0, 0], composite, start=start.flatten(1))
    expected, heads = attention_truth(layer, x, start, softmax)
    torch.testing.assert_close(found.input, expected, rtol=1e-10, atol=1e-10)
    name = "inner.attention" if how == "module" else "inner"
    torch.testing.assert_close(found.units[name], heads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["layer", "rms", "rms-by-hand", "group", "instance"])
def test_norms(kind):
    torch.manual_seed(0)

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6))

        def forward(self, x):
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    if kind in ("group", "instance"):
        norm = nn.GroupNorm(2, 4) if kind == "group" else nn.InstanceNorm2d(4, affine=True)
        x, groups = torch.randn(2, 4, 3, 3).double(), 2 if kind == "group" else 4
    else:
        norm = {"layer": nn.LayerNorm(6), "rms": nn.RMSNorm(6, eps=1e-6), "rms-by-hand": ByHand()}[kind]
        x, groups = torch.randn(2, 3, 6).double(), 0
    norm = norm.double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    y = norm(x).detach()
    start = torch.randn_like(y) * y
    found = sc.attribute(ReadOut(norm), x, [0, 0], sc.composites.get("epsilon", epsilon=0.0), start=start.flatten(1))
    bias = getattr(norm, "bias", None)
    if groups:
        rows = x.reshape(2, groups, -1)
        per_channel = rows.shape[-1] // (4 // groups)
        expected = torch.stack([
            through_norm(
                rows[:, i], norm.weight.reshape(groups, -1)[i].repeat_interleave(per_channel),
                bias.reshape(groups, -1)[i].repeat_interleave(per_channel),
                start.reshape(2, groups, -1)[:, i], norm.eps,
            ) for i in range(groups)
        ], 1).reshape(x.shape)  # fmt: skip
    else:
        zero = torch.zeros(6).double()
        eps = norm.eps if kind == "layer" else 1e-6
        expected = through_norm(x, norm.weight, zero if bias is None else bias, start, eps, centre=kind == "layer")
    torch.testing.assert_close(found.input, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.hardswish, torch.tanh, F.elu, F.relu6, F.leaky_relu, F.mish])
def test_activations_pass_relevance_on(function):
    class Act(nn.Module):
        def forward(self, x):
            return function(x)

    x = torch.randn(2, 5).double()
    y = function(x)
    start = torch.randn_like(y) * (y != 0)
    found = sc.attribute(Act(), x, [0, 0], "epsilon", start=start)
    torch.testing.assert_close(found.input, start, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gate", ["swiglu", "glu", "squeeze-excite"])
def test_gates_share_in_halves(gate):
    class Gate(nn.Module):
        def forward(self, x):
            a, b = x.chunk(2, -1)
            if gate == "swiglu":
                return F.silu(a) * b
            return F.glu(x) if gate == "glu" else torch.sigmoid(b) * a

    x = torch.randn(2, 8).double()
    y = Gate()(x)
    start = torch.randn_like(y)
    found = sc.attribute(Gate(), x, [0, 0], "epsilon", start=start).input
    signal, gated = found.chunk(2, -1)
    if gate == "swiglu":
        torch.testing.assert_close(gated, start / 2)
        torch.testing.assert_close(signal, start / 2)
    else:
        # what a sigmoid says at 0 is a bias: it keeps its share
        b = x.chunk(2, -1)[1]
        torch.testing.assert_close(signal, start / 2)
        torch.testing.assert_close(gated, start / 2 * (b.sigmoid() - 0.5) / b.sigmoid(), rtol=1e-4, atol=1e-5)


def test_rules_go_by_depth():
    """Quarters of the layers before the classifier, found from the order of execution."""
    seen = {}
    layers = [nn.Conv2d(3 if i == 0 else 4, 4, 1) for i in range(8)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def choose(context):
        seen[context.depth, context.classifier] = seen.get((context.depth, context.classifier), 0) + 1
        return Epsilon()

    sc.attribute(model, torch.rand(2, 3, 4, 4), [0, 1], Composite("look", choose, by_depth=True))
    assert seen == {(i / 7, False): 1 for i in range(8)} | {(1.0, True): 2}
    graded = sc.composites.get("graded", low="z-plus", middle="gamma", high="alpha2-beta1", classifier="epsilon")
    by_hand = {0: ZPlus(), 1: Gamma(0.25), 2: AlphaBeta(2, 1)}
    x = torch.rand(2, 3, 4, 4)

    def manual(context):
        if context.classifier:
            return Epsilon()
        return by_hand[0 if context.depth < 0.25 else 1 if context.depth < 0.75 else 2]

    a = sc.attribute(model, x, [0, 1], graded).input
    b = sc.attribute(model, x, [0, 1], Composite("by hand", manual, by_depth=True)).input
    torch.testing.assert_close(a, b)


# -- conservation --------------------------------------------------------------------------------------------------


def bias_free(seed):
    """A random network without biases, whose every operation hands relevance on."""
    torch.manual_seed(seed)
    dice = torch.randint(0, 1 << 30, (12,)).tolist()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            width = 4 + dice[0] % 4
            self.stem = nn.Conv2d(2, width, 3, padding=1, bias=False)
            self.body = nn.ModuleList(
                nn.Conv2d(width, width, 1 + 2 * (dice[i] % 2), padding=dice[i] % 2, bias=False)
                for i in range(1, 2 + dice[1] % 3)
            )
            self.up = nn.ConvTranspose2d(width, width, 2, stride=2, bias=False)
            self.head = nn.Linear(width * (2 if dice[2] % 2 else 1), 3, bias=False)

        def forward(self, x):
            act = (F.relu, F.gelu, F.silu, F.leaky_relu)[dice[3] % 4]
            x = act(self.stem(x))
            for i, layer in enumerate(self.body):
                y = act(layer(x))
                x = (x + y, torch.maximum(x, y), y, x * y)[dice[4 + i] % 4]
            if dice[8] % 2:
                x = act(self.up(x))
            x = (F.max_pool2d, F.avg_pool2d)[dice[9] % 2](x, 2)
            pooled = x.mean((2, 3))
            if dice[2] % 2:
                pooled = torch.cat([pooled, x.amax((2, 3))], 1)
            return self.head(pooled)

    return Net().double(), torch.rand(2, 2, 6, 6).double() + 0.1


@given(seed=st.integers(0, 10**6), composite=st.sampled_from(["epsilon", "epsilon-plus", "epsilon-plus-flat"]))
@settings(max_examples=200, deadline=None)
def test_relevance_is_conserved_without_biases(seed, composite):
    model, x = bias_free(seed)
    none = 1e-100  # products of small activations lie far below the usual stabilisers
    chosen = sc.composites.get(composite, epsilon=none, **({} if composite == "epsilon" else {"stabiliser": none}))
    found = sc.attribute(model, x, [0, 2], chosen, account=True)
    # a sum that happens to be near 0 makes relevance large: gaps are measured against what flowed
    flowed = max(1.0, *(float(u.abs().sum(1).max()) for u in found.units.values()))
    unaccounted = found.gap - sum(found.absorbed.values())
    assert float(unaccounted.abs().max()) <= 1e-6 * flowed
    if composite == "epsilon":
        assert float(found.gap.abs().max()) <= 1e-4 * flowed


@pytest.mark.parametrize("how", ["causal", "boolean mask", "float mask", "grouped queries", "softmin"])
def test_attention_by_the_plus_rule_however_it_is_called(how):
    """Logits, masks and grouped heads spelt out give what the fused call gives, and all relevance is passed on."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 3).double(), torch.randn(2, 4, 5, 3).double(), torch.randn(2, 4, 5, 3).double()
    masks = {
        "causal": torch.ones(5, 5).tril().log().double(),
        "boolean mask": torch.eye(5).log().double().roll(1, 0).logaddexp(torch.eye(5).log().double()),
        "float mask": torch.randn(5, 5).double(),
    }

    class Fused(nn.Module):
        def forward(self, x):
            arguments = {
                "causal": {"is_causal": True},
                "boolean mask": {"attn_mask": masks["boolean mask"].isfinite()},
                "float mask": {"attn_mask": masks["float mask"]},
                "grouped queries": {"enable_gqa": True},
            }.get(how, {})
            if how == "softmin":
                return F.softmin(-x @ k.mT * 3**-0.5, -1) @ v
            if how == "grouped queries":
                return F.scaled_dot_product_attention(x, k[:, ::2], v[:, ::2], **arguments)
            return F.scaled_dot_product_attention(x, k, v, **arguments)

    class SpeltOut(nn.Module):
        def forward(self, x):
            keys, values = k, v
            if how == "grouped queries":
                keys, values = (t[:, ::2].repeat_interleave(2, 1) for t in (k, v))
            logits = x @ keys.mT * 3**-0.5
            return torch.softmax(logits + masks.get(how, torch.zeros(())), dim=-1) @ values

    composite = sc.composites.get("epsilon", softmax="attnlrp-plus", epsilon=1e-12)
    found, expected = (
        sc.attribute(ReadOut(model()).double(), q, [0, 0], composite, start=torch.ones(2, 60).double(), account=True)
        for model in (Fused, SpeltOut)
    )
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.input, expected.input, rtol=1e-8, atol=1e-10)
    assert found.input.abs().sum() > 0
