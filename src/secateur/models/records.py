"""Records of trained weights: size and normalisation of the images that they expect, and their classes.

Nothing is fetched, and no network is built; torchvision and timm are imported only for their own weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean
from secateur.models.safetensors_file import read_metadata
from secateur.models.settings import WEIGHTS, ModelSettings, fetched, kind_of


@dataclass(frozen=True)
class LibraryWeights:
    """Weights that torchvision or timm download.

    Attributes:
        name: the library's name.
        num_classes: outputs of the network with these weights; 0: they have no classifier.
        class_names: by output; empty where the library does not name them.
        normalisation: ``mean`` and ``std`` per channel.
        resize: ``size``, ``crop`` and ``interpolation``, arguments of `secateur.data.Resize`.
        otherwise: how the images were resized in training, where not by a central crop.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    normalisation: Mapping[str, Any] | None = None
    resize: Mapping[str, Any] | None = None
    otherwise: str = ""

    def to_metadata(self) -> dict[str, Any]:
        """The record in the form of the header of a file of weights."""
        metadata = {
            "weights": self.name,
            "class_names": list(self.class_names),
            "normalisation": self.normalisation,
            "resize": self.resize,
            "otherwise": self.otherwise,
        }
        return {key: value for key, value in metadata.items() if value}


def library_weights(name: str, arguments: Mapping[str, Any]) -> LibraryWeights | None:
    """The weights with which a library's network is built; None where none are requested or known.

    Args:
        name: name of the network, with or without that of the library.
        arguments: arguments of its constructor.

    Raises:
        RequestError: for weights that torchvision does not have, or that have no classifier.

    Example:
        >>> weights = library_weights("torchvision/resnet18", {"weights": "DEFAULT"})
        >>> weights.num_classes, weights.class_names[217], weights.resize["size"], weights.resize["crop"]
        (1000, 'English springer', 256, 224)
    """
    kind, plain = kind_of(name), name.rpartition("/")[2]
    if kind == "torchvision" and arguments.get("weights"):
        return _of_torchvision(plain, str(arguments["weights"]))
    if kind == "timm" and arguments.get("pretrained"):
        return _of_timm(plain, arguments)
    return None


def record_of(settings: ModelSettings) -> dict[str, Any]:
    """The record of a network's weights, before it is opened; empty for bundles, which are opened first.

    The record in a file's header takes precedence over the library's record of weights that the file replaces.

    Raises:
        RequestError: see `library_weights`, and for a broken file.

    Example:
        >>> record_of(ModelSettings(name="resnet20-cifar10"))["class_names"][3], record_of(ModelSettings())
        ('cat', {})
    """
    file = _file(settings)
    metadata = {} if file is None else read_metadata(file)
    if metadata.get("normalisation"):
        return metadata
    known = library_weights(settings.name, settings.arguments)
    if known is None:
        return metadata
    found = known.to_metadata()
    if file is not None or settings.arguments.get("num_classes", known.num_classes) != known.num_classes:
        found.pop("class_names", None)
    return {**found, **metadata}


def brings_size(settings: ModelSettings) -> bool:
    """Whether a network's record may contain an image size; needs neither PyTorch nor a library.

    Example:
        >>> brings_size(ModelSettings(name="torchvision/resnet18", arguments={"weights": "DEFAULT"}))
        True
        >>> brings_size(ModelSettings(name="resnet20-cifar10"))
        False
    """
    file = _file(settings)
    if kind_of(settings.name) == "bundle" or (file is None and fetched(settings.arguments)):
        return True
    return file is not None and bool(read_metadata(file).get("resize"))


def _file(settings: ModelSettings) -> Path | None:
    kind = kind_of(settings.name)
    if settings.weights is not None:
        return settings.weights
    if kind == "shipped":
        return WEIGHTS / f"{settings.name}.safetensors"
    return Path(settings.name) if kind == "weights" else None


def _of_torchvision(name: str, asked: str) -> LibraryWeights:
    import torchvision

    known = torchvision.models.get_model_weights(name)
    entry = asked.rpartition(".")[2]  # names may start with that of their class
    if entry not in known.__members__:
        names = list(known.__members__)
        raise RequestError(
            f"torchvision has no weights '{asked}' of {name}{did_you_mean(entry, names)}; known: {', '.join(names)}"
        )
    weights = known[entry]
    categories = weights.meta.get("categories")
    if not categories:
        others = ", ".join(key for key, other in known.__members__.items() if other.meta.get("categories"))
        raise RequestError(f"the weights '{asked}' of {name} have no classifier; take others: {others}")
    transforms = weights.transforms()
    return LibraryWeights(
        str(weights),
        len(categories),
        tuple(categories),
        {"mean": list(transforms.mean), "std": list(transforms.std)},
        {
            "size": transforms.resize_size[0],
            "crop": transforms.crop_size[0],
            "interpolation": transforms.interpolation.value,
        },
    )


def _of_timm(name: str, arguments: Mapping[str, Any]) -> LibraryWeights | None:
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name)
    if known is None:
        return None
    config = vars(known) | dict(arguments.get("pretrained_cfg_overlay") or {})
    _, height, width = config["input_size"]
    crop, mode = int(arguments.get("img_size") or height), config["crop_mode"]
    size = math.floor(crop / config["crop_pct"])
    otherwise = "" if mode == "center" else f"resized without cropping (timm's crop_mode={mode})"
    otherwise = otherwise if size >= crop else "padded to their size"
    resize = {"size": max(size, crop), "crop": crop, "interpolation": config["interpolation"]}
    return LibraryWeights(
        f"{name.partition('.')[0]}.{config['tag']}" if config.get("tag") else name,
        config["num_classes"],
        _timm_classes(config),
        {"mean": list(config["mean"]), "std": list(config["std"])},
        resize if height == width else None,
        otherwise,
    )


def _timm_classes(config: dict[str, Any]) -> tuple[str, ...]:
    """First names of ImageNet's classes, as torchvision has them."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(config)
    if subset is None:
        return ()
    about = ImageNetInfo(subset)
    names = [about.index_to_description(i).partition(",")[0] for i in range(len(about.label_names()))]  # type: ignore[no-untyped-call]
    if len(names) != config["num_classes"]:
        return ()
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} ({index})" for index, name in enumerate(names))
