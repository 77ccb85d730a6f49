"""Networks built by name: our own small ones, torchvision's, timm's, those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from torch import nn

from secateur.core.errors import RequestError
from secateur.models.libraries import WEIGHT_SOURCES, Origin, from_timm, from_torchvision, from_transformers
from secateur.models.safetensors_file import read_metadata
from secateur.models.settings import LIBRARIES, SHIPPED, WEIGHTS, check_model_name, kind_of, registered

_ORIGIN = "_secateur_origin"


def construct(name: str, arguments: dict[str, Any]) -> nn.Module:
    """A network by the name of its class or function, in eval mode, with the weights that its constructor gives it.

    Args:
        name: a registered one, or one of a library's.
        arguments: passed to the constructor.

    Raises:
        RequestError: for an unknown name, or arguments that the network does not take.
    """
    factory = _factory(name)
    try:
        model = factory(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"model '{name}' cannot be built with {arguments}: {reason}") from error
    own = {key: value for key, value in arguments.items() if key not in WEIGHT_SOURCES}
    setattr(model, _ORIGIN, {"name": name, "arguments": own})
    return model.eval()


def origin_of(model: nn.Module) -> Origin | None:
    """``{"name": ..., "arguments": ...}`` of a network made by `build`; None for the user's own."""
    origin: Origin | None = getattr(model, _ORIGIN, None)
    return origin


def rebuild(origin: Origin) -> nn.Module:
    """A network like the one an origin was read off, with initial weights; the origin may come from a stranger.

    Raises:
        RequestError: for an unknown name, or arguments that are no JSON values, that no such network takes, or that
            would fetch weights.

    Example:
        >>> rebuild({"name": "resnet20", "arguments": {"num_classes": 7}}).fc.out_features
        7
    """
    name, arguments = origin["name"], origin["arguments"]
    fetching = sorted(key for key in arguments if key in WEIGHT_SOURCES or key.startswith("pretrained"))
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
    except Exception as error:  # a stranger's arguments can make a constructor raise anything
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"model '{name}' cannot be built with its recorded arguments: {reason}") from error
    setattr(model, _ORIGIN, {"name": name, "arguments": plain})
    return model.eval()


def fetched(arguments: dict[str, Any]) -> bool:
    """Whether a library is asked for trained weights, by a constructor's arguments."""
    return bool(arguments.get("weights") or arguments.get("pretrained"))


def fetched_normalisation(name: str, arguments: dict[str, Any], model: nn.Module) -> dict[str, Any] | None:
    """Mean and standard deviation that weights fetched by torchvision or timm were trained with, per channel.

    Example:
        >>> fetched_normalisation("torchvision/resnet18", {"weights": "DEFAULT"}, nn.Identity())["mean"]
        [0.485, 0.456, 0.406]
    """
    if not fetched(arguments):
        return None
    zoo, _, plain = name.rpartition("/")
    if zoo == "timm":
        shipped = getattr(model, "default_cfg", {})
        mean, std = shipped.get("mean"), shipped.get("std")
    else:
        import torchvision

        chosen = str(arguments["weights"]).rpartition(".")[2]  # names may begin with that of their class
        transforms = torchvision.models.get_model_weights(plain)[chosen].transforms()
        mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    return None if mean is None or std is None else {"mean": list(mean), "std": list(std)}


def shipped_metadata(name: str) -> dict[str, Any]:
    """What a shipped checkpoint says of itself; empty for other names."""
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
    """(C, H, W) of the images that a network was made for, as far as it says so: timm's and Hugging Face's do.

    Ours take 32 x 32 pixels, others are taken to be ImageNet classifiers.

    Example:
        >>> input_shape(construct("resnet20", {}))
        (3, 32, 32)
    """
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
