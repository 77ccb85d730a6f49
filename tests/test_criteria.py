"""The contract of criteria, and each against an independent formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
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
