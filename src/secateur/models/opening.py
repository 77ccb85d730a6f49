"""Opens a network by name, from a file of weights, an exported program, or the user's own code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.models.building import construct, rebuild, shipped_metadata, with_new_head
from secateur.models.checkpoint import load_weights
from secateur.models.own_code import make_own
from secateur.models.records import library_weights, record_of
from secateur.models.safetensors_file import read_metadata
from secateur.models.settings import (
    LIBRARIES,
    SHIPPED,
    WEIGHTS,
    Kind,
    ModelSettings,
    architecture_of,
    check_model,
    fetched,
    kind_of,
)


@dataclass(frozen=True, eq=False)
class Opened:
    """A network, and its record.

    Attributes:
        model: the network in eval mode.
        kind: kind of its name (see `secateur.models.settings.kind_of`).
        trained: whether its weights come from a file, a library's download, or an exported program. A network of the
            user's own code is trained when two calls under different seeds return the same weights.
        metadata: record of the weights: ``normalisation`` (mean and standard deviation per channel),
            ``resize``, ``class_names``, ...; empty where nothing is known.
        new_head: whether the network is trained except for the layers with one output per class, because a library's
            weights were requested with another number of classes.
    """

    model: nn.Module
    kind: Kind
    trained: bool
    metadata: Mapping[str, Any] = field(default_factory=dict)
    new_head: bool = False


def build(
    name: str,
    weights: str | Path | None = None,
    *,
    architecture: str | None = None,
    trust_code: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build a network by name, or open it from a file, in eval mode.

    Args:
        name: see `ModelSettings`; a name without prefix that is not one of ours is searched among torchvision's
            classifiers.
        weights: checkpoint file; shipped networks have their own.
        architecture: for a ``name`` that is a file of weights: the weights' network, where the file does not name it.
        trust_code: run code of the user's own that ``name`` or ``architecture`` refers to (``module:factory``).
        arguments: passed to the constructor (``num_classes=5``; ours also take ``in_channels=1``). Networks of
            transformers take ``config={...}``, the fields of their configuration.

    Raises:
        RequestError: for an unknown name, arguments that the network does not accept, or an unusable file.

    Example:
        >>> build("resnet20", num_classes=7).fc.out_features
        7
    """
    settings = ModelSettings(
        name=str(name),
        weights=None if weights is None else Path(weights),
        architecture=architecture,
        trust_code=trust_code,
        arguments=arguments,
    )
    return open_network(settings).model


def open_network(settings: ModelSettings, num_classes: int | None = None, in_channels: int | None = None) -> Opened:
    """The network that settings describe.

    Args:
        settings: settings of any network but bundle folders, which `secateur.load` opens.
        num_classes: outputs of a network that is built by name, unless ``arguments`` or its weights set them. With a
            library's weights only ``arguments`` count: another number of classes gets a new head.
        in_channels: image channels of one of our networks, unless ``arguments`` or its weights set them.

    Raises:
        RequestError: see `build`.

    Example:
        >>> opened = open_network(ModelSettings(name="resnet20"), num_classes=4)
        >>> opened.model.fc.out_features, opened.trained
        (4, False)
    """
    check_model(settings)
    name, kind = settings.name, kind_of(settings.name)
    if kind == "bundle":
        raise RequestError(f"'{name}' is a bundle folder; open it with secateur.load('{name}')")
    if kind == "program":
        if settings.arguments:
            raise RequestError(f"'{name}' is an exported program, and takes no arguments ({settings.arguments})")
        from secateur.models.exported import open_program

        return Opened(open_program(name), kind, trained=True)
    if kind == "weights":
        return _with_weights(settings.architecture, Path(name), settings.arguments, kind)
    if kind == "code":
        return _own(settings)
    if kind == "shipped":
        weights = settings.weights or WEIGHTS / f"{name}.safetensors"
        arguments = {**shipped_metadata(name).get("arguments", {}), **settings.arguments}
        model = load_weights(construct(SHIPPED[name], arguments), weights)
        return Opened(model, kind, trained=True, metadata=shipped_metadata(name))
    return _by_name(settings, kind, num_classes, in_channels)


def build_architecture(settings: ModelSettings) -> nn.Module | None:
    """The unpruned network that ``architecture`` names, for a bundle of the user's own network; None without one.

    Raises:
        RequestError: see `build`.
    """
    if settings.architecture is None:
        return None
    check_model(settings)
    inner = settings.model_copy(update={"name": settings.architecture, "architecture": None})
    return open_network(inner).model


def image_channels(settings: ModelSettings) -> int | None:
    """Channels of the images that a network needs, by its settings only; None where data decide, or unknown.

    Example:
        >>> image_channels(ModelSettings(name="torchvision/resnet18")), image_channels(ModelSettings(name="resnet20"))
        (3, None)
    """
    kind = kind_of(settings.name)
    if kind in LIBRARIES:
        return 3
    if kind == "weights":
        name = settings.architecture or architecture_of(settings.name)
        if kind_of(name) in LIBRARIES:
            return 3
        given = {**_header_arguments(Path(settings.name), name), **settings.arguments}.get("in_channels")
        return given if isinstance(given, int) else None
    return None


def _by_name(settings: ModelSettings, kind: Kind, num_classes: int | None, in_channels: int | None) -> Opened:
    name, weights, metadata = settings.name, settings.weights, record_of(settings)
    arguments = dict(settings.arguments)
    if weights is not None:
        arguments = {**_header_arguments(weights, name), **arguments}
    known = library_weights(name, arguments)
    if num_classes is not None and known is None:  # fetched weights have the classes for which they were trained
        arguments.setdefault("num_classes", len(metadata.get("class_names") or ()) or num_classes)
    if in_channels is not None and kind == "registered":
        arguments.setdefault("in_channels", in_channels)
    other_head = known is not None and arguments.get("num_classes", known.num_classes) != known.num_classes
    # timm creates a new head itself
    model = (with_new_head if other_head and kind == "torchvision" else construct)(name, arguments)
    if weights is not None:
        load_weights(model, weights)
        return Opened(model, kind, trained=True, metadata=metadata)
    return Opened(model, kind, fetched(arguments) and not other_head, metadata, new_head=other_head)


def _with_weights(architecture: str | None, weights: Path, arguments: dict[str, Any], kind: Kind) -> Opened:
    """A network with weights from a file; the file or the user names the network."""
    name = architecture or architecture_of(weights)
    if kind_of(name) == "code":
        model = make_own(name, arguments)
    else:
        recorded = _header_arguments(weights, name)
        # a file may be untrusted, and must not make a constructor fetch anything
        model = (
            rebuild({"name": name, "arguments": {**recorded, **arguments}}) if recorded else construct(name, arguments)
        )
    return Opened(load_weights(model, weights).eval(), kind, trained=True, metadata=read_metadata(weights))


def _header_arguments(weights: Path, name: str) -> dict[str, Any]:
    """Arguments in the header of a file of weights, where it names this network."""
    about = read_metadata(weights)
    arguments = about.get("arguments")
    return arguments if isinstance(arguments, dict) and about.get("architecture", name) == name else {}


def _own(settings: ModelSettings) -> Opened:
    model = make_own(settings.name, settings.arguments)
    if settings.weights is not None:
        load_weights(model, settings.weights)
        return Opened(model.eval(), "code", trained=True, metadata=read_metadata(settings.weights))
    return Opened(model.eval(), "code", trained=not _depends_on_chance(model, settings))


def _depends_on_chance(model: nn.Module, settings: ModelSettings) -> bool:
    """Whether the user's factory returns other weights under another seed, so that they were drawn and not loaded."""
    parameters = [p.detach().clone() for p in model.parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed() ^ 0x5EED)
        again = list(make_own(settings.name, settings.arguments).parameters())
    return len(parameters) != len(again) or not all(
        torch.equal(a, b.detach()) for a, b in zip(parameters, again, strict=True)
    )
