"""Calls of a network: what was given, as plain values, and which calls run the same code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

_FLOATS = "float"


def describe(value: Any) -> Any:
    """Inputs as JSON values: shapes and types of tensors, plain values; anything else is named."""
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"dict": {str(k): describe(v) for k, v in value.items()}}
    if isinstance(value, (tuple, list)):
        return [describe(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {"other": type(value).__name__, "tensors": bool(tensors_of(value))}


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Tensors in the attributes of an object of any kind, as a cache of keys and values, at any depth."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()

    def look(item: Any, depth: int) -> None:
        if isinstance(item, torch.Tensor):
            if item.numel():
                found.append(item)
        elif id(item) in seen or depth > 12:
            return
        elif isinstance(item, Mapping):
            seen.add(id(item))
            for part in item.values():
                look(part, depth + 1)
        elif isinstance(item, (tuple, list)):
            seen.add(id(item))
            for part in item:
                look(part, depth + 1)
        elif hasattr(item, "__dict__") and not isinstance(item, (type, torch.nn.Module)):
            seen.add(id(item))
            look(vars(item), depth + 1)

    look(value, 0)
    return found


def named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, without those that are None or what they are by default."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= {key: item for key, item in value.items() if item is not None}
        elif value is not None and not _is_default(value, parameter.default):
            found[name] = value
    return found


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and isinstance(value, (bool, int, float, str)) and bool(value == default)


def kind(described: Any) -> str:
    """Which calls run the same code, as far as their arguments tell: a text that these calls share.

    Of tensors, the number of dimensions counts, the kind of numbers, and which dimensions but the first have length
    one; of other values, what they are.
    """
    return json.dumps(_kind(described), sort_keys=True)


def _kind(described: Any) -> Any:
    if isinstance(described, dict) and "shape" in described:
        dtype = described["dtype"]
        numbers = next((name for name in ("complex", "bool", "uint8") if dtype.startswith(name)), "integer")
        numbers = _FLOATS if "float" in dtype else numbers
        return {"tensor": numbers, "dims": [min(size, 2) if dim else 2 for dim, size in enumerate(described["shape"])]}
    if isinstance(described, dict) and "dict" in described:
        return {"dict": {key: _kind(value) for key, value in described["dict"].items() if value is not None}}
    if isinstance(described, list):
        return [_kind(value) for value in described]
    return _FLOATS if isinstance(described, float) else described
