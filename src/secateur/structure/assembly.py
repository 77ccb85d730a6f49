"""Assembling a `Structure` from what the traced passes recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from secateur.core.errors import RequestError
from secateur.structure.changes import changes
from secateur.structure.code import ModuleCode
from secateur.structure.conditions import Nodes
from secateur.structure.contractions import Product
from secateur.structure.groups import FIXED, Axis, Call, Group, Layer, Locked, Role, Work
from secateur.structure.labels import Dims
from secateur.structure.operations import Rules
from secateur.structure.scopes import Scope
from secateur.structure.structure import Structure


class Assembly:
    """Turns the nodes of the traced passes into units, groups, axes and costs."""

    def __init__(
        self,
        model: nn.Module,
        rules: Rules,
        scopes: list[Scope],
        given: tuple[Any, ...],
        counted: int,
    ) -> None:
        self.model = model
        self.rules = rules
        self.labels = rules.labels
        self.conditions = rules.conditions
        self.scopes = scopes
        self.given = given
        self.counted = counted
        self._numbers = np.zeros(0, np.int64)
        self._cache: dict[int, np.ndarray | None] = {}

    def structure(self, inputs: Any) -> Structure:
        """Assemble the structure; where code cannot run with other sizes, lock its units and start over."""
        self._lock_outer_folds()
        while True:
            built = self.build(inputs)
            impossible = self._impossible(built)
            if not impossible:
                break
            if not self._lock_compared(built):
                for path, why in impossible.items():
                    self._lock_code(path, why)
        if not built.groups:
            reasons = "; ".join(f"{item.name}: {item.reason}" for item in built.locked[:3])
            remedy = "; with stream=True channels that norms run over can be removed" if "normalised" in reasons else ""
            raise RequestError(f"the network has no prunable units ({reasons or 'it has no weighted layer'}){remedy}")
        return built

    def outputs(self, nodes: Nodes | None, inputs: Any) -> tuple[Structure, np.ndarray]:
        """The structure, and for each index the number of the one unit that it depends on, [size].

        Raises:
            RequestError: when an output cannot be removed, or not without others, with the reason.
        """
        self._refuse_stuck(nodes)
        built = self.structure(inputs)
        self._refuse_stuck(nodes)  # assembling it may lock more
        units = self._units(nodes)
        assert units is not None
        return built, units[0]

    def _refuse_stuck(self, nodes: Nodes | None) -> None:
        con = self.conditions
        leaves = [] if nodes is None else [sorted(con.leaves(root)) for root in con.roots(nodes).tolist()]
        if not leaves or not all(leaves):
            raise RequestError("an output is produced by, or combined with, what cannot be removed")
        reason = next(filter(None, (con.reason(leaf) for units in leaves for leaf in units)), None)
        if reason:
            raise RequestError(f"an output {reason}")
        if any(len(units) > 1 for units in leaves) or len({units[0] for units in leaves}) < len(leaves):
            raise RequestError("outputs depend on each other: one cannot be removed without the others")

    def _lock_outer_folds(self) -> None:
        """Lock the outer part of dimensions that code folds in two, unless it consists of heads or groups."""
        con = self.conditions
        for outer, inner in con.folds:
            if not con.locked(con.all_leaves(inner)).all():
                leaves = con.all_leaves(outer)
                plain = leaves[~con.marked(leaves, "head", "group", "channel")]
                con.lock(plain, "is the outer part of a dimension that the network's code folds in two")

    def _lock_compared(self, built: Structure) -> bool:
        """Lock units whose number the network's code compares; return whether there were any."""
        stuck = [c for keep in self._probes(built) for code in built.modules for c in code.stuck_conditions(keep, {})]
        for condition in stuck:
            for nodes in condition.nodes:
                self.conditions.lock(nodes, "are counted by the network's code, which compares their number")
        self._cache.clear()
        return bool(stuck)

    def _impossible(self, built: Structure) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for keep in self._probes(built):
            reasons |= changes(built.modules, keep).impossible
        return reasons

    @staticmethod
    def _probes(built: Structure) -> Iterator[np.ndarray]:
        """Two masks of the units that stay: all but one of each group, and only one of each group."""
        for least in (False, True):
            keep = np.ones(built.num_units, bool)
            for group in built.groups:
                if least:
                    keep[group.units] = False
                    keep[group.first] = True
                elif group.size > 1:
                    keep[group.first] = False
            yield keep

    def _lock_code(self, path: str, why: str) -> None:
        reason = f"passes code of '{path}' that names sizes in a way that cannot be corrected: it {why}"
        for scope in self.scopes:
            if scope.path == path:
                for step in scope.steps:
                    if step.target.startswith("module:"):
                        continue
                    for _, dims in step.outs.values():
                        for nodes in dims:
                            self.conditions.lock(nodes, reason)
        self._cache.clear()

    def _units(self, nodes: Nodes | None) -> np.ndarray | None:
        """Units of each index, [factors, size]; None when no index depends on a unit."""
        if nodes is None or not len(nodes):
            return None
        roots = self.conditions.roots(nodes)
        if self.conditions.plain(roots):
            row = self._numbers[roots]
            return row[None] if (row >= 0).any() else None
        sets = {
            root: sorted(int(n) for n in self._numbers[list(self.conditions.leaves(root))] if n >= 0)
            for root in np.unique(roots).tolist()
        }
        factors = max(map(len, sets.values()))
        if not factors:
            return None
        rows = {root: np.array(units + [FIXED] * (factors - len(units))) for root, units in sets.items()}
        return np.stack([rows[int(root)] for root in roots], 1)

    def _dims(self, dims: Dims) -> tuple[np.ndarray | None, ...]:
        units: list[np.ndarray | None] = []
        for nodes in dims:
            if nodes is None:
                units.append(None)
                continue
            # node arrays are passed on from tensor to tensor unchanged and held by them: identity is a key
            if id(nodes) not in self._cache:
                self._cache[id(nodes)] = self._units(nodes)
            units.append(self._cache[id(nodes)])
        return tuple(units)

    def build(self, inputs: Any) -> Structure:
        """Assemble the structure from what is known now, without a check of the modules' code."""
        labels = self.labels
        self._cache.clear()
        self._ndims = {name: t.ndim for name, t in (*self.model.named_parameters(), *self.model.named_buffers())}
        parameters = {name for name, _ in self.model.named_parameters()}
        roles: dict[tuple[str, int], Role] = {}
        order: dict[str, int] = {}
        layers: list[Layer] = []
        for product in self.rules.products:
            if product.weight is None:
                continue
            if product.weight not in order:
                layers.append(Layer(_layer_name(product.weight), product.weight))
                order[product.weight] = len(order)
            for nodes, role in ((product.read, "in"), (product.out, "out")):
                owner = labels.owner(nodes)
                if owner is not None:
                    roles.setdefault(owner, role)  # type: ignore[arg-type]
        made: dict[str, Nodes] = {}
        for (name, dim), role in roles.items():
            nodes = labels.state_dims[name][dim]
            if role == "out" and name in order and nodes is not None:
                made[name] = nodes
        for name in labels.behind:
            labels.state_dims.pop(name, None)
        locked = self._locked(made, order)
        groups = self._groups(self._producers(made, order, parameters))
        axes = []
        for name, dims in labels.state_dims.items():
            for dim, unit in enumerate(self._dims(dims)):
                if unit is not None:
                    axes.append(Axis(name, dim, roles.get((name, dim), "along"), unit))
        counted = self.rules.products[: self.counted]
        ran_first = {product.weight for product in counted}
        counted += [
            product
            for product in self.rules.products[len(counted) :]
            if product.weight is not None and product.weight not in ran_first
        ]
        work = tuple(self._work(p) for p in counted)
        codes = tuple(ModuleCode.of(scope, self._dims) for scope in self.scopes)
        ran = set(labels.state_dims)
        idle = sorted({_layer_name(n) for n, p in self.model.named_parameters() if n not in ran and p.ndim > 1})
        state = (*self.model.named_parameters(), *self.model.named_buffers())
        shapes = {name: tuple(tensor.shape) for name, tensor in state if name not in labels.behind}
        spare = {code.path: self._spare(code) for code in codes if code.baked and not code.broken}
        return Structure(
            tuple(groups), tuple(locked), tuple(layers), work, tuple(axes), shapes, frozenset(parameters), inputs,
            tuple(code for code in codes if code.steps), tuple(idle), spare, given=self.given, peeks=self.rules.peeks,
            stream=self.rules.stream, compares_lengths=any(scope.compares_lengths for scope in self.scopes),
        )  # fmt: skip

    def _spare(self, code: ModuleCode) -> int:
        dropped = code.written({}, {})["dropped"]
        module = self.model.get_submodule(code.path)
        return sum(module.get_parameter(name).numel() for name in dropped if name not in code.baked)

    def _counts(self, nodes: Nodes) -> tuple[Nodes, np.ndarray]:
        """Units that indices depend on, and how many indices depend on each."""
        con = self.conditions
        roots, counts = np.unique(con.roots(nodes), return_counts=True)
        if con.plain(roots):
            return roots[roots > 0], counts[roots > 0]
        total: dict[int, int] = {}
        for root, count in zip(roots.tolist(), counts.tolist(), strict=True):
            for leaf in con.leaves(root):
                total[leaf] = total.get(leaf, 0) + count
        leaves = np.array(sorted(total), np.int64)
        return leaves, np.array([total[leaf] for leaf in leaves.tolist()], np.int64)

    def _producers(self, made: dict[str, Nodes], order: dict[str, int], parameters: set[str]) -> list[_Producer]:
        """Layers that produce units, in order of execution; then other parameters whose units no layer produces."""
        con = self.conditions
        producers = [_Producer(name, *self._counts(made[name])) for name in sorted(made, key=order.__getitem__)]
        known = np.zeros(con.count, bool)
        for producer in producers:
            known[producer.leaves] = True
        for name, dims in self.labels.state_dims.items():
            for nodes in dims if name in parameters else ():
                leaves = con.all_leaves(nodes) if nodes is not None else np.zeros(0, np.int64)
                new = leaves[~known[leaves] & ~con.locked(leaves)]
                if len(new):
                    known[new] = True
                    producers.append(_Producer(name, new, np.ones(len(new), np.int64)))
        return producers

    def _locked(self, made: dict[str, Nodes], order: dict[str, int]) -> list[Locked]:
        """Channels that cannot be removed, because all their units are locked."""
        con = self.conditions
        counts_by_root: dict[int, dict[str, int]] = {}
        for name, nodes in sorted(made.items(), key=lambda item: order[item[0]]):
            roots, counts = np.unique(con.roots(nodes), return_counts=True)
            stuck = con.locked(roots) & (roots > 0)
            if not con.plain(roots):  # an index that depends on several units is locked when all of them are
                sets = [np.array(sorted(con.leaves(root)), np.int64) for root in roots.tolist()]
                stuck = np.array([len(leaves) > 0 and con.locked(leaves).all() for leaves in sets], bool)
            for root, count in zip(roots[stuck].tolist(), counts[stuck].tolist(), strict=True):
                counts_by_root.setdefault(root, {})[name] = count
        rows: dict[tuple[tuple[str, ...], str], int] = {}
        for root, by_name in counts_by_root.items():
            reason = next(filter(None, map(con.reason, sorted(con.leaves(root)))))
            key = tuple(by_name), reason
            rows[key] = rows.get(key, 0) + next(iter(by_name.values()))
        return [
            Locked(_layer_name(names[0]), tuple(map(_layer_name, names)), count, why)
            for (names, why), count in sorted(rows.items(), key=lambda item: order[item[0][0][0]])
        ]

    def _groups(self, producers: list[_Producer]) -> list[Group]:
        """Group units of one kind with the same producers and the same consumers."""
        con = self.conditions
        first = np.full(con.count, -1)
        for number, producer in enumerate(producers):
            first[producer.leaves] = np.where(first[producer.leaves] < 0, number, first[producer.leaves])
        reading = {id(n): n for p in self.rules.products for n in (*p.x[1], *p.w[1]) if n is not None}
        consumers = _signatures(con.count, map(con.all_leaves, reading.values()))
        family = np.zeros(con.count, np.uint64)
        within_heads = np.zeros(con.count, bool)
        for index, (outer, inner) in enumerate(con.folds):
            if con.marked(con.all_leaves(outer), "head").any():
                within_heads[con.all_leaves(inner)] = True
            for part, nodes in enumerate((outer, inner)):
                leaves = con.all_leaves(nodes)
                family[leaves] = np.where(family[leaves] == 0, 2 * index + part + 1, family[leaves])
        leaves = np.flatnonzero(first >= 0)
        leaves = leaves[~con.locked(leaves)]
        kinds = self._kinds(leaves, within_heads, [producers[n].name for n in first[leaves]])
        by = (_signatures(con.count, (p.leaves for p in producers))[leaves], kinds, family[leaves], consumers[leaves])
        _, inverse = np.unique(np.stack([b.astype(np.uint64) for b in by]), axis=1, return_inverse=True)
        by_key: dict[int, list[int]] = {}
        for leaf, index in zip(leaves.tolist(), inverse.reshape(-1).tolist(), strict=True):
            by_key.setdefault(index, []).append(leaf)
        kind_of = dict(zip(leaves.tolist(), kinds.tolist(), strict=True))
        groups: list[Group] = []
        self._numbers = np.full(con.count, FIXED)
        number, taken = 0, dict[str, int]()
        for members in sorted(by_key.values(), key=lambda leaves: (first[leaves[0]], leaves[0])):
            self._numbers[members] = np.arange(number, number + len(members))
            own = [p for p in producers if p.count(members[0])]
            kind = _KINDS[kind_of[members[0]]]
            label = tuple(_layer_name(p.name) for p in own)
            name = label[0] if kind in ("channels", "neurons", "stream") else f"{label[0]}[{kind}]"
            taken[name] = taken.get(name, 0) + 1
            name = name if taken[name] == 1 else f"{name}#{taken[name]}"
            added = bool(con.marked(np.array(members), "added").any())
            groups.append(Group(name, label, number, len(members), own[0].count(members[0]), kind, added))
            number += len(members)
        return groups

    def _kinds(self, leaves: Nodes, within_heads: np.ndarray, names: list[str]) -> np.ndarray:
        con = self.conditions
        wide = np.array([self._ndims[name] > 2 for name in names], bool)
        parts = [
            con.marked(leaves, "head"),
            con.marked(leaves, "group"),
            con.marked(leaves, "stream"),
            con.marked(leaves, "contracted") | within_heads[leaves],
            wide,
        ]
        return np.select(parts, range(len(parts)), len(parts))

    def _work(self, product: Product) -> Work:
        name = "" if product.weight is None else _layer_name(product.weight)
        call = Call(name, product.op, product.x[0], product.w[0], product.options)
        sizes = tuple(zip((n for n, _ in product.sizes), self._dims([u for _, u in product.sizes]), strict=True))  # type: ignore[arg-type]
        return Work(call, self._dims(product.x[1]), self._dims(product.w[1]), product.macs / self.rules.batch, sizes)


_KINDS = ("heads", "groups", "stream", "dims", "channels", "neurons")


@dataclass(frozen=True, eq=False)
class _Producer:
    """A weight that produces units: its sorted units, and how many of its indices depend on each."""

    name: str
    leaves: Nodes
    counts: np.ndarray

    def count(self, leaf: int) -> int:
        """How many indices depend on a unit."""
        at = int(np.searchsorted(self.leaves, leaf))
        return int(self.counts[at]) if at < len(self.leaves) and self.leaves[at] == leaf else 0


def _signatures(count: int, sets: Iterable[Nodes]) -> np.ndarray:
    """A hash, for each node, of the sets that contain it."""
    hashes = np.zeros(count, np.uint64)
    for number, leaves in enumerate(sets):
        hashes[leaves] = hashes[leaves] * np.uint64(0x9E3779B97F4A7C15) + np.uint64(number + 1)
    return hashes


def _layer_name(weight: str) -> str:
    return weight.removesuffix(".weight")
