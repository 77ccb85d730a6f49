"""Calls of a network: their arguments as plain values, and which calls run the same code."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch


def describe(value: Any) -> Any:
    """Inputs as JSON values: shapes and types of tensors, plain values; anything else is named."""
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"dict": {k if isinstance(k, str) else repr(k): describe(v) for k, v in value.items()}}
    if isinstance(value, (tuple, list)):
        items = [describe(v) for v in value]
        return items if type(value) in (tuple, list, torch.Size) else [{"type": type(value).__name__}, *items]
    if value is None or type(value) in (bool, int, float, str):
        return value
    described: dict[str, Any] = {"other": type(value).__name__, "tensors": bool(cache_tensors(value))}
    text = "" if described["tensors"] else repr(value)
    return described if not text or " at 0x" in text or len(text) > _LONGEST else {**described, "text": text}


_LONGEST = 1000
"""Length of the longest text by which values of a type are distinguished."""


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Tensors in containers and in the attributes of any object, such as a cache of keys and values."""
    return [tensor for _, tensor in walk(value) if tensor.numel()]


def cache_tensors(value: Any) -> list[torch.Tensor]:
    """Tensors of a cache of keys and values, without the single numbers in which it counts."""
    return [tensor for tensor in tensors_of(value) if tensor.ndim > 1]


def returned_tensors(output: Any) -> list[torch.Tensor]:
    """Tensors that a network returns, without the caches for its next call."""
    return [tensor for _, tensor in walk(output, caches=False)]


def walk(value: Any, at: str = "", *, caches: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors with their paths: in containers, named tuples, and attributes of objects, at any depth.

    Args:
        value: the value to search.
        at: path of the value itself.
        caches: also search objects whose class is named a cache.
    """
    yield from _walk(value, at, caches, set(), 0)


def _walk(value: Any, at: str, caches: bool, seen: set[int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield at, value
        return
    if value is None or isinstance(value, (bool, int, float, str, bytes, type)) or id(value) in seen or depth > 12:
        return
    seen.add(id(value))
    items: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        items = [(f"{at}.{key}" if at else str(key), item) for key, item in value.items()]
    elif isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        items = [(f"{at}.{names[n]}" if names else f"{at}[{n}]", item) for n, item in enumerate(value)]
    elif isinstance(value, (set, frozenset)):
        items = [(f"{at}[{n}]", item) for n, item in enumerate(value)]
    elif isinstance(value, torch.nn.Module) or (not caches and type(value).__name__.endswith("Cache")):
        return
    elif hasattr(value, "__dict__"):
        items = [(f"{at}.{name}", item) for name, item in vars(value).items()]
    for path, item in items:
        yield from _walk(item, path, caches, seen, depth + 1)


def named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, without those that equal their default."""
    try:
        signature = _signature(getattr(function, "__func__", None) or function, inspect.ismethod(function))
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif not _is_default(value, parameter.default):
            arguments[name] = value
    return arguments


@cache
def _signature(function: Callable[..., Any], is_method: bool) -> inspect.Signature:
    whole = inspect.signature(function)
    return whole.replace(parameters=list(whole.parameters.values())[1:]) if is_method else whole


def _is_default(value: Any, default: Any) -> bool:
    if value is None:
        return default is None
    return type(value) is type(default) and isinstance(value, (bool, int, float, str)) and bool(value == default)


def kind(described: Any, lengths: bool = False) -> str:
    """A text that is the same for calls that run the same code, as far as their arguments tell.

    It depends on the number of dimensions of tensors, on their kind of numbers, and on which dimensions but the first
    have length one; and on all other values, as far as their text shows them.

    Args:
        described: arguments, as `describe` gives them.
        lengths: for code that compares lengths: the text also depends on the powers of two between which the
            length of each dimension but the first lies.
    """
    return json.dumps(_kind(described, lengths), sort_keys=True)


def serves(recorded: Any, described: Any, lengths: bool) -> bool:
    """Whether a call is of the same kind as a recorded one, some of whose lengths (None) do not matter."""
    return kind(recorded, lengths) == kind(_without(recorded, described), lengths)


def _without(recorded: Any, described: Any) -> Any:
    """A described value, without the lengths that the recorded one leaves open."""
    if type(recorded) is not type(described):
        return described
    if isinstance(recorded, list) and len(recorded) == len(described):
        return [_without(a, b) for a, b in zip(recorded, described, strict=True)]
    if isinstance(recorded, dict) and "shape" in recorded and len(recorded["shape"]) == len(described.get("shape", ())):
        shape = [None if a is None else b for a, b in zip(recorded["shape"], described["shape"], strict=True)]
        return {**described, "shape": shape}
    if isinstance(recorded, dict):
        return {key: _without(recorded.get(key), value) for key, value in described.items()}
    return described


def _kind(described: Any, lengths: bool) -> Any:
    if isinstance(described, dict) and "shape" in described:
        dtype = described["dtype"]
        numbers = next((name for name in ("complex", "bool", "uint8") if dtype.startswith(name)), "integer")
        numbers = "float" if "float" in dtype else numbers
        dims = [None if size is None else _length(size, lengths) for size in described["shape"][1:]]
        return {"tensor": numbers, "dims": dims, "first": bool(described["shape"])}
    if isinstance(described, dict) and "dict" in described:
        return {"dict": {key: _kind(value, lengths) for key, value in described["dict"].items()}}
    if isinstance(described, list):
        return [_kind(value, lengths) for value in described]
    return described


def _length(size: int, lengths: bool) -> int:
    return max(0, size - 1).bit_length() if lengths else min(size, 2)
