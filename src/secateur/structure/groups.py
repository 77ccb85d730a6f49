"""Units, groups, and the layers that hold them.

A *unit* is what is removed as a whole. Every removable unit has a number from 0 to U-1; units of one group have
consecutive numbers. An *axis* maps the indices of one dimension of one tensor to their units; removal, masking and
costs are computed from axes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

FIXED = -1
Role = Literal["out", "in", "along"]
Measure = Literal["units", "params", "macs"]
NORMED = ("is normalised across units by a layer norm", "is normalised together with others by a group norm")
"""Reasons of units that are not locked with ``stream=True``."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Units along one dimension of one parameter or buffer.

    Attributes:
        tensor: name of the parameter or buffer in the network's state.
        dim: the dimension.
        role: ``out`` where units are produced, ``in`` where they are read, ``along`` where they are passed on (norm,
            depthwise).
        unit: int array [factors, size]: numbers of the units each index belongs to, -1: none. An index stays when all
            its units stay; in a packed attention projection these are its head and its dimension within the head.
    """

    tensor: str
    dim: int
    role: Role
    unit: np.ndarray

    def stays(self, keep: np.ndarray) -> np.ndarray:
        """Which indices stay when the units where ``keep`` [U] is true stay, [size] bool."""
        return stays(self.unit, keep)


def stays(unit: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Indices [size] all of whose units [factors, size] are kept."""
    return np.asarray((np.append(keep, True)[unit]).all(0))


@dataclass(frozen=True)
class Layer:
    """A weighted layer in order of execution.

    Attributes:
        name: name of the module, or of the weight where no module owns it.
        weight: name of its weight.
    """

    name: str
    weight: str


@dataclass(frozen=True)
class Call:
    """A convolution, a matrix product with a weight, or a product of two activations, as it runs.

    Attributes:
        name: name of the layer; empty for products of activations.
        op: ``convolution``, ``linear`` or ``product``.
        input_shape: shape of the input, with the samples of the example.
        weight_shape: shape of the weight, or of the second activation.
        options: options of a convolution: stride, padding, dilation, transposed, output_padding, groups.
    """

    name: str
    op: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Work:
    """A call, and how its size depends on units.

    Attributes:
        call: the call at full size.
        input_units: per dimension of the input, [factors, size] or None where nothing can be removed; weight_units: the
            same for the weight.
        macs: multiply-accumulates per sample = ``macs`` times the product of ``sizes``.
        sizes: (length, units) of each size that counts.
    """

    call: Call
    input_units: tuple[np.ndarray | None, ...]
    weight_units: tuple[np.ndarray | None, ...]
    macs: float
    sizes: tuple[tuple[int, np.ndarray | None], ...]

    @property
    def passes_on(self) -> bool:
        """Whether it is a grouped convolution, whose outputs are removed with its inputs."""
        return self.call.op == "convolution" and self.call.options["groups"] > 1

    def at(self, keep: np.ndarray) -> Call:
        """The call when only some units stay."""

        def shape(full: tuple[int, ...], units: tuple[np.ndarray | None, ...]) -> tuple[int, ...]:
            return tuple(n if u is None else int(stays(u, keep).sum()) for n, u in zip(full, units, strict=True))

        call = self.call
        inputs, weights = shape(call.input_shape, self.input_units), shape(call.weight_shape, self.weight_units)
        options = dict(call.options)
        if call.op == "convolution" and options["groups"] > 1:
            # weights are [out, in / groups, ...] or, transposed, [in, out / groups, ...]
            if options["transposed"]:
                rows = call.weight_shape[0] // options["groups"]
                options["groups"] = groups_left(self.weight_units[0], rows, keep) or options["groups"]
            else:
                options["groups"] = inputs[1] // weights[1]
        return Call(call.name, call.op, inputs, weights, options)


def groups_left(unit: np.ndarray | None, rows: int, keep: np.ndarray) -> int:
    """Number of groups, of ``rows`` indices each, of which any index stays."""
    return 0 if unit is None else int(stays(unit, keep).reshape(-1, rows).any(1).sum())


@dataclass(frozen=True)
class Group:
    """Units that the same layers produce, and that can only be removed from all those layers together.

    Attributes:
        name: name of the first layer that produces them.
        layers: names of all layers that produce them.
        first: number of its first unit.
        size: number of units.
        width: channels per unit in the layer that produces it.
        kind: ``channels`` of convolutions, ``neurons``, attention ``heads``, ``dims`` within all heads, ``groups`` of
            convolutions or norms, channels of a residual ``stream`` that a norm runs over.
        added: whether they are added to the units of another layer, as a residual block's outputs to its inputs.
    """

    name: str
    layers: tuple[str, ...]
    first: int
    size: int
    width: int
    kind: str = "channels"
    added: bool = False

    @property
    def units(self) -> slice:
        """Slice of its units in arrays over all units."""
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Locked:
    """Channels that cannot be removed, and why."""

    name: str
    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True)
class Cost:
    """Absolute size of a network: removable units kept, parameters, multiply-accumulates per sample."""

    units: int
    params: int
    macs: int

    def share_of(self, whole: Cost) -> dict[str, float]:
        """Each figure as a share of another network's."""
        return {m: getattr(self, m) / max(1, getattr(whole, m)) for m in ("units", "params", "macs")}
