"""Networks of torchvision, timm and transformers by name, and the names of networks that they built."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from secateur.core.errors import RequestError

Origin = dict[str, Any]
"""``{"name": ..., "arguments": {...}}`` of a network that `secateur.build` can build."""

WEIGHT_SOURCES = frozenset(
    "weights weights_backbone pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path cache_dir "
    "progress".split()
)
"""Arguments of constructors that select weights, and do not change how a network is built."""

_ATTENTIONS = (None, "eager", "sdpa")
# fields with which a configuration has its network fetch something: code, weights, or another library's network
_FETCHING = frozenset(
    "auto_map backbone backbone_checkpoint use_pretrained_backbone model_args architecture checkpoint_path "
    "quantization_config kernel_config use_kernels experts_implementation trust_remote_code".split()
)


def from_torchvision(name: str) -> Callable[..., nn.Module]:
    """Constructor of one of torchvision's classifiers, without weights unless they are requested."""
    import torchvision

    def build(weights: Any = None, **arguments: Any) -> nn.Module:
        # googlenet and inception_v3 warn without init_weights, and set it themselves with weights; other networks do
        # not take the argument
        if weights is None and name in ("googlenet", "inception_v3"):
            arguments.setdefault("init_weights", True)
        built: nn.Module = torchvision.models.get_model(name, weights=weights, **arguments)
        return built

    return build


def from_timm(name: str) -> Callable[..., nn.Module]:
    """Constructor of a timm network, without its weights."""
    import timm

    return partial(timm.create_model, name, pretrained=False)


def from_transformers(name: str) -> Callable[..., nn.Module]:
    """Constructor of a network class of the transformers package: ``(config={...}, num_classes=None, attention=None)``.

    The class and its configuration come only from the installed package; configurations that would fetch code or
    weights are refused.
    """
    import transformers

    kind = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    if not (
        isinstance(kind, type)
        and issubclass(kind, transformers.PreTrainedModel)
        and kind.__module__.startswith("transformers.models.")
        and isinstance(kind.config_class, type)
    ):
        raise RequestError(f"transformers has no network class '{name}'; give one such as ViTForImageClassification")
    return partial(_transformers_network, kind)


def _transformers_network(
    kind: Any, config: dict[str, Any] | None = None, num_classes: int | None = None, attention: str | None = None
) -> nn.Module:
    if config is not None and not isinstance(config, dict):
        raise TypeError("config must be the configuration's fields, as config.to_dict() returns them")
    values = dict(config or {}) if num_classes is None else {**(config or {}), "num_labels": num_classes}
    bad = fetching(values)
    if bad or attention not in _ATTENTIONS:
        raise ValueError(f"the configuration would fetch more than the network ({bad or attention})")
    configuration = kind.config_class.from_dict(values)
    if attention is not None:
        configuration._attn_implementation = attention
    built: nn.Module = kind(configuration)
    return built


def fetching(config: Any) -> str:
    """The first field of a configuration that makes its network fetch code or weights; empty when there is none."""
    if isinstance(config, list):
        return next(filter(None, map(fetching, config)), "")
    if not isinstance(config, dict):
        return ""
    for key, value in config.items():
        timm = key == "model_type" and str(value).startswith("timm")
        attention = str(key).endswith("attn_implementation") and value not in _ATTENTIONS
        field = str(key) if timm or attention or (key in _FETCHING and value) else fetching(value)
        if field:
            return field
    return ""


def candidates(model: nn.Module, kind: type) -> Iterator[Origin]:
    """Origins from which `build` might build a network like this one, likeliest first; the caller has to compare.

    Args:
        model: a network of any library.
        kind: its class.
    """
    library = kind.__module__.partition(".")[0]
    if library == "transformers":
        yield from _of_transformers(model, kind)
    elif library == "timm":
        yield from _of_timm(model)
    elif kind.__module__.startswith("torchvision.models."):
        yield from _of_torchvision(model, kind)


def _of_transformers(model: nn.Module, kind: type) -> Iterator[Origin]:
    config: Any = getattr(model, "config", None)
    if getattr(sys.modules["transformers"], kind.__name__, None) is not kind or type(config) is not getattr(
        kind, "config_class", None
    ):
        return
    arguments: dict[str, Any] = {"config": json.loads(config.to_json_string(use_diff=False))}
    attention = getattr(config, "_attn_implementation", None)
    if attention is not None:
        arguments["attention"] = attention
    if not fetching(arguments["config"]) and attention in _ATTENTIONS:
        yield {"name": f"transformers/{kind.__name__}", "arguments": arguments}


def _of_timm(model: nn.Module) -> Iterator[Origin]:
    config: Any = getattr(model, "pretrained_cfg", None)
    config = config if isinstance(config, dict) else vars(config) if hasattr(config, "__dict__") else {}
    name, tag = config.get("architecture"), config.get("tag")
    if not name:
        return
    classes: dict[str, Any] = {"num_classes": int(getattr(model, "num_classes", 0))}
    images = next((int(p.shape[1]) for p in model.parameters() if p.ndim == 4), 3)
    side = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sizes = {} if side is None else {"img_size": [int(n) for n in side]}
    for arguments in ({}, classes, {**classes, "in_chans": images}, {**classes, "in_chans": images, **sizes}):
        yield {"name": f"timm/{name}.{tag}" if tag else f"timm/{name}", "arguments": arguments}


def _of_torchvision(model: nn.Module, kind: type) -> Iterator[Origin]:
    models: Any = sys.modules["torchvision.models"]
    last = list(model.parameters())[-1:]
    # the last layer has the classes; two families have options that pretrained weights change
    arguments: dict[str, Any] = {"num_classes": int(last[0].shape[0])} if last else {}
    arguments |= {key: getattr(model, key) for key in ("aux_logits", "transform_input") if hasattr(model, key)}
    for name in models.list_models(module=models):
        if models.get_model_builder(name).__module__ == kind.__module__:
            yield {"name": f"torchvision/{name}", "arguments": arguments}


def base_model(model: nn.Module) -> str | None:
    """The hub's name of the trained network from which this one was trained, where it is known."""
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    known = isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None
    return name if known else None
