"""Rules of operations: what is pruned equals what is masked, or is locked with the reason, or refused in one line."""

from __future__ import annotations

from collections import UserDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode

import secateur as sc
from secateur.structure.tracing import watched


class Net(nn.Module):
    """Layers for `code`, which says what is done with them."""

    def __init__(self, code, **modules):
        super().__init__()
        self.code = code
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.code(self, *args, **kwargs)


def assert_pruned_equals_masked(net, x, seeds=3):
    """On fresh inputs and another number of samples; the structure."""
    net = net.double().eval()
    structure = sc.trace(net, x)
    for seed in range(seeds):
        keep = np.random.default_rng(seed).random(structure.num_units) < 0.6
        keep[[group.first for group in structure.groups]] = True
        keep[structure.groups[-1].first + structure.groups[-1].size - 1] = False
        plan = sc.Plan.of(structure, keep, {}, "by hand", "none")
        slim, masked = sc.prune(net, plan, check=False), sc.mask(net, plan)
        fresh = torch.randn(x.shape[0] + 2, *x.shape[1:]).double()
        with torch.no_grad():
            torch.testing.assert_close(slim(fresh), masked(fresh), rtol=1e-9, atol=1e-9)
    return structure


def reasons(net, x):
    """Why layers are locked; empty: nothing can go, and the error says so."""
    try:
        return " ".join(item.reason for item in sc.trace(net.double().eval(), x).locked)
    except sc.RequestError as error:
        if "no prunable units" not in str(error):
            raise
        return str(error)


def exact_or_locked(net, x, seeds=3):
    """Whether anything could go; then it went exactly."""
    try:
        assert_pruned_equals_masked(net, x, seeds)
    except sc.RequestError as error:
        if "no prunable units" not in str(error):
            raise
        return False
    return True


# -- functions of one activation, in every place where a removed unit could leave something behind ------------------


def places(f):
    """A network by where ``f`` stands; h and g have the same units."""

    def code(self, x):
        h, g = self.h(x), self.g(x)
        product = {
            "between layers": lambda: self.out(f(h)),
            "one factor": lambda: (f(h)[:, None] @ g[:, :, None])[:, 0],
            "both factors": lambda: (f(h)[:, None] @ f(g)[:, :, None])[:, 0],
            "beside a buffer": lambda: ((h + self.table)[:, None] @ f(g)[:, :, None])[:, 0],
            "beside a column": lambda: ((h + x[:, :1])[:, None] @ f(g)[:, :, None])[:, 0],
            "weight": lambda: F.linear(f(h), f(self.out.weight)),
            "gate": lambda: self.out(f(h) * f(g)),
            "keys": lambda: f(g)[:, None] @ (f(h)[:, :, None] @ x[:, None]),
        }
        return product[self.place]()

    for place in ("between layers", "one factor", "both factors", "beside a buffer", "beside a column", "weight",
                  "gate", "keys"):  # fmt: skip
        torch.manual_seed(0)
        net = Net(code, h=nn.Linear(4, 8), g=nn.Linear(4, 8), out=nn.Linear(8, 3))
        net.register_buffer("table", torch.randn(8))
        net.place = place
        yield net


def places_of(x):
    """Numbers along the units."""
    return torch.arange(x.shape[1]) + 0.0


def squeezed(x):
    return x.clone().unsqueeze(0).squeeze_(0)


def written_through_a_view(x):
    x = x.clone()
    x.view(-1).sigmoid_()
    return x


def into_an_older_view(x):
    made = torch.zeros(x.shape, dtype=x.dtype)
    first = made[:, :4]
    made.copy_(x)
    return torch.cat([first, x[:, 4:]], 1)


FUNCTIONS = {
    "identity": lambda x: x,
    "exp": torch.exp,
    "add 1": lambda x: x + 1,
    "add ones": lambda x: x + torch.ones_like(x),
    "above -1": lambda x: (x > -1).to(x.dtype),
    "not": lambda x: torch.logical_not(x).to(x.dtype),
    "power 0": lambda x: x.pow(0),
    "2 to the": lambda x: 2**x,
    "power -1": lambda x: x.abs().pow(-1),
    "log": lambda x: x.abs().log(),
    "reciprocal": torch.reciprocal,
    "0 / 0": lambda x: x / x,
    "clamp at 0.1": lambda x: x.clamp(min=0.1),
    "clamp by place": lambda x: x.clamp(min=places_of(x) / 9),
    "clamp at 0": lambda x: x.clamp(min=0),
    "threshold": lambda x: F.threshold(x, 0.1, 5.0),
    "log sigmoid": F.logsigmoid,
    "maximum": lambda x: torch.maximum(x, torch.tensor(0.2).double()),
    "where": lambda x: torch.where(x > 0, x, -1.0),
    "where 0": lambda x: torch.where(x > 0, x, 0.0),
    "where by place": lambda x: torch.where(places_of(x) < 3, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0.2, 1.0),
    "masked_fill by place": lambda x: x.masked_fill(places_of(x) < 3, 0.0),
    "masked_fill_ by place": lambda x: x.clone().masked_fill_(places_of(x) < 3, 0.0),
    "times place": lambda x: x * places_of(x),
    "lerp by place": lambda x: torch.lerp(x, x * 2, places_of(x).double()),
    "gather by place": lambda x: x.gather(0, (places_of(x)[None] % 2).long()),
    "taken by value": lambda x: torch.tensor([0.1, 5.0, -3.0]).double()[x.round().long().clamp(0, 2)],
    "embedded by value": lambda x: F.embedding(x.round().long().clamp(0, 2), torch.ones(3, 1).double())[..., 0],
    "identity matrix": lambda x: x @ torch.eye(x.shape[1], dtype=x.dtype),
    "restrided": lambda x: x.contiguous().as_strided(x.shape, (1, x.shape[0])),
    "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
    "statistics alone": lambda x: F.batch_norm(x, torch.ones(8).double(), torch.ones(8).double()),
    "normalised": lambda x: F.normalize(x, dim=1),
    "sorted": lambda x: x.sort(1)[0],
    "largest": lambda x: x - x.amax(1, keepdim=True),
    "cosine": lambda x: x * F.cosine_similarity(x, x + 1)[:, None],
    "squeeze_": squeezed,
    "through a view": written_through_a_view,
    "into an older view": into_an_older_view,
    "out": lambda x: torch.exp(x, out=torch.empty_like(x)),
    "data": lambda x: x * x.data.mean(1, keepdim=True),
    "vmap": lambda x: torch.vmap(lambda row: row.exp())(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_leaves_of_a_removed_unit_is_exact_or_locked(name):
    x = torch.randn(3, 4).double()
    exact = sum(exact_or_locked(net, x) for net in places(FUNCTIONS[name]))
    if name in ("identity", "clamp at 0", "where 0", "squeeze_"):
        assert exact == 8
    if name in ("exp", "add 1", "where", "threshold", "log sigmoid"):
        assert exact >= 3  # between layers, as one factor, as a gate


def test_random_networks_from_functions():
    """Two functions in a row, in every place."""
    random = np.random.default_rng(0)
    names, x = list(FUNCTIONS), torch.randn(3, 4).double()
    for _ in range(12):
        first, second = (FUNCTIONS[str(n)] for n in random.choice(names, 2))
        for net in places(lambda x, first=first, second=second: second(first(x))):
            exact_or_locked(net, x, seeds=1)


# -- rules that pass units on ---------------------------------------------------------------------------------------


def test_positive_weights_and_computed_keys_are_locked_with_the_reason():
    class Positive(nn.Linear):
        def forward(self, x):
            return F.linear(x, F.softplus(self.weight), self.bias)

    net = nn.Sequential(Positive(4, 8), nn.Sigmoid(), Positive(8, 3))
    assert "neither of which is zero" in reasons(net, torch.randn(2, 4).double())

    def linear_attention(self, x):
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        return self.out(q @ (k.mT @ self.v(x)))

    net = Net(linear_attention, q=nn.Linear(4, 8), k=nn.Linear(4, 8), v=nn.Linear(4, 6), out=nn.Linear(6, 2))
    structure = assert_pruned_equals_masked(net, torch.randn(2, 5, 4).double())
    assert [(group.name, group.size) for group in structure.groups] == [("v", 6)]


@pytest.mark.parametrize(
    "code",
    [
        lambda self, x: self.two(F.pixel_shuffle(self.conv(x)[0], 2).mean((1, 2))[None]),
        lambda self, x: self.out(F.avg_pool2d(self.conv(x)[0], 2).mean((1, 2))[None]),
        lambda self, x: self.out(F.unfold(self.conv(x)[0], 1).mean(1)[None]),
        lambda self, x: self.out(self.conv(x).unsqueeze(0).squeeze_(0).mean((2, 3))),
        lambda self, x: self.out(self.conv(x)[x[:, 0, 0, 0] < 9].mean((2, 3))),
        lambda self, x: torch.vmap(lambda row: self.out(row.mean((1, 2))))(self.conv(x)),
    ],
    ids=["pixel shuffle without samples", "pooling without samples", "patches without samples", "squeeze_",
         "booleans of samples", "vmap"],
)  # fmt: skip
def test_units_pass_in_spellings_that_are_rare(code):
    net = Net(code, conv=nn.Conv2d(3, 8, 1), two=nn.Linear(2, 3), out=nn.Linear(8, 3)).double().eval()
    x = torch.randn(1, 3, 4, 4).double()
    structure = sc.trace(net, x)
    keep = np.arange(structure.num_units) > 0
    plan = sc.Plan.of(structure, keep, {}, "by hand", "none")
    torch.testing.assert_close(sc.prune(net, plan, check=False)(x), sc.mask(net, plan)(x), rtol=1e-9, atol=1e-9)
    assert [group.layers for group in structure.groups] == [("conv",)]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (lambda self, x: F.avg_pool2d(self.mix(x.mT), 3, 1, 1).mean(1) @ self.out, "window of avg_pool2d"),
        (lambda self, x: (x.mean(1), x[:, 0, 0].clone().expand(8, -1).mT[self.mix(x.mT)[:, 0] > 0].sum()), "indexed"),
        (lambda self, x: (self.mix(x.mT).mean(1) @ self.out, self.mix.weight.tolist()), "read by 'tolist'"),
    ],
    ids=["pooling", "booleans of units", "lists of weights"],
)
def test_what_cannot_be_followed_is_locked(code, reason):
    net = Net(code, mix=nn.Linear(5, 8), out=nn.Parameter(torch.randn(8, 2)))
    assert reason in reasons(net, torch.randn(2, 5, 4).double())


# -- layers whose code lies outside of what can be followed ---------------------------------------------------------


def experts(self, x):
    """The two best of three experts, picked by ``gather``."""
    weights, best = self.gate(x).softmax(-1).topk(2, -1)
    made = torch.stack([expert(x) for expert in self.experts], 1)
    picked = made.gather(1, best[..., None].expand(-1, -1, made.shape[-1]))
    return self.out((picked * weights[..., None]).sum(1))


def recurrent(kind):
    return lambda: Net(
        lambda self, x: self.out(self.cells(self.into(self.free(x).relu()).relu())[0]),
        free=nn.Linear(4, 5), into=nn.Linear(5, 8), cells=kind(8, 6, batch_first=True), out=nn.Linear(6, 2),
    )  # fmt: skip


def old(norm):
    return lambda: nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), norm(nn.Linear(5, 8)), nn.ReLU(), norm(nn.Linear(8, 6)), nn.Linear(6, 2)
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize(
    ("make", "shape", "free", "reason"),
    [
        (recurrent(nn.GRU), (2, 5, 4), "free", "recurrent layer ('gru')"),
        (recurrent(nn.RNN), (2, 5, 4), "free", "recurrent layer ('rnn_tanh')"),
        (recurrent(nn.LSTM), (2, 5, 4), "free", "recurrent layer ('lstm')"),
        (old(nn.utils.weight_norm), (2, 4), None, "weight norm"),
    ],
    ids=["gru", "rnn", "lstm", "weight_norm"],
)
def test_recurrent_and_hooked_layers_are_locked_with_the_reason(make, shape, free, reason):
    net, x = make(), torch.randn(shape).double()
    assert reason in reasons(net, x)
    if free:
        assert [group.name for group in assert_pruned_equals_masked(net, x).groups] == [free]


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*deprecated")
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm], ids=["old", "new"])
def test_spectral_norms_keep_the_length_of_what_is_masked(norm):
    net, x = old(norm)(), torch.randn(2, 4).double()
    structure = assert_pruned_equals_masked(net, x)
    assert [group.size for group in structure.groups] == [5, 8, 6]
    plan = sc.Plan.of(structure, np.arange(19) % 3 > 0, {}, "by hand", "none")
    slim, masked = sc.prune(net, plan).train(), sc.mask(net, plan).train()
    for _ in range(2):  # each call brings the vectors of the norm up to date
        torch.testing.assert_close(slim(x), masked(x), rtol=1e-9, atol=1e-9)


def test_experts_that_gather_picks_are_locked_with_the_reason():
    parts = {"gate": nn.Linear(4, 3), "experts": nn.ModuleList(nn.Linear(4, 8) for _ in range(3))}
    found = reasons(Net(experts, **parts, out=nn.Linear(8, 2)), torch.randn(2, 4).double())
    assert "indexed at positions that are given for every unit" in found


@pytest.mark.parametrize("how", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_weights_can_go(how):
    orthogonal = nn.utils.parametrizations.orthogonal
    net = nn.Sequential(orthogonal(nn.Linear(4, 8), orthogonal_map=how), nn.ReLU(), nn.Linear(8, 2))
    assert [g.size for g in assert_pruned_equals_masked(net, torch.randn(2, 4).double()).groups] == [8]


# -- reads values ------------------------------------------------------------------------------------------------


def two():
    return {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2)}


def test_looks_at_inputs_are_noted():
    def code(self, x, mask):
        if not mask.all():
            x = x * mask[..., None]
        return self.b(self.a(x / 255 if x.max() > 100 else x))

    net = Net(code, **two())
    example = {"x": torch.randn(2, 3, 4), "mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    assembly, _ = watched(net, [((), example)])
    assert all("reads values of inputs" in note for note in assembly.rules.peeks)
    assert len(assembly.rules.peeks) == 1
    assert [group.size for group in sc.trace(net, example).groups] == [8]


@pytest.mark.parametrize(
    "code",
    [
        lambda self, x: self.b(self.a(x) if self.a(x).mean() > 0 else -self.a(x)),
        lambda self, x: self.b(self.a(x) * self.a(x).tolist()[0][0]),
        lambda self, x: self.b(torch.from_numpy(self.a(x).numpy())),
        lambda self, x: self.b(self.a(x)) * torch.tensor([self.a(x).mean(), 1.0]),
        lambda self, x: self.b(self.a(x)) if torch.zeros(2).index_fill_(0, torch.tensor(0), self.a(x).mean())[0] else x,
    ],
    ids=["if", "tolist", "numpy", "torch.tensor", "through a tensor of the code"],
)
def test_looks_at_activations_are_refused(code):
    with pytest.raises(sc.RequestError, match="reads values of activations"):
        sc.trace(Net(code, **two()), torch.randn(2, 4))


def test_values_written_into_parts_of_tensors_remain_activations():
    def code(self, x):
        kept = torch.zeros(2)
        kept[0] = self.a(x).mean()
        return self.b(self.a(x) * (2 if kept.sum() > 0 else 1))

    with pytest.raises(sc.RequestError, match="reads values of activations"):
        sc.trace(Net(code, **two()), torch.randn(2, 4))


def test_buffers_that_forward_updates_come_back():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("mean", torch.zeros(8))
            self.register_buffer("last", torch.zeros(2, 8), persistent=False)

        def forward(self, x):
            h = self.a(x)
            self.calls += 1
            self.mean.mul_(0.9).add_(0.1 * h.mean(0))
            self.last = h
            return self.b(h)

    net = Counting().double()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    structure = sc.trace(net, torch.randn(2, 4).double())
    sc.prune(net, sc.Plan.of(structure, np.arange(8) > 2, {}, "by hand", "none"))
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


# -- requests -------------------------------------------------------------------------------------------------------


def plain():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(10, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, input_ids=None, attention_mask=None):
        return self.b(self.a(self.table(input_ids)).relu().mean(1))


def made_in_inference_mode():
    with torch.inference_mode():
        return plain()


def made_of_fake_tensors():
    with FakeTensorMode():
        return plain()


def with_a_sparse_weight():
    net = plain()
    net[0].weight = nn.Parameter(net[0].weight.detach().to_sparse())
    return net


def compiled():
    """As `torch.compile` gives it, without the time that its import takes."""
    net = Net(lambda self, x: self._orig_mod(x))
    net._orig_mod = plain()
    return net


def nested(self, x):
    return self.b(torch.nested.nested_tensor(list(self.a(x))).to_padded_tensor(0))


class Quantised(nn.Module):
    __module__ = "torch.ao.nn.quantized.dynamic.modules.linear"


X = torch.randn(2, 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("make", "example", "message"),
    [
        (lambda: nn.Sequential(torch.jit.script(nn.Linear(4, 8)), nn.Linear(8, 2)), X, "'0' is scripted or traced"),
        (lambda: nn.Sequential(torch.jit.trace(nn.Linear(4, 8), X), nn.Linear(8, 2)), X, "'0' is scripted or traced"),
        (compiled, X, "the network is compiled"),
        (lambda: nn.Sequential(Quantised(), nn.Linear(4, 2)), X, "'0' .Quantised. is quantised; prune first"),
        (lambda: plain().to("meta"), X, "'0.weight' is on the meta device"),
        (made_of_fake_tensors, X, "'0.weight' is a FakeTensor"),
        (made_in_inference_mode, X, "'0.weight' was made inside torch.inference_mode"),
        (with_a_sparse_weight, X, "'0.weight' is a sparse tensor"),
        (lambda: nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 2)), X, "'0.weight' has no shape yet"),
        (plain, X.to_sparse(), "must be dense tensors with values"),
        (plain, X.to("meta"), "must be dense tensors with values"),
        (plain, X[:0], "has no samples"),
        (plain, {0: X}, "names arguments by strings"),
        (lambda: Net(lambda self, x: torch.cond(x.sum() > 0, self.a, self.a, (x,)), **two()), X, "cond'|Unsupported"),
        (lambda: Net(nested, **two()), X, "makes nested tensors"),
    ],
    ids=["scripted", "jit-traced", "compiled", "quantised", "meta", "fake", "inference", "sparse", "lazy",
         "sparse input", "meta input", "no samples", "argument names", "cond", "nested"],
)  # fmt: skip
def test_what_cannot_be_traced_is_refused_in_one_line(make, example, message):
    with pytest.raises(sc.RequestError, match=message) as caught:
        sc.trace(make(), example)
    assert "\n" not in str(caught.value)


def test_parameters_that_share_memory_with_any_other_are_refused():
    memory = torch.randn(12)
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer, start in zip(net, (0, 6, 2), strict=True):
        layer.weight = nn.Parameter(memory[start : start + 4].view(2, 2))
    with pytest.raises(sc.RequestError, match="share memory"):
        sc.trace(net, torch.randn(1, 2))


def test_examples_of_every_form():
    ids, mask = torch.randint(0, 10, (2, 5)), torch.ones(2, 5)
    words = UserDict(input_ids=ids, attention_mask=mask)
    assert [group.size for group in sc.trace(Words(), words).groups] == [6, 8]
    made = Net(lambda self: self.b(self.a(self.start).relu()), **two(), start=nn.Parameter(torch.randn(3, 4)))
    assert 8 in [group.size for group in sc.trace(made, ()).groups]
    scalar = Net(lambda self, t: self.b(self.a(t.expand(1, 4)).relu()), **two())
    assert [group.size for group in sc.trace(scalar, torch.tensor(0.5)).groups] == [8]
    with torch.inference_mode():
        found = sc.trace(net := plain_outside, X)
    assert [group.size for group in found.groups] == [8]
    assert not net[0].weight.is_inference()


plain_outside = plain()


def test_a_trace_draws_no_random_numbers():
    net = Net(lambda self, x: self.b(F.dropout(self.a(x).sigmoid(), 0.5, self.training)), **two())
    before = torch.get_rng_state()
    sc.trace(net, X)
    assert torch.equal(torch.get_rng_state(), before)


def test_tables_that_are_sliced_at_values_of_tensors_keep_their_rows():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.table = nn.Linear(4, 8), nn.Linear(8, 3), nn.Embedding(16, 8)
            self.register_buffer("span", torch.tensor(3), persistent=False)

        def forward(self, x):
            rows = self.table.weight[8 - self.span : 8 + self.span, :]
            return self.b(torch.relu(self.a(x)) + rows.mean(0))

    torch.manual_seed(0)
    model, x = Table().double(), torch.randn(2, 4).double()
    structure = sc.trace(model, x)
    assert all(group.size <= 8 for group in structure.groups)
    plan = sc.select(sc.Scores(structure, np.arange(float(structure.num_units)), "by hand"), sc.Budget(units=0.5))
    slim = sc.prune(model, plan)
    assert slim.table.weight.shape[0] == 16
    torch.testing.assert_close(slim(x), sc.mask(model, plan)(x), rtol=1e-10, atol=1e-12)
