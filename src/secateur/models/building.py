"""Builds networks by name: our own small ones and those of torchvision, timm and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import torch
from torch import nn

from secateur.core.errors import RequestError, SecateurError
from secateur.models.feature_map import MapPlace
from secateur.models.libraries import WEIGHT_SOURCES, Origin, from_timm, from_torchvision, from_transformers
from secateur.models.safetensors_file import read_metadata
from secateur.models.settings import LIBRARIES, SHIPPED, WEIGHTS, check_model_name, fetched, kind_of, registered

_ORIGIN = "_secateur_origin"
_INNER = "backbone_arguments"
"""Arguments that hold those of an inner network."""


def construct(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A network by the name of its class or function, in eval mode, with the weights that its constructor sets.

    Args:
        name: a registered name, or one of a library.
        arguments: arguments of the constructor.

    Raises:
        RequestError: for an unknown name, or arguments that the network does not accept.
        SecateurError: when requested weights cannot be fetched.
    """
    factory = _factory(name)
    try:
        model = factory(**arguments)
    except (OSError, HTTPException) as error:
        if not fetched(arguments):
            raise
        raise SecateurError(
            f"the weights of '{name}' could not be fetched ({_line(error)}); look at the network connection, or take a "
            "file of them: --weights FILE, without model.arguments that fetch"
        ) from error
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise RequestError(f"model '{name}' cannot be built with {arguments}: {_line(error)}") from error
    own = _without_weights(arguments) | (_switched(model) if fetched(arguments) else {})
    setattr(model, _ORIGIN, {"name": name, "arguments": own})
    return model.eval()


def with_new_head(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A torchvision network with fetched weights and another number of classes than they have.

    torchvision builds no such network. It is built twice, with the trained weights, and with ``num_classes`` and random
    weights; the result has the layers with one output per class of the second network, and all others with the trained
    weights.

    Args:
        name: name of the network.
        arguments: arguments of its constructor, with ``num_classes``.

    Raises:
        RequestError: see `construct`, and when other layers depend on the number of classes.
        SecateurError: when the weights cannot be fetched.
    """
    trained = construct(name, {key: value for key, value in arguments.items() if key != "num_classes"})
    network = construct(name, _without_weights(arguments) | _switched(trained))
    old, new = trained.state_dict(), network.state_dict()
    head = {key for key, value in new.items() if key in old and value.shape != old[key].shape}
    if old.keys() != new.keys() or any(new[key].shape[1:] != old[key].shape[1:] for key in head):
        raise RequestError(f"the head of '{name}' cannot be replaced: more than its last layers depends on num_classes")
    with torch.no_grad():
        for key in new.keys() - head:
            new[key].copy_(old[key])
    return network


def _without_weights(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments without those that fetch weights, also within those of an inner network."""
    return {
        key: _without_weights(value) if key == _INNER and isinstance(value, dict) else value
        for key, value in arguments.items()
        if key not in WEIGHT_SOURCES
    }


def _fetching(arguments: dict[str, Any]) -> list[str]:
    """Arguments that would fetch weights, also within those of an inner network."""
    own = [key for key in arguments if key in WEIGHT_SOURCES or key.startswith("pretrained")]
    inner = arguments.get(_INNER)
    return sorted(own) + (_fetching(inner) if isinstance(inner, dict) else [])


def _switched(model: nn.Module) -> dict[str, Any]:
    """Arguments of the constructor that fetched weights of torchvision set: two families have them."""
    return {key: getattr(model, key) for key in ("aux_logits", "transform_input") if hasattr(model, key)}


def _line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0] or type(error).__name__


def origin_of(model: nn.Module) -> Origin | None:
    """``{"name": ..., "arguments": ...}`` of a network made by `build`; None for the user's own."""
    origin: Origin | None = getattr(model, _ORIGIN, None)
    return origin


def rebuild(origin: Origin) -> nn.Module:
    """The network that an origin describes, with initial weights; origins may come from untrusted files.

    Raises:
        RequestError: for an unknown name, or arguments that are not JSON values, that the network does not accept, or
            that would fetch weights.

    Example:
        >>> rebuild({"name": "resnet20", "arguments": {"num_classes": 7}}).fc.out_features
        7
    """
    name, arguments = origin["name"], origin["arguments"]
    fetching = _fetching(arguments)
    if fetching:
        raise RequestError(f"model '{name}' is not built with '{fetching[0]}' from a file: it would fetch weights")
    try:
        plain = json.loads(json.dumps(arguments))
    except (TypeError, ValueError) as error:
        raise RequestError(f"the arguments of model '{name}' are no JSON values ({error})") from error
    try:
        model = _factory(name)(**plain)
    except RequestError:
        raise
    except Exception as error:  # untrusted arguments can make a constructor raise any exception
        raise RequestError(f"model '{name}' cannot be built with its recorded arguments: {_line(error)}") from error
    setattr(model, _ORIGIN, {"name": name, "arguments": plain})
    return model.eval()


def shipped_metadata(name: str) -> dict[str, Any]:
    """Metadata of a shipped checkpoint; empty for other names."""
    return read_metadata(WEIGHTS / f"{name}.safetensors") if name in SHIPPED else {}


def _factory(name: str) -> Callable[..., nn.Module]:
    kind, plain = kind_of(name), name.rpartition("/")[2]
    if kind == "registered":
        return registered.factory(name)
    check_model_name(name)
    if kind == "timm":
        return from_timm(plain)
    if kind == "transformers":
        return from_transformers(plain)
    if kind == "torchvision":
        return from_torchvision(plain)
    raise RequestError(
        f"'{name}' is no name by which a network is built; known: {', '.join(registered)}, "
        f"{', '.join(f'{library}/NAME' for library in LIBRARIES)}"
    )


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of the images that a network expects, by its own record where it has one (timm, Hugging Face).

    Our own networks expect 32 x 32 pixels; others are assumed to be ImageNet classifiers.

    Example:
        >>> input_shape(construct("resnet20", {}))
        (3, 32, 32)
    """
    place = getattr(getattr(model, "features", None), "place", None)
    if isinstance(place, MapPlace):
        channels, height, width = place.inputs
        return channels, height, width
    shipped = getattr(model, "default_cfg", None)
    if isinstance(shipped, dict) and len(shipped.get("input_size") or ()) == 3:
        channels, height, width = shipped["input_size"]
        return int(channels), int(height), int(width)
    config = getattr(model, "config", None)
    side = getattr(config, "image_size", None)
    if isinstance(side, int):
        return int(getattr(config, "num_channels", 3)), side, side
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    name = (origin_of(model) or {"name": ""})["name"]
    side = 32 if name in (*registered, *SHIPPED) else 299 if name.endswith("inception_v3") else 224
    return 3 if convolution is None else convolution.in_channels, side, side
