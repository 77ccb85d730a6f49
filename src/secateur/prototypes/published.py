"""Weights of networks that the published ProtoPNet code trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from secateur.core.errors import RequestError
from secateur.models.checkpoint import load_tensors, read_tensors
from secateur.models.prototype_network import PrototypeNetwork

_NAMES = {
    "features.": "features.network.",
    "add_on_layers.": "add_on.",
    "prototype_vectors": "prototypes.weight",
    "last_layer.": "last.",
}
_DROPPED = ("ones",)
"""A constant of the published code, as large as the prototypes."""


def load_published(network: PrototypeNetwork, path: str | Path) -> PrototypeNetwork:
    """Load the state dict of a network that the published ProtoPNet code trained, in place.

    Its ResNets and VGGs have torchvision's names. The class of each prototype is not in the file: it is the one that
    the last layer weighs highest. Files are read without unpickling code.

    Args:
        network: of the same sizes, as ``sc.build("prototype-network", backbone="torchvision/resnet34", num_classes=200,
            per_class=10, channels=128)``; ``add_on="plain"`` is what the published code calls regular.
        path: a file that ``torch.save(model.state_dict(), path)`` wrote, or safetensors.

    Returns:
        The network.

    Raises:
        RequestError: for a pickled module, other names or sizes, a class without prototypes, or a DenseNet, whose ReLU
            behind the last norm torchvision's network does not have as a module.
    """
    try:
        tensors = read_tensors(path)
    except RequestError as error:
        raise RequestError(
            f"{error}; whole pickled modules are never read: load it where you trust it, and save it again by "
            "torch.save(model.state_dict(), PATH)"
        ) from error
    if "prototype_vectors" not in tensors or "last_layer.weight" not in tensors:
        raise RequestError(
            f"'{path}' is no published ProtoPNet: it lacks prototype_vectors or last_layer.weight; its first names: "
            f"{', '.join(list(tensors)[:3])}"
        )
    if "features.features.norm5.weight" in tensors:
        raise RequestError(
            f"'{path}' is a DenseNet, which the published code ends with a ReLU that this network does not have; "
            "ResNets and VGGs can be loaded"
        )
    _check_sizes(tensors, network, path)
    named = {_renamed(name): tensor for name, tensor in tensors.items() if name not in _DROPPED}
    identity = F.one_hot(named["last.weight"].argmax(0), network.num_classes)
    missing = (~identity.any(0)).nonzero().flatten().tolist()
    if missing:
        raise RequestError(f"'{path}': no prototype has its highest weight for class {missing[0]}; is it trained?")
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    own = {"prototypes.identity": identity.to(network.prototypes.identity)}
    load_tensors(network, {**counters, **named, **own}, path)
    return network


def _renamed(name: str) -> str:
    for theirs, ours in _NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _check_sizes(tensors: dict[str, torch.Tensor], network: PrototypeNetwork, path: str | Path) -> None:
    for name, own in (("prototype_vectors", network.prototypes.weight), ("last_layer.weight", network.last.weight)):
        if tensors[name].shape != own.shape:
            raise RequestError(
                f"'{path}': {name} has shape {list(tensors[name].shape)}, the network's {list(own.shape)}; build it "
                "with the same num_classes, per_class, channels and size"
            )
