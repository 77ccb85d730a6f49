"""The record of one call of a module: its own calls, and where its sizes come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.structure.labels import Dims, Labels
from secateur.structure.provenance import Size
from secateur.structure.source import Frames

Value = Any
"""A JSON value that describes a step's argument."""
CONVOLUTIONS = frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split())
ARITHMETIC = frozenset(
    "add sub rsub mul div true_divide divide multiply subtract pow __pow__ __rpow__ __add__ __radd__ __iadd__ __sub__ "
    "__rsub__ __mul__ __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__ add_ sub_ mul_ div_ tensor as_tensor "
    "full full_like".split()
)
NAMES_SIZES = CONVOLUTIONS | ARITHMETIC | frozenset(
    "reshape view expand broadcast_to _unsafe_view unflatten split chunk split_with_sizes tensor_split unsafe_chunk "
    "unsafe_split __getitem__ __setitem__ narrow layer_norm rms_norm group_norm scaled_dot_product_attention".split()
)
"""Functions whose arguments may name sizes."""


@dataclass(eq=False)
class Step:
    """One call in a module's own code.

    Attributes:
        target: the function's public name, or ``module:`` and a child's path.
        args: its positional arguments; kwargs: its keyword arguments.
        outs: shape and nodes of the tensors that it returned, by their path in the result.
        frames: where in the code the call is; empty where that was not recorded.
    """

    target: str
    args: list[Value]
    kwargs: dict[str, Value]
    outs: dict[tuple[Any, ...], tuple[tuple[int, ...], Dims]]
    frames: Frames = ()


@dataclass(frozen=True, eq=False)
class Factor:
    """A size that the module's code uses as a factor.

    Attributes:
        size: where it comes from.
        frames: where in the code that happens.
        side: which operand of an operator it is; empty for the argument of a call.
    """

    size: Value
    frames: Frames
    side: str


@dataclass(frozen=True, eq=False)
class Condition:
    """A size that the module's code compares with a number, or uses as text, truth value or plain number.

    Attributes:
        name: name of the comparison in `operator`; ``text``, ``bool``, or ``number`` where it is passed to a function
            without a rule for sizes.
        left: the size; right: the other number.
        nodes: nodes of the dimensions from which both come.
        frames: where in the code that happens.
    """

    name: str
    left: Value
    right: Value
    nodes: tuple[Any, ...]
    frames: Frames


@dataclass(eq=False)
class Scope:
    """One call of a module: its steps, and the references by which its values are known.

    Attributes:
        path: path of the module; module: the module; given: its arguments, positional and by name, as plain values.
        steps: its calls; output: what it returned; broken: why it cannot be rewritten.
        baked: weights that its code computes from its parameters alone, by the parameter that they can replace;
            replaced: all parameters from which they are computed.
        factors: sizes that its code uses as factors; conditions: sizes that it compares.
        compares_lengths: whether it compares sizes that no pruning changes, as lengths of sequences.
        dtypes: tensors whose type it reads, by type.
        shapes: shape and nodes of tensors, by reference.
    """

    path: str
    module: nn.Module
    given: list[Any]
    steps: list[Step] = field(default_factory=list)
    output: Value = None
    broken: str = ""
    baked: dict[str, Value] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    factors: list[Factor] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    compares_lengths: bool = False
    dtypes: dict[torch.dtype, Value] = field(default_factory=dict)
    shapes: dict[str, tuple[tuple[int, ...], Dims]] = field(default_factory=dict)
    _known: dict[int, Value] = field(default_factory=dict)
    _held: list[Any] = field(default_factory=list)

    def bind(self, value: Any, where: dict[str, Any], labels: Labels, at: tuple[Any, ...] = ()) -> None:
        """Register tensors and sizes in ``value`` as parts of an input or of a step's result."""
        if isinstance(value, (torch.Tensor, Size)):
            reference = {**where, "at": list(at)} if at else dict(where)
            self._known[id(value)] = reference
            self._held.append(value)
            if isinstance(value, torch.Tensor):
                self.shapes[key_of(reference)] = tuple(value.shape), labels.of(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                self.bind(item, where, labels, (*at, key))
        elif isinstance(value, (tuple, list)):
            for index, item in enumerate(value):
                self.bind(item, where, labels, (*at, index))

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All tensors that the call received or computed."""
        return [value for value in self._held if isinstance(value, torch.Tensor)]

    def known(self, value: Any) -> Value | None:
        """The reference by which a tensor or size is known; None where it is not."""
        return self._known.get(id(value))


def key_of(reference: Value) -> str:
    """A reference as text, to be used as a key."""
    return repr(sorted(reference.items()))


def needed(steps: list[Step], value: Value) -> set[int]:
    """Numbers of the steps on which a value depends."""
    numbers: set[int] = set()
    waiting = set(find(value, "$"))
    while waiting:
        number = waiting.pop()
        numbers.add(number)
        waiting |= set(find([steps[number].args, list(steps[number].kwargs.values())], "$")) - numbers
    return numbers


def find(value: Value, kind: str) -> Iterator[Any]:
    """Everything of one kind of reference in a recorded value."""
    if isinstance(value, dict):
        if kind in value:
            yield value[kind]
        for item in value.values():
            yield from find(item, kind)
    elif isinstance(value, list):
        for item in value:
            yield from find(item, kind)
