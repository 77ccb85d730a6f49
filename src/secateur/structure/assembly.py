"""From what was learnt in one pass to a `Structure`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from secateur.core.errors import RequestError
from secateur.structure.code import ModuleCode, changes
from secateur.structure.conditions import Nodes
from secateur.structure.contractions import Product
from secateur.structure.groups import FIXED, Axis, Call, Group, Layer, Locked, Role, Work
from secateur.structure.labels import Dims
from secateur.structure.operations import Rules
from secateur.structure.recording import Scope
from secateur.structure.structure import Structure


class Assembly:
    """From nodes to units, groups, axes and costs."""

    def __init__(self, model: nn.Module, rules: Rules, scopes: list[Scope], inputs: Any) -> None:
        self.model = model
        self.rules = rules
        self.labels = rules.labels
        self.conditions = rules.conditions
        self.scopes = scopes
        self.inputs = inputs
        self.number: dict[int, int] = {}
        self._cache: dict[int, np.ndarray | None] = {}

    def structure(self) -> Structure:
        """Put it together; where code can neither be left nor written anew, lock and start over."""
        self._lock_outer_folds()
        while True:
            built = self._build()
            impossible = self._impossible(built)
            if not impossible:
                break
            for path, why in impossible.items():
                self._lock_code(path, why)
        if not built.groups:
            reasons = "; ".join(f"{item.name}: {item.reason}" for item in built.locked[:3])
            remedy = "; with stream=True channels go that norms run over" if "normalised" in reasons else ""
            raise RequestError(f"the network has no prunable units ({reasons or 'it has no weighted layer'}){remedy}")
        return built

    def _lock_outer_folds(self) -> None:
        """Of a dimension that code folds in two, the outer part goes only where it is heads or groups."""
        con = self.conditions
        for outer, inner in con.folds:
            free = any(con.reason(leaf) is None for leaf in con.all_leaves(inner))
            for leaf in con.all_leaves(outer):
                if free and not con.marked(leaf) & {"head", "group", "channel"}:
                    con.lock(np.array([leaf]), "is the outer part of a dimension that the network's code folds in two")

    def _impossible(self, built: Structure) -> dict[str, str]:
        found: dict[str, str] = {}
        for least in (False, True):
            keep = np.ones(built.num_units, bool)
            for group in built.groups:
                if least:
                    keep[group.units] = False
                    keep[group.first] = True
                elif group.size > 1:
                    keep[group.first] = False
            stuck = changes(built.modules, keep)[2]
            found |= {path: code.broken or "is called in several ways" for path, code in stuck.items()}
        return found

    def _lock_code(self, path: str, why: str) -> None:
        for scope in self.scopes:
            if scope.path == path:
                for step in scope.steps:
                    if step.target.startswith("module:"):
                        continue
                    for _, dims in step.outs.values():
                        for nodes in dims:
                            self.conditions.lock(
                                nodes, f"passes code of '{path}' that names sizes and cannot be written anew: it {why}"
                            )
        self._cache.clear()

    def _units(self, nodes: Nodes | None) -> np.ndarray | None:
        """Units of each index, [factors, size]; None when all stay."""
        if nodes is None or not len(nodes):
            return None
        roots = self.conditions.roots(nodes)
        if self.conditions.plain(roots):
            row = self._numbers[roots]
            return row[None] if (row >= 0).any() else None
        sets = {
            int(root): sorted(self.number[leaf] for leaf in self.conditions.leaves(int(root)) if leaf in self.number)
            for root in np.unique(roots)
        }
        factors = max(map(len, sets.values()))
        if not factors:
            return None
        rows = {root: np.array(units + [FIXED] * (factors - len(units))) for root, units in sets.items()}
        return np.stack([rows[int(root)] for root in roots], 1)

    def _dims(self, dims: Dims) -> tuple[np.ndarray | None, ...]:
        found: list[np.ndarray | None] = []
        for nodes in dims:
            if nodes is None:
                found.append(None)
                continue
            # node arrays are passed on from tensor to tensor unchanged and held by them: identity is a key
            if id(nodes) not in self._cache:
                self._cache[id(nodes)] = self._units(nodes)
            found.append(self._cache[id(nodes)])
        return tuple(found)

    def _build(self) -> Structure:
        con, labels = self.conditions, self.labels
        self._cache.clear()
        self._ndims = {name: p.ndim for name, p in self.model.named_parameters()}
        parameters = set(self._ndims)
        roles: dict[tuple[str, int], Role] = {}
        order: dict[str, int] = {}
        makers: dict[int, dict[str, int]] = {}
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
                self._made(nodes, name, makers)
        for product in self.rules.products:
            # rows that a grouped convolution makes hang on their group as well
            if product.op == "convolution" and product.options["groups"] > 1 and product.weight is not None:
                self._made(labels.state_dims[product.weight][0], product.weight, makers)
        for name in labels.behind:
            labels.state_dims.pop(name, None)
        for name, dims in labels.state_dims.items():
            for nodes in dims:
                for leaf in con.all_leaves(nodes) if nodes is not None else ():
                    if leaf not in makers and name in parameters and con.reason(leaf) is None:
                        order.setdefault(name, len(order))
                        makers[leaf] = {name: 1}
        locked = self._locked(made, order)
        groups = self._groups(makers, order)
        self._numbers = np.full(con.count, FIXED)
        self._numbers[list(self.number)] = list(self.number.values())
        axes = []
        for name, dims in labels.state_dims.items():
            for dim, unit in enumerate(self._dims(dims)):
                if unit is not None:
                    axes.append(Axis(name, dim, roles.get((name, dim), "along"), unit))
        work = tuple(self._work(p) for p in self.rules.products)
        codes = tuple(ModuleCode.of(scope, self._dims) for scope in self.scopes)
        ran = set(labels.state_dims)
        idle = sorted({_layer_name(n) for n, p in self.model.named_parameters() if n not in ran and p.ndim > 1})
        state = (*self.model.named_parameters(), *self.model.named_buffers())
        shapes = {name: tuple(tensor.shape) for name, tensor in state if name not in labels.behind}
        return Structure(
            tuple(groups), tuple(locked), tuple(layers), work, tuple(axes), shapes, frozenset(parameters), self.inputs,
            tuple(code for code in codes if code.steps), tuple(idle),
        )  # fmt: skip

    def _made(self, nodes: Nodes | None, name: str, makers: dict[int, dict[str, int]]) -> None:
        if nodes is None:
            return
        for root, count in zip(*np.unique(self.conditions.roots(nodes), return_counts=True), strict=True):
            for leaf in self.conditions.leaves(int(root)):
                widths = makers.setdefault(leaf, {})
                widths[name] = widths.get(name, 0) + int(count)

    def _locked(self, made: dict[str, Nodes], order: dict[str, int]) -> list[Locked]:
        """Channels none of whose units can go."""
        con = self.conditions
        found: dict[int, dict[str, int]] = {}
        for name, nodes in sorted(made.items(), key=lambda item: order[item[0]]):
            for root, count in zip(*np.unique(con.roots(nodes), return_counts=True), strict=True):
                leaves = con.leaves(int(root))
                if leaves and all(con.reason(leaf) is not None for leaf in leaves):
                    found.setdefault(int(root), {})[name] = int(count)
        rows: dict[tuple[tuple[str, ...], str], int] = {}
        for root, counts in found.items():
            reason = next(filter(None, map(con.reason, sorted(con.leaves(root)))))
            key = tuple(counts), reason
            rows[key] = rows.get(key, 0) + next(iter(counts.values()))
        return [
            Locked(_layer_name(names[0]), tuple(map(_layer_name, names)), count, why)
            for (names, why), count in sorted(rows.items(), key=lambda item: order[item[0][0][0]])
        ]

    def _groups(self, makers: dict[int, dict[str, int]], order: dict[str, int]) -> list[Group]:
        con = self.conditions
        family: dict[int, int] = {}
        within_heads: set[int] = set()
        for index, fold in enumerate(con.folds):
            if any("head" in con.marked(leaf) for leaf in con.all_leaves(fold[0])):
                within_heads |= con.all_leaves(fold[1])
            for part, nodes in enumerate(fold):
                for leaf in con.all_leaves(nodes):
                    family.setdefault(leaf, 2 * index + part + 1)
        seen_by = self._seen_by()
        removable: dict[tuple[tuple[str, ...], str, int, int], list[int]] = {}
        for leaf, widths in makers.items():
            names = tuple(sorted(widths, key=order.__getitem__))
            reason = con.reason(leaf)
            if reason is None:
                key = names, self._kind(leaf, names, within_heads), family.get(leaf, 0), seen_by.get(leaf, 0)
                removable.setdefault(key, []).append(leaf)
        groups: list[Group] = []
        self.number = {}
        taken: dict[str, int] = {}
        in_order = sorted(removable.items(), key=lambda item: (order[item[0][0][0]], min(item[1])))
        for (names, kind, *_), leaves in in_order:
            first = len(self.number)
            for leaf in sorted(leaves):
                self.number[leaf] = len(self.number)
            label = tuple(map(_layer_name, names))
            name = label[0] if kind in ("channels", "neurons", "stream") else f"{label[0]}[{kind}]"
            taken[name] = taken.get(name, 0) + 1
            if taken[name] > 1:
                name = f"{name}#{taken[name]}"
            width = max(makers[leaf][names[0]] for leaf in leaves)
            groups.append(Group(name, label, first, len(leaves), width, kind))
        return groups

    def _seen_by(self) -> dict[int, int]:
        """By unit, a number for the set of products that it takes part in.

        Units of one layer that code slices into parts with lives of their own are groups of their own: of each,
        something stays.
        """
        seen: dict[int, int] = {}
        arrays = {id(n): n for p in self.rules.products for n in (*p.x[1], *p.w[1]) if n is not None}
        for number, nodes in enumerate(arrays.values()):
            for leaf in self.conditions.all_leaves(nodes):
                seen[leaf] = hash((seen.get(leaf, 0), number))
        return seen

    def _kind(self, leaf: int, names: Iterable[str], within_heads: set[int]) -> str:
        marks = self.conditions.marked(leaf)
        if "head" in marks:
            return "heads"
        if "group" in marks:
            return "groups"
        if "stream" in marks:
            return "stream"
        if "contracted" in marks or leaf in within_heads:
            return "dims"
        return "channels" if self._ndims[next(iter(names))] > 2 else "neurons"

    def _work(self, product: Product) -> Work:
        name = "" if product.weight is None else _layer_name(product.weight)
        call = Call(name, product.op, product.x[0], product.w[0], product.options)
        sizes = tuple(zip((n for n, _ in product.sizes), self._dims([u for _, u in product.sizes]), strict=True))  # type: ignore[arg-type]
        return Work(call, self._dims(product.x[1]), self._dims(product.w[1]), product.macs / self.rules.batch, sizes)


def _layer_name(weight: str) -> str:
    return weight.removesuffix(".weight")
