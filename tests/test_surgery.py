"""Physical removal equals masking; compensation is exact in the mean."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from networks import user_net, zoo
from secateur.surgery import apply_edits, edits_of

FAST = ["resnet18", "vgg11-bn-32", "mobilenet_v2", "squeezenet1_1"]
SLOW = ["resnet50", "vgg11_bn", "densenet121", "efficientnet_b0", "googlenet", "regnet_y_400mf", "convnext_tiny",
        "shufflenet_v2_x1_0", "mobilenet_v3_small", "resnext50_32x4d"]  # fmt: skip


def plan_for(model, x, share, seed=0, **options):
    structure = sc.trace(model, x[:1])
    values = np.random.default_rng(seed).random(structure.num_units)
    return sc.select(sc.Scores(structure, values, "by hand"), sc.Budget(macs=share), **options)


def check_equal(name, share, seed, dtype, limit):
    model, x = zoo(name, seed)
    model, x = model.to(dtype), x.to(dtype)
    plan = plan_for(model, x, share, seed)
    slim, masked = sc.prune(model, plan), sc.mask(model, plan)
    a, b = slim(x), masked(x)
    assert float((a - b).detach().abs().max()) <= limit * max(1.0, float(b.detach().abs().max()))
    if dtype is not torch.float64:
        # a sum of fewer terms is rounded otherwise: a value next to zero may come to the other side of a ReLU, where
        # the gradient jumps (ResNet-50: 2e-3 of the largest in single precision, 2e-15 in double)
        return
    a.pow(2).sum().backward()
    b.pow(2).sum().backward()
    cuts = {}
    for cut in plan.cuts:
        cuts.setdefault(cut.tensor, []).append(cut)
    for (key, small), (_, big) in zip(slim.named_parameters(), masked.named_parameters(), strict=True):
        expected = big.grad
        for cut in cuts.get(key, ()):
            expected = expected.index_select(cut.dim, torch.from_numpy(cut.kept()))
        scale = max(1.0, float(expected.abs().max()))
        assert float((small.grad - expected).abs().max()) <= 100 * limit * scale, key


@pytest.mark.parametrize("name", FAST)
def test_surgery_equals_mask(name):
    check_equal(name, 0.5, 0, torch.float64, 1e-10)


@pytest.mark.parametrize("share", [0.8, 0.4])
def test_surgery_equals_mask_in_single_precision(share):
    check_equal("resnet20", share, 1, torch.float32, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST + SLOW)
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_surgery_equals_mask_everywhere(name, share, seed, dtype, limit):
    check_equal(name, share, seed, dtype, limit)


def test_the_original_is_untouched_and_a_users_network_is_pruned():
    model, x = user_net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plan = plan_for(model, x, 0.5)
    slim = sc.prune(model, plan)
    torch.testing.assert_close(slim(x), sc.mask(model, plan)(x), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert slim.grouped.groups * slim.grouped.weight.shape[1] == slim.grouped.in_channels == slim.point.out_channels


def test_pruning_twice_is_recorded_as_one():
    model, x = user_net()
    once = sc.prune(model, plan_for(model, x, 0.7))
    twice = sc.prune(once, plan_for(once, x, 0.6, seed=1))
    replayed = copy.deepcopy(model)
    apply_edits(replayed, edits_of(twice))
    assert torch.equal(replayed(x), twice(x))


def test_a_plan_for_another_network_is_refused():
    model, x = user_net()
    other, y = zoo("resnet20")
    with pytest.raises(sc.RequestError, match="another network"):
        sc.prune(model, plan_for(other, y, 0.5))
    # one whose cut layers are alike, but not the last one
    narrow, wide = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, n)) for n in (2, 3))
    plan = plan_for(narrow, torch.randn(2, 4), 0.5)
    for act in (sc.prune, sc.mask):
        with pytest.raises(sc.RequestError, match="its fingerprint is"):
            act(wide, plan)


class Reader(nn.Module):
    """One layer behind the cut, with borders, so that its mean is known."""

    def __init__(self, norm):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 4, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()

    def forward(self, x):
        return self.norm(self.b(torch.relu(self.a(x))))


@pytest.mark.parametrize("norm", [False, True])
def test_compensation_is_exact_in_the_mean(norm):
    torch.manual_seed(0)
    model = Reader(norm).double().eval()
    x = torch.randn(20, 3, 6, 6).double()
    reference = sc.ReferenceSet(x, torch.arange(20) % 2, tuple(range(20)))
    plan = plan_for(model, x, 0.5)
    for other in (sc.prune(model, plan), sc.mask(model, plan)):
        before = (other(x) - model(x)).detach().mean((0, 2, 3))
        sc.compensate(other, model, plan, reference, batch_size=7)
        after = (other(x) - model(x)).detach().mean((0, 2, 3))
        assert float(before.abs().max()) > 1e-2
        assert float(after.abs().max()) < 1e-12


def test_layers_without_bias_or_norm_get_one_and_reload(tmp_path):
    torch.manual_seed(0)

    def make():
        return nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)
        )

    model, x = make(), torch.randn(12, 4)
    reference = sc.ReferenceSet(x, torch.arange(12) % 2, tuple(range(12)))
    plan = plan_for(model, x, 0.4)
    slim = sc.compensate(sc.prune(model, plan), model, plan, reference)
    again = sc.load(sc.save(slim, tmp_path / "b"), model=make())
    assert torch.equal(again(x), slim(x))
    assert again[4].bias is not None


def test_recalibration_measures_the_statistics():
    model, _ = zoo("resnet20")
    x = torch.randn(64, 3, 16, 16)
    sc.recalibrate(model, x.split(32))
    stem = model.conv1(x)
    torch.testing.assert_close(model.bn1.running_mean, stem.mean((0, 2, 3)).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(sc.RequestError, match="without images"):
        sc.recalibrate(model, [])
