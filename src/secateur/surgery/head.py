"""Restricts networks to some of their classes: the head is cut to them, or the other classes are masked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.core.errors import RequestError
from secateur.data.classes import class_indices
from secateur.selection import Plan
from secateur.structure import Structure
from secateur.structure.base import tensors_in
from secateur.structure.tracing import ASIDE, arguments, borrowed, failure, trace_outputs
from secateur.surgery.pruning import prune

OUT_OF_PLAY = -1e4
"""Added to the logits of masked classes: far below any other logit, and within half precision."""


def slice_head(model: nn.Module, classes: Sequence[int], example_inputs: Any) -> nn.Module:
    """A new network that returns the logits of some classes only, in ascending order; ``model`` is untouched.

    The layers that produce the logits are found by a trace, for any names and number (a linear
    layer, a 1x1 convolution with pooling, two heads that are averaged), and cut as `prune` cuts: the result can be
    pruned, saved and loaded like any pruned network. A mask of `mask_head` is not kept.

    Args:
        model: a network that returns logits [N, K], alone or as the first of several tensors.
        classes: indices of the classes that stay; with all classes, the result is a plain copy.
        example_inputs: as for `secateur.structure.tracing.trace`; also the inputs on which old and new logits are
            compared.

    Raises:
        RequestError: for classes that the network does not have, and for heads that cannot be cut, with the reason;
            `mask_head` works for every network.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))
        >>> x = torch.randn(3, 4)
        >>> torch.allclose(slice_head(net, [3, 1], x)(x), net(x)[:, [1, 3]])
        True
    """
    unmasked = _unmasked_copy(model)
    expected = _logits(unmasked, example_inputs)
    if expected.ndim != 2:
        raise _cannot(f"the network's output is {list(expected.shape)}, not [samples, classes]")
    kept = class_indices(classes, (), range(expected.shape[1]))
    if len(kept) == expected.shape[1]:
        return unmasked
    try:
        structure, outputs = trace_outputs(unmasked, example_inputs)
        keep = np.ones(structure.num_units, bool)
        keep[outputs] = False
        keep[outputs[list(kept)]] = True
        _refuse_read(structure, outputs)
        plan = Plan.of(structure, keep, {}, "classes", "head")
        sliced = prune(unmasked, plan, check=False)
        logits = _logits(sliced, example_inputs)
    except RequestError as error:
        raise _cannot(str(error)) from error
    wanted = expected[:, list(kept)]
    limit = 1e-2 if wanted.dtype in (torch.half, torch.bfloat16) else 1e-3
    if logits.shape != wanted.shape or not torch.allclose(logits, wanted, limit, limit * float(wanted.abs().max())):
        raise _cannot("without the other outputs the network computes something else")
    return sliced


def mask_head(model: nn.Module, classes: Sequence[int]) -> nn.Module:
    """A copy with the same names and shapes in which only some classes compete; ``model`` is untouched.

    A forward hook adds -10,000 to all other logits, so that softmax and argmax choose among the given classes. Copies,
    pruning and training keep the hook; it does not run while a structure is traced. Bundles do not hold it: save and
    load return the network without it. A mask that the network already has is replaced.

    Args:
        model: a network that returns logits [N, K], alone, as the first of a tuple, or as ``logits`` of an object or
            dictionary.
        classes: indices of the classes that compete. Indices beyond the outputs are refused when the network runs.

    Raises:
        RequestError: for an empty list, a repeated class, or a value that is no index.

    Example:
        >>> net = mask_head(nn.Linear(4, 3), [0, 2])
        >>> net(torch.randn(5, 4)).softmax(1)[:, 1].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    wrong = [c for c in classes if isinstance(c, bool) or not isinstance(c, int | np.integer) or c < 0]
    if wrong:
        raise RequestError(f"classes to keep must be indices from 0, got {wrong[0]!r}")
    masked = _unmasked_copy(model)
    masked.register_forward_hook(_HeadMask(class_indices(classes, (), classes)))
    return masked


def head_mask(model: nn.Module) -> tuple[int, ...] | None:
    """The classes that compete in a network of `mask_head`; None for other networks."""
    return next((hook.classes for hook in model._forward_hooks.values() if isinstance(hook, _HeadMask)), None)


class _HeadMask:
    """Forward hook that masks all but some classes; it is copied with its network."""

    def __init__(self, classes: tuple[int, ...]) -> None:
        self.classes = classes
        setattr(self, ASIDE, True)

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return self._masked(output)
        if isinstance(output, tuple) and output and isinstance(output[0], torch.Tensor):
            parts = (self._masked(output[0]), *output[1:])
            return type(output)(*parts) if hasattr(output, "_fields") else parts  # named tuples take fields
        if isinstance(getattr(output, "logits", None), torch.Tensor):
            changed = copy.copy(output)
            changed.logits = self._masked(output.logits)
            return changed
        if isinstance(output, dict) and isinstance(output.get("logits"), torch.Tensor):
            return {**output, "logits": self._masked(output["logits"])}
        raise RequestError(f"the network returns a {type(output).__name__}, in which the logits to mask are not known")

    def _masked(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.ndim != 2:
            raise RequestError(f"logits to mask must be [samples, classes], the network returns {list(logits.shape)}")
        inside = class_indices(self.classes, (), range(logits.shape[1]))
        added = [0.0 if index in inside else OUT_OF_PLAY for index in range(logits.shape[1])]
        return logits + torch.tensor(added, dtype=logits.dtype, device=logits.device)


def _unmasked_copy(model: nn.Module) -> nn.Module:
    unmasked = copy.deepcopy(model)
    for module in unmasked.modules():
        for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, _HeadMask)]:
            del module._forward_hooks[key]
    return unmasked


def _logits(model: nn.Module, example_inputs: Any) -> torch.Tensor:
    args, kwargs = arguments(example_inputs)
    try:
        with borrowed(model), torch.no_grad():
            logits = next(tensors_in(model(*args, **kwargs)), None)
    except Exception as error:  # the user's own code may raise anything; the remedy is the same
        raise RequestError(failure(error, list(tensors_in((args, kwargs))))) from error
    if logits is None:
        raise RequestError("the network returns no tensor")
    return logits


def _refuse_read(structure: Structure, outputs: np.ndarray) -> None:
    """Refuse outputs that a layer reads: other outputs depend on them, and would change."""
    gone = np.zeros(structure.num_units + 1, bool)
    gone[outputs] = True
    for layer, units in structure.read.items():
        if gone[units].any():
            raise RequestError(f"outputs are also read inside the network, by '{layer}'")


def _cannot(reason: str) -> RequestError:
    return RequestError(f"the head cannot be cut to some classes: {reason}; keep its shape with replace_head=mask")
