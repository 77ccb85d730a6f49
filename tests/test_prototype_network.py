"""Prototype networks: on any backbone, exact through pruning and bundles, with relevance through the similarities."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import secateur as sc
from secateur.attribution.similarity import similarity_relevance
from secateur.data import LabelledImages, Normalisation
from secateur.models.feature_map import FeatureMap
from secateur.models.prototype_network import PrototypeNetwork, similarity_maps
from secateur.prototypes import (
    PrototypePruneSettings,
    PrototypeTrainSettings,
    explain_images,
    project,
    prune_prototypes,
    train_prototypes,
)

HF = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
SMALL = [
    pytest.param("resnet20", 32, {}, (64, (8, 8)), marks=pytest.mark.slow),
    ("vgg11-bn-32", 32, {"width": 8}, (64, (2, 2))),
    ("timm/vit_tiny_patch16_224", 32, TIMM, (48, (4, 4))),
    (
        "transformers/ViTForImageClassification",
        32,
        {"config": {**HF, "intermediate_size": 64}},
        (32, (4, 4)),
    ),
]
LARGE = [
    "torchvision/resnet18",
    "torchvision/resnet34",
    "torchvision/resnet50",
    "torchvision/vgg11",
    "torchvision/vgg16",
    "torchvision/vgg19_bn",
    "torchvision/densenet121",
    "torchvision/densenet161",
    "torchvision/convnext_tiny",
    "torchvision/swin_t",
    "torchvision/mobilenet_v3_small",
    "torchvision/efficientnet_b0",
    "timm/vit_tiny_patch16_224",
]


def network(**arguments: object) -> PrototypeNetwork:
    torch.manual_seed(0)
    given = {"num_classes": 3, "backbone": "resnet20", "per_class": 2, "channels": 8} | arguments
    made = sc.build("prototype-network", **given)
    assert isinstance(made, PrototypeNetwork)
    return made


def reference(side: int = 32, count: int = 12) -> sc.ReferenceSet:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(count, 3, side, side, generator=generator), torch.arange(count) % 3)
    return sc.ReferenceSet.sample(data, per_class=count // 3)


def from_training_to_explanation(net: PrototypeNetwork, side: int, share: float, folder: Path) -> None:
    """A step of training, projection, pruning of prototypes and of the backbone, bundle, explanation."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, side, side, 3), np.uint8)
    data = LabelledImages(pixels, np.arange(12) % 3, ("a", "b", "c"), Normalisation((0.5,) * 3, (0.25,) * 3))
    once = PrototypeTrainSettings(epochs=1, warm_epochs=0, batch_size=12, last_iterations=1)
    before = {name: p.clone() for name, p in net.named_parameters()}
    train_prototypes(net, data, None, once, progress=False)
    assert any(not torch.equal(p, before[name]) for name, p in net.features.named_parameters(prefix="features"))
    asked = PrototypePruneSettings(criterion="none", disable=(1,), last_iterations=1)
    fewer = prune_prototypes(net, data, data, asked, progress=False).network
    samples = sc.ReferenceSet.sample(data, per_class=4)
    best = sc.compress(
        fewer, samples, sc.Budget(macs=share), criterion="lrp", settings=sc.PruneSettings(protect=("prototypes",)),
        progress=False,
    )  # fmt: skip
    assert best.plan.achieved["macs"] <= share
    slim = best.model
    assert isinstance(slim, PrototypeNetwork)
    project(slim, data, progress=False)
    again = sc.load(sc.save(slim, folder / "bundle"))
    x = data.batch(range(4))[0]
    torch.testing.assert_close(again(x), slim(x), rtol=0, atol=0)
    found = explain_images(again, x, top=5, progress=False)[0]
    assert {evidence.prototype for evidence in found.evidence} == {0, 2, 3, 4, 5}
    assert sum(e.contribution for e in found.evidence) == pytest.approx(found.logits[found.target], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("backbone", "side", "arguments", "expected"), SMALL, ids=[getattr(row, "values", row)[0] for row in SMALL]
)
def test_any_backbone_trains_prunes_and_reloads(backbone, side, arguments, expected, tmp_path) -> None:
    net = network(backbone=backbone, image_size=side, backbone_arguments=arguments)
    assert (net.features.place.channels, net.features.place.size) == expected
    from_training_to_explanation(net, side, 0.6, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", LARGE)
def test_torchvision_backbones(backbone: str, tmp_path) -> None:
    side = 224 if "vit" in backbone else 64
    from_training_to_explanation(network(backbone=backbone, image_size=side), side, 0.5, tmp_path)


def test_the_head_of_the_backbone_is_gone() -> None:
    net = network()
    assert isinstance(net.features.network.fc, nn.Identity)
    assert not any(name.startswith("features.network.fc") for name in net.state_dict())


def test_the_map_ends_where_asked() -> None:
    net = network(at="layer2")
    assert net.features.place.size == (16, 16)
    assert isinstance(net.features.network.layer3, nn.Identity)


def test_channels_last_maps_and_other_output_sizes() -> None:
    class ChannelsLast(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    inner = nn.Sequential(nn.Conv2d(3, 7, 3), ChannelsLast())
    features = FeatureMap(inner, torch.zeros(1, 3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(features(x), inner[0](x))
    assert features(torch.rand(1, 3, 9, 9)).shape == (1, 7, 7, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at": "layer9"}, "no module 'layer9'"),
        ({"at": "fc"}, "does not give a feature map"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"size": (9, 9)}, "do not fit the feature map of 8x8"),
        ({"add_on": "none", "channels": 8}, "have the map's 64 channels"),
        ({"add_on": "deep"}, "known: bottleneck, plain, none"),
        ({"similarity": "dot"}, "known: log, linear, cosine"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(sc.RequestError, match=message):
        network(**arguments)


@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (6, 8), (8, 8)])
@pytest.mark.parametrize("channels", [6, 8, 11])
def test_layouts_are_told_apart_by_the_proportions_of_the_image(rows: int, columns: int, channels: int) -> None:
    class Last(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1).contiguous()

    example = torch.zeros(1, 3, 4 * rows, 4 * columns)
    convolution = nn.Conv2d(3, channels, 4, 4)
    assert FeatureMap(nn.Sequential(convolution), example).place.size == (rows, columns)
    if channels != rows:  # as long in all directions: taken for channels first
        place = FeatureMap(nn.Sequential(convolution, Last()), example).place
        assert (place.size, place.channels, place.layout) == ((rows, columns), channels, "channels-last")


def test_maps_without_weights_before_them_work() -> None:
    features = FeatureMap(nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 8, 8))
    assert features(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 2, 2)
    assert isinstance(features.network[2], nn.Identity)


def test_the_network_given_stays_as_it_is() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).train()
    inner[1].eval()
    FeatureMap(inner, torch.zeros(1, 3, 8, 8))
    assert [m.training for m in inner] == [True, False, True, True]
    assert isinstance(inner[3], nn.Linear)


def test_a_backbone_without_a_map_is_refused() -> None:
    with pytest.raises(sc.RequestError, match="no module of the network gives a feature map"):
        FeatureMap(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.zeros(1, 3, 4, 4))


def test_a_bundle_from_a_stranger_fetches_nothing(tmp_path) -> None:
    from secateur.models.building import rebuild

    arguments = {"backbone": "torchvision/resnet18", "backbone_arguments": {"weights": "DEFAULT"}}
    with pytest.raises(sc.RequestError, match="would fetch weights"):
        rebuild({"name": "prototype-network", "arguments": arguments})


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_similarities_are_those_of_the_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    x, weight = torch.rand(2, 5, 6, 7), torch.rand(4, 5, *size)
    height, width = 6 - size[0] + 1, 7 - size[1] + 1
    for kind in ("log", "linear", "cosine"):
        maps = similarity_maps(x, weight, kind)
        assert maps.shape == (2, 4, height, width)
        for n, p, i, j in [(0, 0, 0, 0), (1, 3, height - 1, width - 1), (1, 2, 1, 2)]:
            patch = x[n, :, i : i + size[0], j : j + size[1]].double()
            distance = float(((patch - weight[p]) ** 2).sum())
            wanted = {
                "log": math.log((distance + 1) / (distance + 1e-4)),
                "linear": -distance,
                "cosine": float((patch * weight[p]).sum() / (patch.norm() * weight[p].double().norm())),
            }[kind]
            assert float(maps[n, p, i, j]) == pytest.approx(wanted, abs=1e-4)


def test_a_prototype_that_is_switched_off_counts_as_zero() -> None:
    net = network()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = net.inspect(x).similarities
        net.prototypes.switch_off([1])
        after = net.inspect(x)
        torch.testing.assert_close(after.similarities[:, 1], torch.zeros(2))
        torch.testing.assert_close(after.similarities[:, [0, 2, 3, 4, 5]], before[:, [0, 2, 3, 4, 5]])
        torch.testing.assert_close(net(x), after.logits)


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_relevance_of_similarities_against_loops(size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    x, weight = torch.rand(2, 4, 5, 5, dtype=torch.float64), torch.rand(3, 4, *size, dtype=torch.float64)
    x[0, 1] = 0  # at rest
    relevance = torch.randn(2, 3, 5 - size[0] + 1, 5 - size[1] + 1, dtype=torch.float64)
    relevance[torch.rand(relevance.shape) < 0.6] = 0
    found = similarity_relevance(relevance, x, weight)
    wanted = torch.zeros_like(x)
    for n in range(2):
        for p in range(3):
            for i in range(relevance.shape[2]):
                for j in range(relevance.shape[3]):
                    patch = x[n, :, i : i + size[0], j : j + size[1]]
                    share = torch.where(patch != 0, 1 / ((patch - weight[p]) ** 4 + 1e-12), 0)
                    wanted[n, :, i : i + size[0], j : j + size[1]] += relevance[n, p, i, j] * share / share.sum()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.sum((1, 2, 3)), relevance.sum((1, 2, 3)))


@pytest.mark.parametrize("similarity", ["log", "cosine"])
def test_relevance_reaches_the_input_and_passes_the_sigmoid(similarity: str) -> None:
    """Without biases, all relevance of the logit arrives: the similarity layer and the sigmoid absorb none."""
    net = network(similarity=similarity, add_on="plain").double()
    with torch.no_grad():
        net.last.weight.clamp_(min=0)  # one sign, or shares of other signs cancel in the sum
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    found = sc.attribute(net, x, [0, 1, 2], "epsilon-plus-flat", account=True)
    absorbed = sum(found.absorbed.values())
    torch.testing.assert_close(found.input.sum((1, 2, 3)) + absorbed, found.start, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.units["prototypes"].sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)
    if similarity == "log":  # what enters the last convolution's output is what the similarities had
        torch.testing.assert_close(found.units["add_on.2"].sum(1), found.units["prototypes"].sum(1), rtol=0, atol=1e-3)


def test_masked_and_pruned_networks_are_the_same() -> None:
    net = network()
    samples = reference()
    structure = sc.trace(net, samples.inputs[:1])
    plan = sc.select(sc.score(net, structure, samples, "taylor"), sc.Budget(units=0.7))
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(sc.prune(net, plan)(x), sc.mask(net, plan)(x), rtol=1e-4, atol=1e-4)


def test_copies_and_training_mode_work() -> None:
    net = network()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(copy.deepcopy(net)(x), net(x))
    assert not net.features.network.layer3._forward_hooks
    net.train()
    net(x).sum().backward()
    assert net.prototypes.weight.grad is not None
