"""Copies of networks."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from secateur.core.errors import RequestError


def copied_network(model: nn.Module, held: dict[int, Any] | None = None) -> nn.Module:
    """A copy of a network; tensors that modules have computed from parameters (old weight norm) are copied as values.

    Args:
        model: any network.
        held: replacements of objects, by their ids, as in `copy.deepcopy`.

    Raises:
        RequestError: for a module whose own ``forward`` refers to the network: a copy would run the original.
    """
    held = {} if held is None else held
    for path, module in model.named_modules():
        own = module.__dict__.get("forward")
        if isinstance(own, types.FunctionType) and any(isinstance(v, nn.Module) for v in _held_by(own)):
            raise RequestError(
                f"module '{path}' was given a forward that refers to the network, so that copies run the original's "
                "layers; write it as a method of a class"
            )
        for value in module.__dict__.values():
            if isinstance(value, torch.Tensor) and not value.is_leaf and id(value) not in held:
                held[id(value)] = value.detach().clone()
    return copy.deepcopy(model, held)


def _held_by(function: types.FunctionType) -> Iterator[Any]:
    """Values that a function has from its enclosing scopes, and its defaults."""
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        yield getattr(value, "__self__", value)
    yield from function.__defaults__ or ()
