"""Captures a network on example inputs as a graph, and draws random batches like the example."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from secateur.core.errors import RequestError, SecateurError
from secateur.models.feature_map import FeatureMap

_TYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
    | {torch.bool}
)


@dataclass(frozen=True, eq=False)
class Example:
    """Inputs of a network: positional, or by keyword where the names are strings.

    Inputs whose first dimension equals that of the first input are taken to hold one row per sample.
    """

    tensors: dict[int | str, torch.Tensor]

    @classmethod
    def of(cls, inputs: Any) -> Example:
        """An example from a tensor, a tuple or list of positional arguments, or a dict of keyword arguments.

        Raises:
            RequestError: for anything else, or tensors that have no samples.
        """
        by_name: dict[Any, Any]
        if isinstance(inputs, torch.Tensor):
            by_name = {0: inputs}
        elif isinstance(inputs, Mapping):
            by_name = dict(inputs)
        elif isinstance(inputs, (tuple, list)):
            by_name = dict(enumerate(inputs))
        else:
            by_name = {}
        tensors = [t for t in by_name.values() if isinstance(t, torch.Tensor)]
        if not by_name or len(tensors) != len(by_name):
            raise RequestError(
                "example inputs for the export should be a tensor, a tuple of tensors, or a dict of tensors by "
                f"argument name, got {type(inputs).__name__}"
            )
        if tensors[0].ndim == 0 or any(t.numel() == 0 for t in tensors):
            raise RequestError(f"example inputs hold no sample: their shapes are {[tuple(t.shape) for t in tensors]}")
        for tensor in tensors:
            if tensor.dtype not in _TYPES:
                raise RequestError(
                    f"inputs of type {tensor.dtype} cannot be exported; convert network and inputs, e.g. by .float()"
                )
        return cls({name: tensor.detach().cpu() for name, tensor in by_name.items()})

    @property
    def rows(self) -> int:
        """Number of samples in the example."""
        return int(next(iter(self.tensors.values())).shape[0])

    @property
    def batched(self) -> tuple[int | str, ...]:
        """Names of inputs that hold one row per sample."""
        return tuple(name for name, t in self.tensors.items() if t.ndim and t.shape[0] == self.rows)

    @property
    def args(self) -> tuple[torch.Tensor, ...]:
        """Positional arguments."""
        return tuple(t for name, t in self.tensors.items() if isinstance(name, int))

    @property
    def kwargs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments."""
        return {name: t for name, t in self.tensors.items() if isinstance(name, str)}

    def draw(self, rows: int, generator: torch.Generator) -> Example:
        """A random batch of ``rows`` samples.

        Each value is drawn from the values of the example, so that token ids and images stay in their range; where
        all values of a real input are equal, from the standard normal distribution. Inputs without a row per sample
        are not changed.
        """
        drawn = dict(self.tensors)
        for name in self.batched:
            tensor = self.tensors[name]
            shape = (rows, *tensor.shape[1:])
            values = tensor.reshape(-1)
            if tensor.is_floating_point() and bool((values == values[0]).all()):
                drawn[name] = torch.randn(shape, generator=generator).to(tensor.dtype)
            else:
                drawn[name] = values[torch.randint(len(values), shape, generator=generator)]
        return Example(drawn)

    def describe(self, dynamic: bool) -> list[dict[str, Any]]:
        """Shape and type of each input, for records; None stands for any number of samples."""
        batched = self.batched if dynamic else ()
        return [
            {
                "shape": [None if name in batched and d == 0 else int(n) for d, n in enumerate(t.shape)],
                "dtype": str(t.dtype).removeprefix("torch."),
            }
            for name, t in self.tensors.items()
        ]


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU in eval mode without gradients; ``model`` is not changed."""
    try:
        frozen = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    except Exception as error:  # a module's own __deepcopy__ may raise anything; the remedy is the same
        raise RequestError(
            f"the network cannot be copied for the export ({one_line(error)}); build it again and load its weights"
        ) from error
    for parent in list(frozen.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, FeatureMap):
                setattr(parent, name, module.straight().requires_grad_(False))
    return frozen


def outputs_of(model: nn.Module, example: Example) -> list[torch.Tensor]:
    """All tensors that the network returns, in order; nested tuples, lists and dicts are flattened.

    Raises:
        RequestError: when the network fails on the example, or returns no tensor.
    """
    try:
        with torch.no_grad():
            outputs = list(flatten(model(*example.args, **example.kwargs)))
    except Exception as error:  # the user's own code may raise anything; the remedy is the same
        shapes = [tuple(t.shape) for t in example.tensors.values()]
        raise RequestError(f"the network fails on inputs of shape {shapes}: {one_line(error)}") from error
    if not outputs:
        raise RequestError("the network returns no tensor; an export needs at least one output")
    return outputs


def flatten(output: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (tuple, list, Mapping)):
        for item in output.values() if isinstance(output, Mapping) else output:
            yield from flatten(item)


def dynamic_shapes(example: Example) -> Any:
    """The dynamic shapes of the inputs for `torch.export`: the first dimension is free."""
    free = {name: {0: torch.export.Dim("batch")} if name in example.batched else {} for name in example.tensors}
    return free if example.kwargs else tuple(free.values())


def capture(model: nn.Module, example: Example, dynamic: bool) -> torch.export.ExportedProgram:
    """The network as a graph.

    Args:
        model: a network in eval mode, on the CPU.
        example: its batch size is kept when not ``dynamic``; otherwise at least two samples, because one is a special
            case.
        dynamic: whether the result accepts any number of samples.

    Raises:
        RequestError: when the code cannot be captured.
    """
    shapes = dynamic_shapes(example) if dynamic else None
    try:
        with quiet():
            return torch.export.export(model, example.args, example.kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the tracer raises, the export cannot continue
        line = one_line(error)
        if dynamic and "specialized it to be a constant" in str(error):
            raise RequestError(
                "the network's code has a batch size written into it, so it cannot be exported for any; "
                "give one batch size (--batch N, batch=N), or take the size from the tensor"
            ) from error
        raise RequestError(
            f"the network cannot be captured as a graph ({line}); branches and sizes must not depend on values of "
            "the inputs"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of exporters on the terminal, but not their exceptions."""
    talk = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def one_line(error: BaseException) -> str:
    """Type and first sentence of an error, because libraries raise long texts with colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:300]}" if line else type(error).__name__


def need(module: str, extra: str) -> Any:
    """Import an optional dependency, or raise `RequestError` with the command that installs it."""
    try:
        with quiet():
            return import_module(module)
    except ImportError as error:
        raise RequestError(
            f"'{module}' is missing or broken ({one_line(error)}); pip install 'secateur[{extra}]'"
        ) from error


def finite(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs; raises `SecateurError` for values that are not finite, which cannot be compared."""
    if not all(bool(torch.isfinite(t).all()) for t in outputs):
        raise SecateurError("the network's outputs on random inputs are not finite; look for NaN in the weights")
    return outputs
