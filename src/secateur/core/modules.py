"""What is given in place of a network, refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from secateur.core.errors import RequestError


def check_module(model: object, *, compiled: bool = False) -> None:
    """Refuse what is no `torch.nn.Module`, saying how to come by one.

    Args:
        model: anything.
        compiled: let a module pass that `torch.compile` gave.

    Raises:
        RequestError: for anything else.

    Example:
        >>> check_module(nn.Linear(2, 2))
        >>> check_module(nn.Linear)
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: the network must be a torch.nn.Module, got the class Linear; give an \
instance of it: Linear(...)
    """
    if isinstance(model, nn.Module):
        if hasattr(model, "_orig_mod") and not compiled:
            raise RequestError("the network is compiled; give the module before torch.compile, compile the pruned one")
        return
    raise RequestError(f"the network must be a torch.nn.Module, got {_said(model)}")


def _said(model: object) -> str:
    if isinstance(model, type):
        return f"the class {model.__name__}; give an instance of it: {model.__name__}(...)"
    if isinstance(model, str | Path):
        return f"'{model}'; secateur.build('{model}') opens networks by name or file, secateur.load a bundle folder"
    if isinstance(model, Mapping) and any(isinstance(value, torch.Tensor) for value in model.values()):
        return "a state_dict; build the network first, then model.load_state_dict(...) and give the model"
    if isinstance(model, torch.export.ExportedProgram):
        return "an exported program; give the module that it was exported from, or its FILE.pt2 to secateur.build"
    if isinstance(model, torch.Tensor):
        return "a tensor; the network comes first, the inputs second"
    if callable(model):
        return (
            f"a {type(model).__name__}; write a module whose forward does what it does, with its layers as attributes"
        )
    return "None" if model is None else f"a {type(model).__name__}"
