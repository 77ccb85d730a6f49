"""Units, groups and what they cost.

A *unit* is what is removed as a whole. Every removable unit has a number from 0 to U-1; units of one group have
consecutive numbers. An *axis* says, for one dimension of one tensor, to which unit each index belongs, so that
removal, masking and costs need nothing but axes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from secateur.core.errors import RequestError

FIXED = -1
Role = Literal["out", "in", "along"]
Measure = Literal["units", "params", "macs"]


@dataclass(frozen=True, eq=False)
class Axis:
    """Units along one dimension of one parameter or buffer.

    Attributes:
        tensor: its name in the network's state.
        dim: dimension.
        role: ``out``: the units are made here; ``in``: they are read here; ``along``: passed on (norm, depthwise).
        unit: int array [size]: number of the unit each index belongs to, -1: stays.
    """

    tensor: str
    dim: int
    role: Role
    unit: np.ndarray


@dataclass(frozen=True)
class Layer:
    """A weighted layer in order of execution.

    Attributes:
        name: of the module, or of the weight where no module owns it.
        weight: name of its weight.
        positions: per sample, at which each weight element is used; MACs = positions x remaining elements.
    """

    name: str
    weight: str
    positions: int


@dataclass(frozen=True)
class Group:
    """Units that are made by the same layers and can only leave all those layers together.

    Attributes:
        name: of the first layer that makes them.
        layers: names of all layers that make them.
        first: number of its first unit.
        size: how many units.
        width: channels per unit (more than one behind grouped convolutions).
    """

    name: str
    layers: tuple[str, ...]
    first: int
    size: int
    width: int

    @property
    def units(self) -> slice:
        """Positions of its units in arrays over all units."""
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Locked:
    """Channels that cannot go, and why."""

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


@dataclass(frozen=True, eq=False)
class Structure:
    """Groups of removable units of one network, what cannot be removed, and all costs.

    Made by `secateur.structure.trace`; it holds no reference to the network.
    """

    groups: tuple[Group, ...]
    locked: tuple[Locked, ...]
    layers: tuple[Layer, ...]
    axes: tuple[Axis, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    input_shapes: tuple[tuple[int, ...], ...]
    idle: tuple[str, ...] = ()
    _cache: dict[str, object] = field(default_factory=dict, repr=False)

    @property
    def num_units(self) -> int:
        """How many units can be removed in all."""
        return sum(group.size for group in self.groups)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weighted layers' names and shapes; plans are refused by networks with another one."""
        text = json.dumps([[layer.weight, list(self.shapes[layer.weight])] for layer in self.layers])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def group(self, name: str) -> Group:
        """The group that a layer's units belong to."""
        for group in self.groups:
            if name in group.layers:
                return group
        reasons = [f"{item.name}: {item.reason}" for item in self.locked if name in item.layers]
        known = ", ".join(group.name for group in self.groups)
        raise RequestError(f"layer '{name}' has no removable units ({'; '.join(reasons) or 'unknown'}); known: {known}")

    @cached_property
    def group_of(self) -> np.ndarray:
        """Number of the group of each unit, [U]."""
        return np.repeat(np.arange(len(self.groups)), [group.size for group in self.groups])

    @cached_property
    def _terms(self) -> list[tuple[int, int, int, list[np.ndarray], list[int], bool]]:
        """Per tensor: (elements outside cut dims, MACs per element, 1 if parameter, counts [U], fixed, ...)."""
        by_tensor: dict[str, list[Axis]] = {}
        for axis in self.axes:
            by_tensor.setdefault(axis.tensor, []).append(axis)
        positions: dict[str, int] = {}
        for layer in self.layers:
            positions[layer.weight] = positions.get(layer.weight, 0) + layer.positions
        terms = []
        for name, shape in self.shapes.items():
            if name not in self.parameters:
                continue
            axes = by_tensor.get(name, [])
            rest = int(np.prod([n for d, n in enumerate(shape) if d not in {a.dim for a in axes}], dtype=np.int64))
            counts = [np.bincount(a.unit[a.unit >= 0], minlength=self.num_units).astype(np.float64) for a in axes]
            fixed = [int((a.unit < 0).sum()) for a in axes]
            terms.append((rest, positions.get(name, 0), 1, counts, fixed, True))
        return terms

    def cost(self, keep: np.ndarray | None = None) -> Cost:
        """Cost of the network with only the units where ``keep`` [U] is true; None: all."""
        kept = np.ones(self.num_units) if keep is None else np.asarray(keep, np.float64)
        params = macs = 0.0
        for rest, positions, _, counts, fixed, _ in self._terms:
            elements = float(rest)
            for count, stay in zip(counts, fixed, strict=True):
                elements *= stay + float(count @ kept)
            params += elements
            macs += positions * elements
        return Cost(int(kept.sum()), round(params), round(macs))

    def unit_costs(self, measure: Measure, keep: np.ndarray | None = None) -> np.ndarray:
        """What each unit costs at the margin, [U]: the derivative of the cost with respect to keeping it."""
        if measure == "units":
            return np.ones(self.num_units)
        kept = np.ones(self.num_units) if keep is None else np.asarray(keep, np.float64)
        gradient = np.zeros(self.num_units)
        for rest, positions, _, counts, fixed, _ in self._terms:
            factor = float(rest) * (positions if measure == "macs" else 1)
            sizes = [stay + float(count @ kept) for count, stay in zip(counts, fixed, strict=True)]
            for index, count in enumerate(counts):
                others = [size for other, size in enumerate(sizes) if other != index]
                gradient += factor * float(np.prod(others)) * count
        return gradient

    def kept_per_layer(self, keep: np.ndarray) -> list[tuple[str, int, int]]:
        """(layer, channels kept, channels before) of every layer whose outputs can be cut."""
        outs = {axis.tensor: axis for axis in self.axes if axis.dim == _out_dim(axis) and axis.role != "in"}
        rows = []
        for layer in self.layers:
            if layer.weight in outs:
                unit = outs[layer.weight].unit
                rows.append((layer.name, int(((unit < 0) | keep[unit]).sum()), len(unit)))
        return rows

    def table(self) -> list[dict[str, object]]:
        """One row per group, removable or not: name, layers, units, share of parameters and MACs, reason."""
        whole = self.cost()
        params, macs = self.unit_costs("params"), self.unit_costs("macs")
        rows: list[dict[str, object]] = [
            {
                "group": g.name,
                "layers": len(g.layers),
                "units": g.size,
                "params": float(params[g.units].sum() / whole.params),
                "macs": float(macs[g.units].sum() / max(1, whole.macs)),
                "reason": "",
            }
            for g in self.groups
        ]
        rows += [
            {
                "group": k.name,
                "layers": len(k.layers),
                "units": k.channels,
                "params": None,
                "macs": None,
                "reason": k.reason,
            }
            for k in self.locked
        ]
        return rows

    def __repr__(self) -> str:
        whole = self.cost()
        return (
            f"Structure({len(self.groups)} groups, {self.num_units} removable units, {len(self.locked)} locked, "
            f"{whole.params:,} parameters, {whole.macs:,} MACs)"
        )


def _out_dim(axis: Axis) -> int:
    return axis.dim if axis.role == "out" else 0
