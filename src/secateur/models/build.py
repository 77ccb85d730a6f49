"""Networks by name: our own small ones, torchvision's, timm's."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torchvision
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from secateur.core.errors import RequestError
from secateur.core.registry import Registry
from secateur.models.checkpoint import load_weights, read_metadata
from secateur.models.cifar import CifarResNet, CifarVGG

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
    (``resnet20-cifar10``), ``torchvision/NAME`` or ``timm/NAME``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "resnet20"
    arguments: dict[str, Any] = Field(default_factory=dict, description="passed to the network's constructor")
    weights: Path | None = Field(default=None, description=".safetensors, or .pt/.pth that loads with weights_only")


def known_models() -> list[str]:
    """Names that `build` takes without a prefix."""
    return sorted([*registered, *SHIPPED])


def build(name: str, weights: str | Path | None = None, **arguments: Any) -> nn.Module:
    """Build a network by name, in eval mode.

    Args:
        name: see `ModelSettings`; a name without prefix that is not ours is looked for in torchvision's
            classifiers.
        weights: checkpoint file; shipped networks bring theirs.
        arguments: passed to the constructor (``num_classes=5``; ours also take ``in_channels=1``).

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
    setattr(model, _ORIGIN, {"name": name, "arguments": arguments})
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def origin_of(model: nn.Module) -> dict[str, Any] | None:
    """``{"name": ..., "arguments": ...}`` of a network made by `build`; None for the user's own."""
    origin: dict[str, Any] | None = getattr(model, _ORIGIN, None)
    return origin


def shipped_metadata(name: str) -> dict[str, Any]:
    """What a shipped checkpoint says of itself; empty for other names."""
    return read_metadata(WEIGHTS / f"{name}.safetensors") if name in SHIPPED else {}


def _factory(name: str) -> Callable[..., nn.Module]:
    zoo, _, plain = name.rpartition("/")
    if name in registered:
        return registered.factory(name)
    if zoo == "timm":
        return _timm(plain)
    # classifiers only: detectors and the like give no logits, and fetch backbone weights by default
    classifiers = torchvision.models.list_models(module=torchvision.models)
    if zoo in ("", "torchvision") and plain in classifiers:
        # googlenet and inception_v3 warn unless told how to start; other networks do not take the argument
        extra = {"init_weights": True} if plain in ("googlenet", "inception_v3") else {}
        return partial(torchvision.models.get_model, plain, weights=None, **extra)
    if zoo == "torchvision":
        raise RequestError(
            f"torchvision has no classifier '{plain}'{_hint(plain, classifiers)}; "
            "see torchvision.models.list_models(module=torchvision.models)"
        )
    known = known_models()
    raise RequestError(
        f"unknown model '{name}'{_hint(name, [*known, *classifiers])}; "
        f"known: {', '.join(known)}, torchvision/NAME, timm/NAME"
    )


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _timm(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ImportError as error:
        raise RequestError(f"model 'timm/{name}' needs an extra: pip install 'secateur[timm]'") from error
    if not timm.is_model(name):
        raise RequestError(f"timm has no model '{name}'{_hint(name, timm.list_models())}; see timm.list_models()")
    return partial(timm.create_model, name, pretrained=False)


def _construct(factory: Callable[..., nn.Module], name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return factory(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(f"model '{name}' cannot be built with {arguments}: {reason}") from error
