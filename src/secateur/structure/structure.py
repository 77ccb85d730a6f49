"""The structure of a network: what can be removed, what cannot and why, and what everything costs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.html import table_html
from secateur.core.names import did_you_mean
from secateur.structure.changes import Changes, changes
from secateur.structure.code import ModuleCode
from secateur.structure.groups import FIXED, NORMED, Axis, Call, Cost, Group, Layer, Locked, Measure, Work, stays
from secateur.structure.shares import holders, shared_out


def fingerprint_of(shapes: Mapping[str, Sequence[int]]) -> str:
    """Hash of weights' names and shapes, in order of execution."""
    text = json.dumps([[name, list(shape)] for name, shape in shapes.items()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Structure:
    """Groups of removable units of one network, what cannot be removed, and all costs.

    Returned by `secateur.trace`; it holds no reference to the network.

    Attributes:
        groups: units that can be removed; locked: channels that cannot, with the reason.
        layers: layers with weights, in order of execution; work: every convolution and matrix product.
        axes: units along the dimensions of parameters and buffers; shapes: shapes of all parameters and buffers;
            parameters: names of the parameters.
        inputs: shapes and types of the example's tensors.
        modules: what the modules' own code did; idle: layers that did not run.
        spare: by module, the number of parameters that are dropped when its computed weight becomes a parameter.
        origin: for the structure of a pruned network, the structure before pruning and its units that stayed, [U] bool.
        given: arguments of all traced calls, by name, as plain values.
        peeks: where the network's code reads values of its inputs; other values may lead to another structure.
        stream: whether channels that norms run over can be removed.
        compares_lengths: whether code compares sizes that no pruning changes, as lengths of sequences.
    """

    groups: tuple[Group, ...]
    locked: tuple[Locked, ...]
    layers: tuple[Layer, ...]
    work: tuple[Work, ...]
    axes: tuple[Axis, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    inputs: Any
    modules: tuple[ModuleCode, ...] = ()
    idle: tuple[str, ...] = ()
    spare: Mapping[str, int] = field(default_factory=dict)
    origin: tuple[Structure, np.ndarray] | None = None
    given: tuple[Any, ...] = ()
    peeks: tuple[str, ...] = ()
    stream: bool = False
    compares_lengths: bool = False

    @property
    def num_units(self) -> int:
        """Total number of removable units."""
        return sum(group.size for group in self.groups)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weighted layers' names and shapes; a plan only applies to networks with the same one."""
        return fingerprint_of({layer.weight: self.shapes[layer.weight] for layer in self.layers})

    def group(self, name: str) -> Group:
        """The group of this name, or the group to which a layer's units belong."""
        for group in self.groups:
            if name == group.name:
                return group
        for group in self.groups:
            if name in group.layers:
                return group
        reasons = [f"{item.name}: {item.reason}" for item in self.locked if name in item.layers]
        known = [group.name for group in self.groups]
        why = "; ".join(reasons) or f"there is no such layer{did_you_mean(str(name), known)}"
        raise RequestError(f"layer '{name}' has no removable units: {why}; known: {', '.join(known)}")

    @property
    def locked_by_norms(self) -> int:
        """How many channels stay only because norms run over them, which are those of residual streams."""
        return sum(item.channels for item in self.locked if item.reason in NORMED)

    @cached_property
    def group_of(self) -> np.ndarray:
        """Number of the group of each unit, [U]."""
        return np.repeat(np.arange(len(self.groups)), [group.size for group in self.groups])

    @cached_property
    def depthwise(self) -> bool:
        """Whether the network has a depthwise convolution."""
        return any(work.passes_on and work.call.weight_shape[1] == 1 for work in self.work)

    @cached_property
    def makes(self) -> tuple[tuple[object, ...], ...]:
        """How each group is produced and read, whatever its width: groups with equal entries are isomorphic.

        An entry holds the kind of the units, the operations (with kernel sizes, without strides) that produce them and
        those that read them.
        """
        operation = {w.call.name: (w.call.op, w.call.weight_shape[2:], w.passes_on) for w in self.work if w.call.name}
        readers: list[set[str]] = [set() for _ in self.groups]
        for name, unit in self.read.items():
            for number in np.unique(self.group_of[unit[unit >= 0]]):
                readers[number].add(name)

        def operations(names: Iterable[str]) -> tuple[object, ...]:
            return tuple(sorted(operation[name] for name in names if name in operation))

        return tuple(
            (group.kind, operations(group.layers), operations(names))
            for group, names in zip(self.groups, readers, strict=True)
        )

    def first_layers(self, count: int) -> tuple[str, ...]:
        """Names of those of the first ``count`` weighted layers, in order of execution, whose units can be removed."""
        names = {name for group in self.groups for name in group.layers}
        return tuple(layer.name for layer in self.layers[:count] if layer.name in names)

    @property
    def block_outputs(self) -> tuple[str, ...]:
        """Names of the groups whose units are added to those of other layers, as outputs of residual blocks are."""
        return tuple(group.name for group in self.groups if group.added)

    @cached_property
    def _terms(self) -> dict[str, list[_Term]]:
        by_tensor: dict[str, list[Axis]] = {}
        for axis in self.axes:
            by_tensor.setdefault(axis.tensor, []).append(axis)
        owners = {layer.weight: layer.name for layer in self.layers}
        params = []
        for name, shape in self.shapes.items():
            if name in self.parameters:
                axes = by_tensor.get(name, [])
                cut = {a.dim for a in axes}
                rest = math.prod(n for d, n in enumerate(shape) if d not in cut)
                owner = owners.get(name, name.rpartition(".")[0])
                params.append(_Term(owner, float(rest), tuple(a.unit for a in axes)))
        macs = []
        for work in self.work:
            per = work.macs * math.prod(n for n, unit in work.sizes if unit is None)
            macs.append(_Term(work.call.name, per, tuple(unit for _, unit in work.sizes if unit is not None)))
        return {"params": params, "macs": macs}

    def cost(self, keep: np.ndarray | None = None) -> Cost:
        """Cost of the network with only the units where ``keep`` [U] is true; with None, of the whole network."""
        kept = np.ones(self.num_units) if keep is None else np.asarray(keep, np.float64)
        total = {m: sum((term.size(kept) for term in terms), start=0.0) for m, terms in self._terms.items()}
        return Cost(int(kept.sum()), round(total["params"]) + self._spared(kept > 0), round(total["macs"]))

    def _spared(self, keep: np.ndarray) -> int:
        """Number of parameters from which weights are computed, in modules that stay as they are."""
        if not self.spare:
            return 0
        whole = self._in_original(keep)
        return sum(self.spare.get(code.path, 0) for code in self.modules if not code.bakes(whole))

    def _in_original(self, keep: np.ndarray) -> np.ndarray:
        """The same selection as units of the network before pruning."""
        if self.origin is None:
            return keep
        total = self.origin[1].copy()
        total[total] = keep
        return total

    def measured(self, measure: Measure, keep: np.ndarray) -> float:
        """One figure of `cost`."""
        kept = np.asarray(keep, np.float64)
        if measure == "units":
            return float(kept.sum())
        spared = self._spared(kept > 0) if measure == "params" else 0
        return float(round(sum(term.size(kept) for term in self._terms[measure])) + spared)

    def unit_costs(self, measure: Measure, keep: np.ndarray | None = None) -> np.ndarray:
        """The marginal cost of each unit, [U]: the derivative of the cost with respect to keeping it."""
        if measure == "units":
            return np.ones(self.num_units)
        kept = np.ones(self.num_units) if keep is None else np.asarray(keep, np.float64)
        gradient = np.zeros(self.num_units + 1)
        for term in self._terms[measure]:
            term.add_gradient(kept, gradient)
        return gradient[:-1]

    def calls(self, keep: np.ndarray | None = None) -> tuple[Call, ...]:
        """Every convolution and matrix product as it runs when only the units where ``keep`` [U] is true stay."""
        if keep is None:
            return tuple(work.call for work in self.work)
        return tuple(work.at(keep) for work in self.work)

    def masks(self, keep: np.ndarray) -> dict[str, dict[str, Any]]:
        """By path, code of modules whose norms run over the units that stay, for a masked network."""
        whole, alive = self.origin or (self, np.ones(self.num_units, bool))
        attributes = {} if self.origin is None else changes(whole.modules, alive).attributes
        total = self._in_original(keep)
        code_by_path = {code.path: code.masked(total, alive, attributes) for code in self.modules if not code.broken}
        return {path: code for path, code in code_by_path.items() if code is not None}

    def baked(self) -> dict[str, dict[str, Any]]:
        """By path, code of modules that compute weights, with these weights as parameters."""
        return {code.path: code.written({}, {}) for code in self.modules if code.baked and not code.broken}

    def changes(self, keep: np.ndarray) -> Changes:
        """The changes that make modules' code give the right sizes when only the units where ``keep`` is true stay.

        Raises:
            RequestError: for code that names sizes in a way that cannot be corrected.
        """
        if self.origin is not None:
            return self.origin[0].changes(self._in_original(keep))
        needs = changes(self.modules, keep)
        for path, why in needs.impossible.items():
            raise RequestError(f"the code of '{path}' names sizes in a way that cannot be corrected: it {why}")
        return needs

    @cached_property
    def read(self) -> dict[str, np.ndarray]:
        """By layer, the units to which its input channels or features belong, [factors, inputs].

        Units that a grouped convolution reads and passes on with its own outputs are not included.
        """
        units: dict[str, np.ndarray] = {}
        for work in self.work:
            unit = work.input_units[1 if work.call.op == "convolution" else -1] if work.input_units else None
            if (
                unit is not None
                and work.call.name
                and work.call.name not in units
                and not work.call.options.get("left")
            ):
                units[work.call.name] = _without(unit, work.weight_units[0]) if work.passes_on else unit
        return units

    @cached_property
    def made(self) -> dict[str, np.ndarray]:
        """By layer, the units to which its output channels or features belong, [factors, outputs]."""
        passed = {work.call.name: work.input_units[1] for work in self.work if work.passes_on}
        names = {layer.weight: layer.name for layer in self.layers}
        return {
            names[axis.tensor]: _without(axis.unit, passed.get(names[axis.tensor]))
            for axis in self.axes
            if axis.role == "out" and axis.tensor in names
        }

    @cached_property
    def unread(self) -> np.ndarray:
        """Units that no layer reads with weights, because they are multiplied with other activations, [U] bool."""
        is_read = np.zeros(self.num_units + 1, bool)
        for unit in self.read.values():
            is_read[unit] = True
        return ~is_read[:-1]

    def reduced(self, keep: np.ndarray) -> Structure:
        """The structure of the network in which only the units where ``keep`` [U] is true are left."""
        number = np.full(self.num_units + 1, FIXED)
        number[:-1][keep] = np.arange(int(keep.sum()))

        def cut(unit: np.ndarray | None) -> np.ndarray | None:
            return None if unit is None else number[unit[:, stays(unit, keep)]]

        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        axes = []
        for axis in self.axes:
            left = number[axis.unit[:, axis.stays(keep)]]
            shapes[axis.tensor][axis.dim] = left.shape[1]
            axes.append(replace(axis, unit=left))
        groups, first = [], 0
        for group in self.groups:
            size = int(keep[group.units].sum())
            groups.append(replace(group, first=first, size=size))
            first += size
        work = tuple(
            Work(
                item.at(keep),
                tuple(map(cut, item.input_units)),
                tuple(map(cut, item.weight_units)),
                item.macs,
                tuple((n if u is None else int(stays(u, keep).sum()), cut(u)) for n, u in item.sizes),
            )
            for item in self.work
        )
        whole = self if self.origin is None else self.origin[0]
        return replace(
            self,
            groups=tuple(group for group in groups if group.size),
            work=work,
            axes=tuple(axes),
            shapes={name: tuple(shape) for name, shape in shapes.items()},
            origin=(whole, self._in_original(keep)),
        )

    def kept_per_layer(self, keep: np.ndarray) -> list[tuple[str, int, int]]:
        """(layer, channels kept, channels before) of every layer whose outputs can be cut."""
        outs = {axis.tensor: axis for axis in self.axes if axis.role == "out"}
        rows = []
        for layer in self.layers:
            if layer.weight in outs:
                stay = outs[layer.weight].stays(keep)
                rows.append((layer.name, int(stay.sum()), len(stay)))
        return rows

    def table(self) -> list[dict[str, object]]:
        """One row per group, removable or not: name, kind, layers, units, shares of parameters and MACs, reason.

        Shares add up to 1. What is removed with several groups (a weight, with the group that it produces and the one
        that it reads) counts for each of them in equal parts; what no group removes counts for the locked channels of
        its layer; and the rest, such as products of activations that nothing prunes, for the last row.
        """
        shares = self._shares()
        items: list[tuple[str, str, int, int, str]] = [
            *((g.name, g.kind, len(g.layers), g.size, "") for g in self.groups),
            *((k.name, "", len(k.layers), k.channels, k.reason) for k in self.locked),
            ("all else", "", 0, 0, "belongs to no unit"),
        ]
        return [
            {"group": name, "kind": kind, "layers": layers, "units": units, **share, "reason": reason}
            for (name, kind, layers, units, reason), share in zip(items, shares, strict=True)
        ]

    def _shares(self) -> list[dict[str, float]]:
        """Shares of parameters and MACs of each group, of each locked entry, and of the rest."""
        columns: dict[str, list[float]] = {}
        for measure, terms in self._terms.items():
            whole = max(1, getattr(self.cost(), measure))
            costs = ((term.layer, holders(term.rest, term.axes, self.group_of)) for term in terms)
            parts = np.concatenate(shared_out(costs, len(self.groups), self.locked)) / whole
            columns[measure] = [*parts.tolist(), max(0.0, 1.0 - float(parts.sum()))]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def __repr__(self) -> str:
        whole = self.cost()
        return (
            f"Structure({len(self.groups)} groups, {self.num_units} removable units, {len(self.locked)} locked, "
            f"{whole.params:,} parameters, {whole.macs:,} MACs)"
        )

    def _repr_html_(self) -> str:
        """The table of groups as HTML, for notebooks."""
        columns = ("group", "kind", "units", "share of parameters", "share of MACs", "")
        keys = ("group", "kind", "units", "params", "macs")
        rows = [(*(row[key] for key in keys), row["reason"] or "can be removed") for row in self.table()]
        return table_html(columns, rows, repr(self))


@dataclass(frozen=True, eq=False)
class _Term:
    """A term of a layer's cost: ``rest`` times the number of indices that stay along each axis [factors, size]."""

    layer: str
    rest: float
    axes: tuple[np.ndarray, ...]

    def size(self, kept: np.ndarray) -> float:
        known = np.append(kept, 1.0)
        return self.rest * math.prod(float(known[unit].prod(0).sum()) for unit in self.axes)

    def add_gradient(self, kept: np.ndarray, gradient: np.ndarray) -> None:
        known = np.append(kept, 1.0)
        stay = [known[unit] for unit in self.axes]
        sizes = [float(s.prod(0).sum()) for s in stay]
        for index, (unit, values) in enumerate(zip(self.axes, stay, strict=True)):
            of_others = self.rest * math.prod(size for other, size in enumerate(sizes) if other != index)
            for factor, row in enumerate(unit):
                np.add.at(gradient, row, of_others * np.delete(values, factor, 0).prod(0))


def _without(unit: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    return unit if others is None else np.where(np.isin(unit, others), FIXED, unit)
