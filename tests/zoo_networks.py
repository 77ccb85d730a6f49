"""Published networks for tests and benchmarks of pruning: those of the relevance tests, and more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

import secateur as sc
import test_attribution_networks as relevance

MORE_TORCHVISION = ("alexnet", "squeezenet1_1", "mnasnet1_0", "wide_resnet50_2")
MORE_TIMM = (
    "resnetv2_50", "nfnet_l0", "resnest14d", "skresnet18", "hrnet_w18_small", "dla34", "xcit_nano_12_p16_224",
    "poolformer_s12", "convmixer_768_32", "tiny_vit_5m_224", "fastvit_t8", "mobilevit_s", "vitamin_small_224",
    "hiera_tiny_224",
)  # fmt: skip
NOT_CLASSIFIERS = ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "ssdlite320_mobilenet_v3_large")


@dataclass(frozen=True)
class ZooNetwork:
    """A network and how it is built.

    Attributes:
        name: without the library.
        family: torchvision, timm or transformers.
        make: the network with random weights.
        side: height and width of its images.
        by_name: whether a bundle of it loads without being told how to build it.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    side: int
    by_name: bool

    def build(self, seed: int = 0) -> nn.Module:
        """The network with its random weights, the same each time, in eval mode."""
        torch.manual_seed(seed)
        return self.make().eval()

    def inputs(self, count: int = 2) -> torch.Tensor:
        """Random images."""
        return torch.randn(count, 3, self.side, self.side, generator=torch.Generator().manual_seed(1))


def zoo_network(name: str) -> ZooNetwork:
    """A network of `ZOO`; only its own library is imported."""
    family = ZOO[name]
    if family == "transformers":
        return ZooNetwork(name, family, lambda: relevance.from_hugging_face(name)[0], 64, by_name=False)
    if family == "timm":
        import timm

        config: Any = timm.get_pretrained_cfg(name, allow_unregistered=False)
        side = config.input_size[-1]
        return ZooNetwork(name, family, lambda: sc.build(f"timm/{name}"), side, by_name=True)
    if name in NOT_CLASSIFIERS:
        return ZooNetwork(name, family, lambda: _not_a_classifier(name), 320 if "320" in name else 224, by_name=False)
    options = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    side = 299 if name == "inception_v3" else 224
    return ZooNetwork(name, family, lambda: sc.build(f"torchvision/{name}", **options), side, by_name=True)


def _not_a_classifier(name: str) -> nn.Module:
    made = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    # what a detector does with its boxes is no network
    return made.backbone if name.startswith("ssd") else made


ZOO = {
    **dict.fromkeys((*relevance.TORCHVISION, *MORE_TORCHVISION, *NOT_CLASSIFIERS), "torchvision"),
    **dict.fromkeys((*relevance.TIMM, *MORE_TIMM), "timm"),
    **dict.fromkeys(relevance.HUGGING_FACE, "transformers"),
}
_FAST = {*relevance.QUICK, "resnet18", "vit_tiny_patch16_224", "swin_t", "poolformer_s12"}
QUICK_ZOO = tuple(name for name in ZOO if name in _FAST)
