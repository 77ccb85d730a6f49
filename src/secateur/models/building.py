"""Networks by name: our own small ones, torchvision's, timm's, those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torchvision
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.registry import Registry
from secateur.models.checkpoint import load_weights
from secateur.models.cifar import CifarResNet, CifarVGG
from secateur.models.libraries import WEIGHT_SOURCES, Origin, from_timm, from_transformers, hint
from secateur.models.safetensors_file import read_metadata

registered: Registry[nn.Module] = Registry("model")
registered.register("resnet20")(partial(CifarResNet, 20))
registered.register("resnet56")(partial(CifarResNet, 56))
registered.register("vgg11-bn-32")(CifarVGG)

SHIPPED = {"resnet20-cifar10": "resnet20"}
WEIGHTS = Path(__file__).parent / "weights"
_ORIGIN = "_secateur_origin"


class ModelSettings(BaseModel):
    """Which network, and where its weights are.

    ``name`` is one of ours (``resnet20``, ``resnet56``, ``vgg11-bn-32``), a shipped trained network
    (``resnet20-cifar10``), ``torchvision/NAME``, ``timm/NAME`` or ``transformers/CLASS``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "resnet20"
    arguments: dict[str, Any] = Field(default_factory=dict, description="passed to the network's constructor")
    weights: Path | None = Field(default=None, description=".safetensors, or .pt/.pth that loads with weights_only")
    replace_head: Literal["keep", "slice", "mask"] = Field(
        default="keep", description="with data.classes: keep all logits, slice the head to the chosen classes, or mask"
    )


def known_models() -> list[str]:
    """Names that `build` takes without a prefix."""
    return sorted([*registered, *SHIPPED])


def build(name: str, weights: str | Path | None = None, **arguments: Any) -> nn.Module:
    """Build a network by name, in eval mode.

    Args:
        name: see `ModelSettings`; a name without prefix that is not ours is looked for in torchvision's
            classifiers.
        weights: checkpoint file; shipped networks bring theirs.
        arguments: passed to the constructor (``num_classes=5``; ours also take ``in_channels=1``). Networks of
            transformers take ``config={...}``, the fields of their configuration.

    Raises:
        RequestError: for an unknown name, arguments the network does not take, or an unusable checkpoint.

    Example:
        >>> build("resnet20", num_classes=7).fc.out_features
        7
    """
    if name in SHIPPED:
        file = WEIGHTS / f"{name}.safetensors"
        shipped = shipped_metadata(name).get("arguments", {})
        return build(SHIPPED[name], weights or file, **{**shipped, **arguments})
    model = _construct(_factory(name), name, arguments)
    own = {key: value for key, value in arguments.items() if key not in WEIGHT_SOURCES}
    setattr(model, _ORIGIN, {"name": name, "arguments": own})
    if weights is not None:
        load_weights(model, weights)
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
        chosen = str(arguments["weights"]).rpartition(".")[2]  # names may begin with that of their class
        transforms = torchvision.models.get_model_weights(plain)[chosen].transforms()
        mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    return None if mean is None or std is None else {"mean": list(mean), "std": list(std)}


def shipped_metadata(name: str) -> dict[str, Any]:
    """What a shipped checkpoint says of itself; empty for other names."""
    return read_metadata(WEIGHTS / f"{name}.safetensors") if name in SHIPPED else {}


def _factory(name: str) -> Callable[..., nn.Module]:
    zoo, _, plain = name.rpartition("/")
    if name in registered:
        return registered.factory(name)
    if zoo == "timm":
        return from_timm(plain)
    if zoo == "transformers":
        return from_transformers(plain)
    # classifiers only: detectors and the like give no logits, and fetch backbone weights by default
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if zoo in ("", "torchvision") and plain in classifiers:
        # googlenet and inception_v3 warn unless told how to start; other networks do not take the argument
        extra = {"init_weights": True} if plain in ("googlenet", "inception_v3") else {}
        return partial(torchvision.models.get_model, plain, weights=None, **extra)
    if zoo == "torchvision":
        raise RequestError(
            f"torchvision has no classifier '{plain}'{hint(plain, classifiers)}; "
            "see torchvision.models.list_models(module=torchvision.models)"
        )
    known = known_models()
    raise RequestError(
        f"unknown model '{name}'{hint(name, [*known, *classifiers])}; "
        f"known: {', '.join(known)}, torchvision/NAME, timm/NAME, transformers/CLASS"
    )


def _construct(factory: Callable[..., nn.Module], name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return factory(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"model '{name}' cannot be built with {arguments}: {reason}") from error


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of the images that a network was made for, as far as it says so: timm's and Hugging Face's do.

    Ours take 32 x 32 pixels, others are taken to be ImageNet classifiers.

    Example:
        >>> input_shape(build("resnet20"))
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
