"""The contract of criteria, and each against an independent formula."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from marks import some_slow
from networks import Attention, SelfAttention, Tokens
from secateur.criteria import Criterion, get, known
from secateur.criteria.contract import check_criterion
from secateur.data import ReferenceSet


@pytest.mark.parametrize("name", known())
def test_contract(name):
    check_criterion(name)


@pytest.mark.parametrize(
    "parameters",
    [{"composite": c} for c in ("epsilon-plus", "epsilon-plus-flat", "alpha2-beta1", "epsilon-gamma-box")]
    + [{"reduce": r} for r in ("abs", "signed", "abs-of-mean")]
    + [{"start": "one"}, {"at": "makers"}, {"normalise": "l2"}],
    ids=str,
)
def test_contract_of_lrp_variants(parameters):
    check_criterion(get("lrp", **parameters))


@pytest.fixture
def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    reference = ReferenceSet(torch.randn(9, 4).double(), torch.arange(9) % 3, tuple(range(9)))
    return model, sc.trace(model, reference.inputs[:1]), reference


def hidden(model, reference):
    h = F.relu(model[0](reference.inputs)).detach().requires_grad_(True)
    logits = model[2](h)
    return h, logits


def test_taylor_is_activation_times_gradient(setting):
    model, structure, reference = setting
    h, logits = hidden(model, reference)
    (g,) = torch.autograd.grad(F.cross_entropy(logits, reference.targets, reduction="sum"), h)
    expected = ((h * g) ** 2).mean(0).detach().numpy()
    np.testing.assert_allclose(sc.score(model, structure, reference, "taylor").values, expected, rtol=1e-10)
    centred = (((h - h.mean(0)) * g) ** 2).mean(0).detach().numpy()
    np.testing.assert_allclose(
        sc.score(model, structure, reference, "taylor", centred=True).values, centred, rtol=1e-10
    )
    plain = g.abs().mean(0).detach().numpy()
    np.testing.assert_allclose(sc.score(model, structure, reference, "grad").values, plain, rtol=1e-10)


def test_lrp_epsilon_is_share_of_the_logit(setting):
    model, structure, reference = setting
    tiny = sc.composites.get("epsilon", epsilon=1e-12)
    h, logits = hidden(model, reference)
    z = logits.gather(1, reference.targets[:, None])
    relevance = (h * model[2].weight[reference.targets] / z).detach()
    chosen = sc.criteria.get("lrp", reduce="abs", start="one", composite=tiny)
    found = sc.score(model, structure, reference, chosen).values
    np.testing.assert_allclose(found, relevance.abs().mean(0).numpy(), rtol=1e-8)


def test_weight_norms_and_activation(setting):
    model, structure, reference = setting
    w = model[0].weight.detach()
    np.testing.assert_allclose(sc.score(model, structure, reference, "weight").values, w.norm(dim=1).numpy())
    one = sc.score(model, structure, reference, sc.criteria.get("weight", p=1)).values
    np.testing.assert_allclose(one, w.abs().sum(1).numpy())
    h, _ = hidden(model, reference)
    h = h.detach()
    np.testing.assert_allclose(sc.score(model, structure, reference, "activation").values, h.mean(0).numpy())
    spread = sc.score(model, structure, reference, "activation", centred=True).values
    np.testing.assert_allclose(spread, h.std(0, correction=0).numpy())


def test_random_is_uniform_and_seeded(setting):
    model, structure, reference = setting
    draws = np.stack(
        [sc.score(model, structure, reference, sc.criteria.get("random", seed=s)).values for s in range(400)]
    )
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(draws.std() - 12**-0.5) < 0.02
    assert len(np.unique(draws)) == draws.size


def test_a_registered_criterion_is_used_and_held_to_its_scores(setting):
    model, structure, reference = setting

    @sc.register_criterion("test-broken")
    class Broken(Criterion):
        def unit_scores(self, model, structure, reference, *, centred, batch_size):
            return np.full(structure.num_units, np.nan)

    try:
        with pytest.raises(sc.SecateurError, match="non-finite scores.*layer '0'"):
            sc.score(model, structure, reference, "test-broken")
        with pytest.raises(AssertionError):
            check_shape_only("test-broken")
    finally:
        from secateur.criteria.base import _registry

        _registry.remove("test-broken")


def check_shape_only(name):
    try:
        check_criterion(name)
    except sc.SecateurError as error:
        raise AssertionError(str(error)) from error


def test_bad_requests(setting):
    model, structure, reference = setting
    with pytest.raises(sc.RequestError, match=r"unknown criterion 'lrpp'.*known: activation, apoz, .*grad, .*lrp"):
        sc.score(model, structure, reference, "lrpp")
    with pytest.raises(sc.RequestError, match="p must be 1 or 2"):
        sc.criteria.get("weight", p=3)
    model[0].weight.data[0, 0] = float("inf")
    with pytest.raises(sc.RequestError, match=r"'0\.weight' holds 1 NaN or infinite"):
        sc.score(model, structure, reference, "weight")


@pytest.mark.parametrize("name", known())
@pytest.mark.parametrize("block", [Attention, SelfAttention])
def test_heads_places_and_streams_are_scored(name, block):
    torch.manual_seed(0)
    model, x = Tokens(block()).eval(), torch.randn(12, 5, 6)
    reference = ReferenceSet(x, torch.arange(12) % 3, tuple(range(12)))
    structure = sc.trace(model, x[:1], stream=True)
    assert {g.kind for g in structure.groups} >= {"heads", "dims"}
    if name == "bn-scale" and block is SelfAttention:
        with pytest.raises(sc.RequestError, match="no removable unit passes a norm with a scale; take another"):
            sc.score(model, structure, reference, name)
        return
    values = sc.score(model, structure, reference, name).values
    for group in structure.groups:
        assert (values[group.units] != 0).all(), group.name


# what every layer reads, however the network is written


class Product(nn.Module):
    """Two hidden layers, the second one with a weight that is used in one of many spellings."""

    def __init__(self, spelling):
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Parameter(torch.randn(5, 6))
        self.register_buffer("zero", torch.zeros(6))
        self.head = nn.Linear(6, 3)
        self.spelling = spelling

    def forward(self, x):
        x = self.first(x).tanh()
        y = {
            "matmul": lambda: x @ self.second,
            "addmm": lambda: torch.addmm(self.zero, x.flatten(0, 1), self.second).unflatten(0, x.shape[:2]),
            "einsum": lambda: torch.einsum("btc,cd->btd", x, self.second),
            "linear": lambda: F.linear(x, self.second.T),
        }[self.spelling]()
        return self.head(y.tanh().mean(1))


@pytest.mark.parametrize("name", [n for n in known() if n not in ("bn-scale", "random")])
@pytest.mark.parametrize("spelling", ["matmul", "addmm", "einsum"])
def test_scores_do_not_depend_on_how_a_linear_layer_is_spelt(name, spelling):
    def scores(spelling):
        torch.manual_seed(0)
        model, x = Product(spelling).double(), torch.randn(6, 7, 4).double()
        reference = ReferenceSet(x, torch.arange(6) % 3, tuple(range(6)))
        return sc.score(model, sc.trace(model, x[:2]), reference, name).values

    values = scores(spelling)
    assert (values != 0).all()
    np.testing.assert_allclose(values, scores("linear"), rtol=1e-10)


class Hidden(nn.Module):
    """A layer that a function mode cannot see, or a product that is no linear layer."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.heads = nn.Parameter(torch.randn(6, 2, 3))
        self.head, self.how = nn.Linear(6, 3), how

    def forward(self, x):
        x = self.first(x).relu()
        if self.how == "three dimensions":
            return self.head(torch.einsum("nc,chd->nhd", x, self.heads).flatten(1).relu())
        with torch._C.DisableTorchFunction() if self.how == "unseen" else contextlib.nullcontext():
            x = self.second(x)
        return self.head(x.relu())


@pytest.mark.parametrize(
    "name", ["activation", "cap", "apoz", "ocap", "taylor", "grad", "sensitivity", "lrp", "weight", "fpgm", "lamp"]
)
def test_units_that_a_criterion_cannot_look_at_are_an_error(name):
    model, structure, reference = hidden_setting("three dimensions")
    with pytest.raises(sc.RequestError, match="layer 'heads'.*taylor-group, hessian, shapley"):
        sc.score(model, structure, reference, name)
    for other in ("taylor-group", "hessian", "shapley"):
        values = sc.score(model, structure, reference, other).values
        assert all((values[group.units] != 0).any() for group in structure.groups)


@pytest.mark.parametrize("name", ["activation", "cap", "apoz", "ocap", "taylor", "grad", "sensitivity", "lrp"])
def test_layers_that_cannot_be_seen_are_an_error(name):
    model, structure, reference = hidden_setting("unseen")
    with pytest.raises(sc.RequestError, match=r"layer 'second'|cannot be watched"):
        sc.score(model, structure, reference, name)


class Apart(nn.Module):
    """Linear layers with code between them that a function mode does not see."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)])
        self.hides = False

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = layer(x)
            with torch._C.DisableTorchFunction() if self.hides else contextlib.nullcontext():
                x = x.tanh() if number < 2 else x
        return x


def test_gradients_pass_code_that_cannot_be_seen():
    torch.manual_seed(0)
    model, x, y = Apart().double(), torch.randn(6, 4).double(), torch.arange(6) % 3
    plain = nn.Sequential(model.layers[0], nn.Tanh(), model.layers[1], nn.Tanh(), model.layers[2])
    structures = [sc.trace(m, x[:2]) for m in (model, plain)]
    model.hides = True
    for name in ("taylor", "grad"):
        found, expected = (
            sc.score(m, structure, ReferenceSet(x, y, tuple(range(6))), name).values
            for m, structure in zip((model, plain), structures, strict=True)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def hidden_setting(how):
    torch.manual_seed(0)
    model, x = Hidden("seen" if how == "unseen" else how), torch.randn(6, 4)
    structure = sc.trace(model, x[:2])  # which would lock what it cannot see
    model.how = how
    return model, structure, ReferenceSet(x, torch.arange(6) % 3, tuple(range(6)))


class PositionBias(nn.Module):
    """A small network makes a bias from positions alone, as in Swin V2: no layer of it depends on the inputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.make = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 6))
        self.register_buffer("places", torch.randn(7, 2))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head((self.stem(x) + self.make(self.places)).relu().mean(1))


@pytest.mark.parametrize("name", ["taylor", "grad", "lrp"])
def test_layers_that_do_not_depend_on_the_inputs(name):
    torch.manual_seed(0)
    model, x, y = PositionBias().double(), torch.randn(6, 7, 4).double(), torch.arange(6) % 3
    structure = sc.trace(model, x[:2])
    found = sc.score(model, structure, ReferenceSet(x, y, tuple(range(6))), name, batch_size=4)
    expected = []
    for sample, target in zip(x, y, strict=True):
        h = model.make[:2](model.places).detach().requires_grad_()
        logits = model.head((model.stem(sample) + model.make[2](h)).relu().mean(0, keepdim=True))
        goal = logits[0, target] if name == "lrp" else F.cross_entropy(logits, target[None])
        (g,) = torch.autograd.grad(goal, h)
        expected.append(g.sum(0).abs() if name == "grad" else (h * g).sum(0) ** 2)
    # LRP's stabilisers make a difference in the seventh digit
    np.testing.assert_allclose(
        found.group("make.0"), torch.stack(expected).mean(0).detach().numpy(), rtol=1e-4 if name == "lrp" else 1e-10
    )


@pytest.mark.parametrize("name", [n for n in known() if n != "bn-scale"])
def test_units_of_a_table_of_positions(name):
    """No layer makes them: criteria that go by what is made put them last, all others look where they are read."""
    torch.manual_seed(0)
    model, x = PositionBias(), torch.randn(6, 7, 4)
    structure = sc.trace(model, x[:2])
    scores = sc.score(model, structure, ReferenceSet(x, torch.arange(6) % 3, tuple(range(6))), name)
    table = next(group for group in structure.groups if group.size == 2)
    last = (scores.values[table.units] == scores.values.max()).all()
    assert last == (name in ("weight", "fpgm", "lamp", "cap", "apoz", "ocap"))
    assert last or len(np.unique(scores.values[table.units])) == 2


# token ids


class TokenNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Embedding(20, 24), nn.Embedding(8, 24)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 4, 16, batch_first=True), 2)
        self.head = nn.Linear(24, 3)

    def forward(self, ids):
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.encoder(x).mean(1))


def _transformer(name):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "num_labels": 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    bert = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    if name == "GPT2":
        config = transformers.GPT2Config(**sizes, n_embd=24, n_layer=2, n_head=4, n_inner=16, n_positions=8)
    elif name == "Llama":
        config = transformers.LlamaConfig(**sizes, **bert, num_key_value_heads=2, max_position_embeddings=8)
    else:
        config = transformers.BertConfig(**sizes, **bert, max_position_embeddings=8)
    return getattr(transformers, f"{name}ForSequenceClassification")(config)


def token_net(name):
    torch.manual_seed(0)
    model = (TokenNet() if name == "torch" else _transformer(name)).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    ids = torch.randint(1, 20, (6, 5))
    return model, sc.trace(model, ids[:2]), ReferenceSet(ids, torch.arange(6) % 3, tuple(range(6)))


@pytest.mark.parametrize("network", some_slow(["torch", "GPT2", "Llama", "Bert"], "GPT2", "Llama"))
def test_networks_of_token_ids_are_scored(network):
    """By every criterion: different finite scores, whatever the batches, in all groups; or one line."""
    model, structure, reference = token_net(network)
    for name in known():
        if name == "bn-scale":
            with pytest.raises(sc.RequestError, match="no removable unit passes a norm"):
                sc.score(model, structure, reference, name)
            continue
        values = sc.score(model, structure, reference, name).values
        if name != "shapley":  # takes long, and has its own test of batches
            split = sc.score(model, structure, reference, name, batch_size=4).values
            np.testing.assert_allclose(split, values, rtol=1e-6, err_msg=name)
        for group in structure.groups:
            assert len(np.unique(values[group.units])) > 1, (name, group.name)
    with pytest.raises(sc.RequestError, match="inputs must be floating point, got torch.int64"):
        sc.score(model, structure, reference, sc.criteria.get("lrp", composite="smoothgrad"))


def test_taylor_and_activation_of_a_gpt2_are_those_of_hooks():
    model, structure, reference = token_net("GPT2")
    layer, seen = model.transformer.h[0].mlp.c_proj, []

    def keep(module, args):
        args[0].retain_grad()
        seen.append(args[0])

    with layer.register_forward_pre_hook(keep):
        F.cross_entropy(model(reference.inputs).logits, reference.targets, reduction="sum").backward()
    a, g = seen[0].detach(), seen[0].grad
    for name, expected in (("taylor", ((a * g).sum(1) ** 2).mean(0)), ("activation", a.abs().mean((0, 1)))):
        found = sc.score(model, structure, reference, name).group("transformer.h.0.mlp.c_fc")
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8, err_msg=name)


# one logit


@pytest.mark.parametrize("name", [n for n in known() if n not in ("bn-scale", "random", "mixture")])
def test_one_logit_is_scored_as_two_logits_are(name):
    """A network with the one output f is scored as one with the logits 0 and f, where the loss is looked at."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    two = nn.Sequential(one[0], nn.Tanh(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        two[2].weight.copy_(torch.cat([torch.zeros_like(one[2].weight), one[2].weight]))
        two[2].bias.copy_(torch.cat([torch.zeros_like(one[2].bias), one[2].bias]))
    reference = ReferenceSet(torch.randn(8, 4).double(), torch.arange(8) % 2, tuple(range(8)))
    values = sc.score(one, sc.trace(one, reference.inputs), reference, name).values
    assert (values != 0).all()
    if name != "lrp":  # looks at the logit of the class: f or -f here, f or 0 there
        same = sc.score(two, sc.trace(two, reference.inputs), reference, name).values
        np.testing.assert_allclose(values, same, rtol=1e-10)


# bad input


def test_requests_for_scores_that_cannot_be_met(setting):
    model, structure, reference = setting
    with pytest.raises(sc.RequestError, match=r"one per unit of the structure, \[6\], got shape \[5\]"):
        sc.criteria.Scores(structure, np.ones(5), "mine")
    with pytest.raises(sc.RequestError, match=r"1 score\(s\) are not finite, first in layer '0'"):
        sc.criteria.Scores(structure, [1, 2, 3, float("nan"), 5, 6], "mine")
    assert sc.criteria.Scores(structure, torch.arange(6), "mine").values.dtype == np.float64
    with pytest.raises(sc.RequestError, match="scores must be what secateur.score returns, got ndarray"):
        sc.select(np.ones(6), sc.Budget(units=0.5))
    for size in (2.5, 0):
        with pytest.raises(sc.RequestError, match="batch_size must be"):
            sc.score(model, structure, reference, "taylor", batch_size=size)
    for inputs, targets, message in (
        ({"x": reference.inputs}, reference.targets, "inputs must be one tensor, samples first, got dict"),
        (torch.tensor(1.0), reference.targets, "inputs have no dimensions"),
        (
            reference.inputs,
            reference.targets.double(),
            r"one class index per sample, \[N\] integers, got torch.float64",
        ),
        (reference.inputs, reference.targets[:, None], r"of shape \[9, 1\]"),
        (reference.inputs, reference.targets.tolist(), "targets must be one tensor, samples first, got list"),
        (reference.inputs, torch.tensor(1), "targets have no dimensions"),
    ):
        with pytest.raises(sc.RequestError, match=message):
            ReferenceSet(inputs, targets, tuple(range(9)))
    dataset = torch.utils.data.TensorDataset(reference.inputs, reference.targets)
    with pytest.raises(sc.RequestError, match="per_class must be a positive integer, got 2.5"):
        ReferenceSet.sample(dataset, per_class=2.5)


@dataclass(frozen=True)
class Noise(Criterion):
    """A stochastic criterion as users write it."""

    seed: int = 7
    scale: float = 1.0
    name = "test-noise"
    equivariant = False

    def unit_scores(self, model, structure, reference, *, centred, batch_size):
        return np.random.default_rng(self.seed).random(structure.num_units) * self.scale


def test_criteria_that_draw_by_chance_take_the_seed_of_a_study():
    assert get("random").seeded(3) == get("random", seed=3)
    assert get("random", seed=0).seeded(3) == get("random", seed=0)  # a seed that was given stays
    assert get("shapley", permutations=2).seeded(3) == get("shapley", permutations=2, seed=3)
    assert get("weight", p=1).seeded(3) == get("weight", p=1)
    assert Noise(scale=2).seeded(3) == Noise(3, 2)
    assert Noise(1).seeded(3) == Noise(1)
    check_criterion(Noise())
    check_criterion(Noise(3))


def test_smoothed_relevance_takes_the_seed_of_a_study():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    x = torch.randn(9, 4)
    structure, reference = sc.trace(model, x[:1]), ReferenceSet(x, torch.arange(9) % 3, tuple(range(9)))
    smooth = get("lrp", composite="smoothgrad")
    first, again, second = (sc.score(model, structure, reference, smooth.seeded(seed)).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    own = get("lrp", composite=sc.composites.get("smoothgrad", seed=5))
    assert own.seeded(1) == own


def test_the_contract_asks_for_a_seed_of_whatever_draws_by_chance():
    class Hidden(Noise):
        def seeded(self, seed):
            return self

    class Deaf(Noise):
        def unit_scores(self, model, structure, reference, *, centred, batch_size):
            return Noise(0).unit_scores(model, structure, reference, centred=centred, batch_size=batch_size)

    class Unseeded(Criterion):
        name, equivariant = "test-unseeded", False

        def unit_scores(self, model, structure, reference, *, centred, batch_size):
            return np.random.default_rng(0).random(structure.num_units)

    check_criterion(Hidden())  # a seed of its own that stays
    with pytest.raises(AssertionError, match="scores are the same for another seed"):
        check_criterion(Deaf())
    with pytest.raises(AssertionError, match="draws by chance, but not by a seed; give it a field 'seed'"):
        check_criterion(Unseeded())


class Auxiliary(nn.Module):
    """A second head that runs in training only."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.auxiliary = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        x = self.body(x).tanh()
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


@pytest.mark.parametrize("name", ["lrp", "taylor", "grad", "sensitivity", "activation", "cap", "apoz", "ocap"])
def test_units_of_a_head_for_training_come_last(name):
    torch.manual_seed(0)
    model, x = Auxiliary().double(), torch.randn(6, 4).double()
    reference = ReferenceSet(x, torch.arange(6) % 3, tuple(range(6)))
    structure = sc.trace(model, x[:2])
    scores = sc.score(model, structure, reference, name)
    plain = nn.Sequential(model.body, nn.Tanh(), model.head)
    expected = sc.score(plain, sc.trace(plain, x[:2]), reference, name).values
    np.testing.assert_allclose(scores.group("body"), expected, rtol=1e-10)
    if "auxiliary.0" in {group.name for group in structure.groups}:
        assert (scores.group("auxiliary.0") == expected.max() + 1).all()


def test_a_layer_that_some_samples_alone_run_is_scored():
    """Which experts run depends on the samples; one that none of them runs comes last."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(4, 7)])
            self.heads = nn.ModuleList([nn.Linear(5, 3), nn.Linear(6, 3), nn.Linear(7, 3)])
            self.chosen = range(3)

        def forward(self, x):
            found = [self.heads[i](self.experts[i](x).tanh()) for i in self.chosen]
            return torch.stack(found).sum(0)

    torch.manual_seed(0)
    model, x = Experts().double(), torch.randn(6, 4).double()
    structure = sc.trace(model, x[:2])
    model.chosen = (0, 2)
    reference = ReferenceSet(x, torch.arange(6) % 3, tuple(range(6)))
    for name in ("taylor", "activation", "cap"):
        scores = sc.score(model, structure, reference, name)
        others = np.concatenate([scores.group("experts.0"), scores.group("experts.2")])
        assert (scores.group("experts.1") == others.max() + 1).all()
        assert (others > 0).all()


def test_a_mixture_is_the_mean_of_ranks(setting):
    from scipy.stats import rankdata

    model, structure, reference = setting
    parts = [sc.score(model, structure, reference, name).values for name in ("lrp", "weight")]
    expected = (3 * rankdata(parts[0]) + rankdata(parts[1])) / 4 / 6
    mixed = get("mixture", of=["lrp", "weight"], weights=[3, 1])
    np.testing.assert_allclose(sc.score(model, structure, reference, mixed).values, expected, rtol=1e-12)


def test_a_mixture_draws_anew_for_another_seed(setting):
    model, structure, reference = setting
    mixed = get("mixture", of=["random", "weight"])
    one, two, again = (sc.score(model, structure, reference, mixed.seeded(seed)).values for seed in (1, 2, 1))
    assert (one == again).all()
    assert (one != two).any()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"of": ["lrp"]}, "two criteria at least"),
        ({"of": "lrp"}, "two criteria at least"),
        ({"of": ["lrp", "nothing"]}, "unknown criterion 'nothing'"),
        ({"of": ["lrp", "weight:q=1"]}, "q"),
        ({"weights": [1]}, "a positive weight for each of its 2 criteria"),
        ({"weights": [1, 0]}, "a positive weight for each of its 2 criteria"),
    ],
)
def test_wrong_mixtures_are_refused(parameters, message):
    with pytest.raises(sc.RequestError, match=message):
        get("mixture", **parameters)
