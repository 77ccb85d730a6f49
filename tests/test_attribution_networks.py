"""Relevance of published networks, as torchvision, timm and Hugging Face build them; weights are random."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

import secateur as sc

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# networks with their number of attentions that have heads; all others have none
TORCHVISION = {
    "resnet18": 0, "resnet50": 0, "resnext50_32x4d": 0, "densenet121": 0, "vgg16_bn": 0, "mobilenet_v2": 0,
    "mobilenet_v3_small": 0, "efficientnet_b0": 0, "googlenet": 0, "inception_v3": 0, "shufflenet_v2_x1_0": 0,
    "regnet_y_400mf": 0, "convnext_tiny": 0, "vit_b_16": 12, "swin_t": 12, "swin_v2_t": 12, "maxvit_t": 22,
}  # fmt: skip
TIMM = {
    "vit_tiny_patch16_224": 12, "deit_tiny_patch16_224": 12, "deit3_small_patch16_224": 12,
    "beit_base_patch16_224": 12, "cait_xxs24_224": 26, "swin_tiny_patch4_window7_224": 12, "mixer_s16_224": 0,
    "gmlp_s16_224": 0, "levit_128s": 11, "coat_tiny": 26, "pvt_v2_b0": 8, "efficientvit_b0": 0,
    "efficientformer_l1": 1, "edgenext_small": 3, "mobilenetv4_conv_small": 0, "repvit_m1": 0,
    "eva02_tiny_patch14_224": 12,
}  # fmt: skip
HUGGING_FACE = {"ViT": 3, "ViT spelt out": 3, "DeiT": 3, "Swin": 3, "ConvNext": 0, "ResNet": 0}
QUICK = {
    "mobilenet_v3_small", "shufflenet_v2_x1_0", "mobilenetv4_conv_small", "ViT", "ConvNext",
}  # fmt: skip


def from_torchvision(name: str) -> tuple[nn.Module, int]:
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **options), 299 if name == "inception_v3" else 224


def from_timm(name: str) -> tuple[nn.Module, int]:
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False)
    return model, model.default_cfg["input_size"][-1]


def from_hugging_face(name: str) -> tuple[nn.Module, int]:
    transformers = pytest.importorskip("transformers")
    family, _, spelt = name.partition(" ")
    if family in ("ViT", "DeiT"):
        options = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
        options |= {"image_size": 64, "patch_size": 16}
    else:
        options = {
            "Swin": {"image_size": 64, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
            "ConvNext": {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1]},
            "ResNet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 2], "layer_type": "basic"},
        }[family]
    config = getattr(transformers, f"{family}Config")(**options, num_labels=10)
    if spelt:
        config._attn_implementation = "eager"
    return getattr(transformers, f"{family}ForImageClassification")(config), 64


def lively(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Relevance reaches everything: nothing starts at zero, and batch norms have statistics of their own."""
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
        model.eval()
        for norm in norms:
            norm.momentum = None  # the first batch's statistics
            norm.train()
        model(x)
    return model.eval()


def listed(build: Callable[[str], tuple[nn.Module, int]], networks: dict[str, int]) -> list[object]:
    return [
        pytest.param(build, name, heads, id=name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, heads in networks.items()
    ]


@pytest.mark.parametrize(
    ("build", "name", "attentions"),
    [*listed(from_torchvision, TORCHVISION), *listed(from_timm, TIMM), *listed(from_hugging_face, HUGGING_FACE)],
)
def test_relevance_of_published_networks(build, name, attentions):
    torch.manual_seed(0)
    model, side = build(name)
    x = torch.randn(2, 3, side, side)
    lively(model, x)
    before = copy.deepcopy(model.state_dict())
    found = sc.attribute(model, x, [0, 1], "attnlrp", account=True)
    again = sc.attribute(model, x, [0, 1], "attnlrp", account=True)

    with torch.no_grad():
        said = model(x)
    torch.testing.assert_close(found.logits, said if isinstance(said, torch.Tensor) else said.logits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(found.input, again.input)
    assert list(found.units) == list(again.units)
    for layer, units in found.units.items():
        assert torch.equal(units, again.units[layer])
        assert torch.isfinite(units).all()
        assert units.any(), layer
    assert torch.isfinite(found.input).all()
    assert found.input.flatten(1).any(1).all()

    absorbed = torch.stack(list(again.absorbed.values()))
    left = (again.gap - absorbed.sum(0)).abs()
    assert (left < 1e-3 * absorbed.abs().sum(0).clamp(min=1)).all()

    # a layer is named after its weight, a head after a module that has none
    parameters = {key.removesuffix(".weight") for key in before}
    heads = [layer for layer in found.units if layer.partition("[")[0] not in parameters]
    assert len(heads) == attentions
