"""What is recorded of one call of a module: its own calls, and where its sizes come from."""

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
"""A JSON value: what a step's argument is made of."""
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
        args: and ``kwargs``, its arguments.
        outs: shape and nodes of the tensors it gave, by place.
        frames: where in the code it stands; empty: it was not looked for.
    """

    target: str
    args: list[Value]
    kwargs: dict[str, Value]
    outs: dict[tuple[Any, ...], tuple[tuple[int, ...], Dims]]
    frames: Frames = ()


@dataclass(frozen=True, eq=False)
class Factor:
    """A size that the module's code makes a factor of.

    Attributes:
        size: where it comes from.
        frames: where in the code that happens.
        side: of an operator, which operand it is; empty: the argument of a call.
    """

    size: Value
    frames: Frames
    side: str


@dataclass(frozen=True, eq=False)
class Condition:
    """A size that the module's code compares with a number, or takes as a text, a truth value or a plain number.

    Attributes:
        name: of the comparison in `operator`; ``text``, ``bool``, or ``number`` where a function without rules of sizes
            is given it.
        left: the size; right: the other number.
        nodes: of the dimensions that both come from.
        frames: where in the code that happens.
    """

    name: str
    left: Value
    right: Value
    nodes: tuple[Any, ...]
    frames: Frames


@dataclass(eq=False)
class Scope:
    """One call of a module: its steps, and what is known by which name.

    Attributes:
        path: of the module; module: itself; given: its arguments, positional and by name, as plain values.
        steps: its calls; output: what it returned; broken: why it cannot be written down anew.
        baked: weights that its code computes from its parameters alone, by the parameter whose place they can take;
            replaced: all parameters that they are computed from.
        factors: sizes that its code makes factors of; conditions: sizes that it compares.
        compares_lengths: whether it compares sizes that no pruning changes, as lengths of sequences.
        dtypes: tensors whose type it asks for, by type.
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
        """Let tensors and sizes in ``value`` be known as parts of an input or of a step's result."""
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
        """All tensors that it was given or has made."""
        return [value for value in self._held if isinstance(value, torch.Tensor)]

    def known(self, value: Any) -> Value | None:
        """How a tensor or size is called here."""
        return self._known.get(id(value))


def key_of(reference: Value) -> str:
    """A text for a reference."""
    return repr(sorted(reference.items()))


def needed(steps: list[Step], value: Value) -> set[int]:
    """Numbers of the steps that a value is made by."""
    found: set[int] = set()
    left = set(find(value, "$"))
    while left:
        number = left.pop()
        found.add(number)
        left |= set(find([steps[number].args, list(steps[number].kwargs.values())], "$")) - found
    return found


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
