"""Finds how a network can be built by name, and checks it by building it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.core.errors import RequestError, SecateurError
from secateur.models import origin_of
from secateur.models.building import rebuild
from secateur.models.libraries import Origin, candidates
from secateur.structure.edited import own_class
from secateur.surgery.pruning import ADDED_BIAS, add_bias, apply_edits, edits_of

_PLAIN = (bool, int, float, str, type(None))


def original_class(module: nn.Module) -> str:
    """The full name of a module's own class."""
    kind = own_class(module)
    return f"{kind.__module__}.{kind.__qualname__}"


def origin_for(model: nn.Module) -> tuple[Origin | None, str]:
    """The origin from which `rebuild` builds the network before surgery; or None, and the reason.

    Every candidate is built (without memory where that is possible), edited like the network, and compared with it:
    classes, plain attributes and shapes of all modules. A network that was changed by hand after it was built matches
    none.
    """
    recorded = origin_of(model)
    first = [] if recorded is None or recorded["name"].startswith("transformers/") else [recorded]
    reasons = []
    for origin in (*first, *candidates(model, own_class(model))):
        different = _difference(model, origin)
        if not different:
            return origin, ""
        reasons.append(f"{origin['name']} {different}")
    return None, reasons[0] if reasons else ""


def added_biases(model: nn.Module) -> list[str]:
    """Layers to which compensation added a bias that their constructor did not give them."""
    return [name for name, module in model.named_modules() if getattr(module, ADDED_BIAS, False)]


def give_biases(model: nn.Module, layers: Iterable[str]) -> None:
    """Add a bias of zeros to these layers where they have none."""
    modules = dict(model.named_modules())
    for name in layers:
        weight = modules[name]._parameters.get("weight") if name in modules else None
        if weight is None or weight.ndim == 0:
            raise RequestError(f"the network has no layer '{name}' that could take a bias")
        if modules[name]._parameters.get("bias") is None:
            size = getattr(modules[name], "out_channels", weight.shape[0])
            add_bias(modules[name], torch.zeros(size))


def _difference(model: nn.Module, origin: Origin) -> str:
    """The difference between a network and a newly built one; empty when there is none."""
    try:
        fresh = _rebuilt_and_edited(model, origin)
    except SecateurError as error:
        return f"does not give it ({error})"
    modules, others = (dict(m.named_modules(remove_duplicate=False)) for m in (model, fresh))
    for name in (*(modules.keys() - others.keys()), *(others.keys() - modules.keys())):
        return f"has another structure (at '{name}')"
    for name, module in modules.items():
        other = others[name]
        if own_class(module) is not own_class(other):
            return f"has a {own_class(other).__name__} at '{name}', this network a {own_class(module).__name__}"
        for key, value in vars(other).items():
            if key.startswith("_") or key == "training" or not _is_plain(value):
                continue
            ours = vars(module).get(key)
            if (tuple(ours) if isinstance(ours, list) else ours) != (
                tuple(value) if isinstance(value, list) else value
            ):
                return f"has {key}={value} at '{name}', this network {key}={ours}"
    return _other_shapes(model, fresh)


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(isinstance(v, _PLAIN) for v in value))


def _other_shapes(model: nn.Module, fresh: nn.Module) -> str:
    ours, theirs = model.state_dict(), fresh.state_dict()
    for name in sorted(ours.keys() ^ theirs.keys()):
        return f"has another state (at '{name}')"
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            return f"has shape {tuple(theirs[name].shape)} at '{name}', this network {tuple(tensor.shape)}"
    return ""


def _rebuilt_and_edited(model: nn.Module, origin: Origin) -> nn.Module:
    """The original network, edited like this one; without memory for its weights where that is possible."""

    def build() -> nn.Module:
        fresh = rebuild(origin)
        apply_edits(fresh, edits_of(model), guard=False)
        give_biases(fresh, added_biases(model))
        return fresh

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising tensors without memory raises a warning
        try:
            with _NoMemory():
                return build()
        except Exception:  # noqa: BLE001 - constructors may compute with their weights, and then fail in any way
            return build()


class _NoMemory(TorchFunctionMode):
    """Puts tensors that are filled later on the meta device; those from which constructors compute sizes stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)
