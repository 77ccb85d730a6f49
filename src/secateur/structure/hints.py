"""Why a network does not run on an input: the usual mistakes, how to recognise them and how to fix them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_COLOURS = (1, 3, 4)
_TYPES = ("should be the same", "same dtype", "scalar type", "expected m1 and m2 to have the same")
_INDEXED = ("index out of range", "too many indices", "only integers, slices", "new(): invalid data type")


def remedy(error: Exception, line: str, tensors: Sequence[torch.Tensor], model: nn.Module | None = None) -> str:
    """How to fix a failing pass, as words that follow the failure; empty where nothing is known.

    Args:
        error: the error that the pass raised.
        line: first line of its text.
        tensors: inputs of the pass.
        model: the network; inputs should have the type and device of its weights.

    Example:
        >>> remedy(RuntimeError(), "Given groups=1, expected 3 channels, but got 10", [torch.zeros(1, 10, 10, 3)])
        'channels come before height and width: x.permute(0, 3, 1, 2)'
    """
    if isinstance(error, TypeError) and "argument" in line and "missing" in line:
        return "give all its inputs, as a tuple of positional or a dict of keyword arguments"
    if not tensors:
        return "no input is a tensor: torch.from_numpy(array), or torch.zeros(shape) for a shape, makes one"
    hint = _arguments(line) if isinstance(error, TypeError) else ""
    return hint or _values(line, tensors, model) or _shapes(line, tensors[0])


def _arguments(line: str) -> str:
    if "unexpected keyword" in line:
        return (
            "a dict is taken as keyword arguments; where forward takes one dict, give it in a tuple: ({...},), "
            "and where it takes a tensor, give that"
        )
    if "positional argument" in line:
        return (
            "a tuple or list is taken as several arguments: give inputs without their labels, and samples of one input "
            "as one tensor (torch.stack)"
        )
    return ""


def _values(line: str, tensors: Sequence[torch.Tensor], model: nn.Module | None) -> str:
    """Hint for types, devices or numbers that the network does not accept."""
    first = tensors[0]
    weight = None if model is None else next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is not None and "device" in line and first.device != weight.device:
        return f"the network is on {weight.device}, the inputs on {first.device}: inputs.to('{weight.device}')"
    if "'indices'" in line and first.is_floating_point():
        return "an embedding reads token ids, which are integers: inputs.long()"
    if weight is not None and any(text in line for text in _TYPES) and first.dtype != weight.dtype:
        scaled = " scaled and normalised like the training data," if first.dtype == torch.uint8 else ""
        name = str(weight.dtype)
        return f"the weights are {name}, the inputs {first.dtype}: give inputs{scaled} as {name} (inputs.to({name}))"
    if "index out of range" in line and not first.is_floating_point():
        return "token ids must lie below the number of the embedding's rows"
    if any(text in line for text in _INDEXED):
        return (
            "a network that takes a dict or several inputs needs a wrapper: a module whose forward takes one tensor "
            "and makes the rest of it"
        )
    return ""


def _shapes(line: str, first: torch.Tensor) -> str:
    shape = list(first.shape)
    if first.ndim == 4 and shape[3] in _COLOURS and shape[1] not in _COLOURS and "channels" in line:
        return "channels come before height and width: x.permute(0, 3, 1, 2)"
    if first.ndim == 3 and (shape[0] in _COLOURS or shape[2] in _COLOURS):
        last = "" if shape[0] in _COLOURS else ".permute(2, 0, 1)"
        return f"for one image, samples are missing as the first dimension: x{last}.unsqueeze(0)"
    if first.ndim == 1 and first.is_floating_point():
        return "samples are missing as the first dimension: x.unsqueeze(0)"
    return ""
