"""Conditions under which an index stays.

Every index of every tensor dimension has a *condition*: a set of units that must all stay for the index to stay. Most
indices depend on one unit; an index of a packed attention projection depends on two, its head and its dimension within
the head. A condition is an integer node: 0 always stays; a *leaf* is a single unit; a composite is a set of leaves.
Nodes that must agree are united (union-find). A tensor cut this way is always a full grid, as code that reshapes
tensors requires.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ALWAYS = 0
COMBINED = "is combined with channels that cannot be removed"
MULTIPLIED = "is multiplied with channels that cannot be removed"
READ_TOGETHER = "is read together with channels that cannot be removed"

Nodes = np.ndarray
"""int64 [size]: one node per index of a dimension."""

_ROLES = ("head", "contracted", "group", "channel", "stream", "added")
_MARKS = {name: np.uint8(1 << bit) for bit, name in enumerate(_ROLES)}


class Conditions:
    """All nodes of one traced pass."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._compound = np.zeros(1024, bool)
        self._count = 1
        self._parts: dict[int, frozenset[int]] = {}  # composite -> its nodes
        self._composite: dict[frozenset[int], int] = {}
        self._leaves: dict[int, frozenset[int]] = {}  # cache; emptied whenever nodes change
        self._why = np.zeros(1024, np.int32)  # per leaf, which reason; 0: none
        self._reasons: list[str] = [""]
        self._marks = np.zeros(1024, np.uint8)
        self._position = np.zeros(1024, np.int64)  # scratch
        self.folds: list[tuple[Nodes, Nodes]] = []
        """Outer and inner parts of every dimension that was folded in two."""

    def fresh(self, count: int) -> Nodes:
        """``count`` new leaves."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            more = max(count, len(self._parent))
            for name in ("_parent", "_compound", "_why", "_marks", "_position"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(more, old.dtype)]))
        nodes = np.arange(first, self._count)
        self._parent[first : self._count] = nodes
        return nodes

    @property
    def count(self) -> int:
        """Number of nodes."""
        return self._count

    def find(self, node: int) -> int:
        """The representative of all nodes that were united with ``node``."""
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return int(node)

    def roots(self, nodes: Nodes) -> Nodes:
        """`find` for each element."""
        roots = self._parent[nodes]
        while not np.array_equal(further := self._parent[roots], roots):
            roots = further
        return np.asarray(roots)

    def leaves(self, node: int) -> frozenset[int]:
        """The units that must all stay for ``node`` to stay."""
        root = self.find(node)
        if root == ALWAYS:
            return frozenset()
        if not self._compound[root]:
            return frozenset({root})
        known = self._leaves.get(root)
        if known is None:
            known = frozenset().union(*(self.leaves(part) for part in self._parts[root]))
            self._leaves[root] = known
        return known

    def all_leaves(self, nodes: Nodes) -> Nodes:
        """The units that any of ``nodes`` depends on, sorted."""
        roots = self.roots(np.asarray(nodes, np.int64))
        compound = self._compound[roots]
        if compound.any():
            parts = [sorted(self.leaves(int(n))) for n in np.unique(roots[compound])]
            roots = np.concatenate([roots[~compound], *(np.array(p, np.int64) for p in parts)])
        leaves = np.unique(roots)
        return leaves[1:] if len(leaves) and leaves[0] == ALWAYS else leaves

    def plain(self, roots: Nodes) -> bool:
        """Whether each root depends on one unit at most."""
        return not self._compound[roots].any()

    def node(self, leaves: Iterable[int]) -> int:
        """The node for a set of leaves."""
        units = frozenset(leaves)
        if len(units) < 2:
            return next(iter(units), ALWAYS)
        known = self._composite.get(units)
        if known is None:
            known = int(self.fresh(1)[0])
            self._parts[known] = units
            self._compound[known] = True
            self._composite[units] = known
        return known

    def reason(self, leaf: int) -> str | None:
        """Why a unit cannot be removed; None when it can."""
        return self._reasons[self._why[leaf]] or None

    def locked(self, leaves: Nodes) -> np.ndarray:
        """Which units cannot be removed, bool."""
        return np.asarray(self._why[leaves] > 0)

    def lock(self, nodes: Nodes | None, reason: str) -> None:
        """Lock units with a reason; a unit keeps its first reason."""
        if nodes is not None:
            leaves = self.all_leaves(nodes)
            free = leaves[self._why[leaves] == 0]
            if len(free):
                if reason not in self._reasons:
                    self._reasons.append(reason)
                self._why[free] = self._reasons.index(reason)

    def mark(self, nodes: Nodes | None, role: str) -> None:
        """Mark the role of units."""
        if nodes is not None:
            self._marks[self.all_leaves(nodes)] |= _MARKS[role]

    def marked(self, leaves: Nodes, *roles: str) -> np.ndarray:
        """Which units have any of these roles, bool."""
        mask = np.bitwise_or.reduce([_MARKS[role] for role in roles])
        return np.asarray((self._marks[leaves] & mask) > 0)

    # -- agreement ----------------------------------------------------------------------------------------------

    def unite(self, a: Nodes, b: Nodes) -> None:
        """Require that indices at the same position stay or are removed together."""
        a, b = self.roots(a), self.roots(b)
        differ = a != b
        if not differ.any():
            return
        x, y = a[differ], b[differ]
        both = np.concatenate([x, y])
        if (both > 0).all() and self.plain(both):
            order = np.arange(len(both))
            self._position[both] = order
            if (self._position[both] == order).all():  # each occurs once
                self._link_plain(np.minimum(x, y), np.maximum(x, y))
                return
        for i, j in np.unique(np.stack([x, y], 1), axis=0).tolist():
            self._unite(i, j)

    def _link_plain(self, low: Nodes, high: Nodes) -> None:
        """Unite pairs of units, each of which occurs once."""
        self._parent[high] = low
        self._leaves.clear()
        self._why[low] = np.where(self._why[low] > 0, self._why[low], self._why[high])
        self._marks[low] |= self._marks[high]

    def _unite(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        if not a or not b:
            self.lock(np.array([a or b]), COMBINED)
            return
        first, second = self.leaves(a), self.leaves(b)
        if first == second:
            return
        if not self._compound[a] and a not in second:
            self._link(a, b)
        elif not self._compound[b] and b not in first:
            self._link(b, a)
        else:
            only, too = sorted(first - second), sorted(second - first)
            if len(only) == len(too):  # grids folded alike: outer with outer, inner with inner
                pairs = list(zip(only, too, strict=True))
            else:
                together = sorted(first | second)
                pairs = [(together[0], other) for other in together[1:]]
            for x, y in pairs:
                self._unite(x, y)

    def _link(self, leaf: int, to: int) -> None:
        """Replace a leaf by another node from now on."""
        if not self._compound[to] and to > leaf:
            leaf, to = to, leaf
        self._parent[leaf] = to
        self._leaves.clear()
        if self._why[leaf]:
            self.lock(np.array([to]), self._reasons[self._why[leaf]])
        if self._marks[leaf]:
            self._marks[self.all_leaves(np.array([to]))] |= self._marks[leaf]

    # -- folding ------------------------------------------------------------------------------------------------

    def merge(self, outer: Nodes | None, inner: Nodes | None, sizes: tuple[int, int]) -> Nodes | None:
        """Nodes of a dimension merged from two: index (i, j) stays when i and j both stay."""
        if inner is None:
            return None if outer is None else np.repeat(outer, sizes[1])
        if outer is None:
            return np.tile(inner, sizes[0])
        pairs = np.stack(np.broadcast_arrays(self.roots(outer)[:, None], self.roots(inner)[None]), -1).reshape(-1, 2)
        unique, where = np.unique(pairs, axis=0, return_inverse=True)
        nodes = [self.node(self.leaves(i) | self.leaves(j)) for i, j in unique.tolist()]
        return np.array(nodes, np.int64)[where.reshape(-1)]

    def fold(self, nodes: Nodes | None, sizes: tuple[int, int]) -> tuple[Nodes | None, Nodes | None]:
        """Nodes of the two dimensions that one is folded into; what stays of it must be a full grid.

        Indices that were units of their own now depend on two new units, that of their row and that of their column.
        """
        if nodes is None or not nodes.any():
            return None, None
        grid = self.roots(nodes).reshape(sizes)
        if sizes[0] == 1:
            return None, grid[0]
        if sizes[1] == 1:
            return grid[:, 0], None
        if (grid == grid[:, :1]).all():
            return grid[:, 0], None
        if (grid == grid[:1]).all():
            return None, grid[0]
        sets = [[self.leaves(n) for n in row] for row in grid.tolist()]
        rows = [frozenset.intersection(*row) for row in sets]
        columns = [frozenset.intersection(*column) for column in zip(*sets, strict=True)]
        rest = [[s - r - c for s, c in zip(row, columns, strict=True)] for row, r in zip(sets, rows, strict=True)]
        flat = [s for row in rest for s in row]
        if any(flat):
            single = [next(iter(s)) for s in flat if len(s) == 1]
            if len(single) == len(flat) == len(set(single)):
                outer, inner = self.fresh(sizes[0]), self.fresh(sizes[1])
                self.folds.append((outer, inner))
                for leaf, (i, j) in zip(single, np.ndindex(*sizes), strict=True):
                    self._link(leaf, self.node((int(outer[i]), int(inner[j]))))
                rows = [r | {int(n)} for r, n in zip(rows, outer, strict=True)]
                columns = [c | {int(n)} for c, n in zip(columns, inner, strict=True)]
            else:  # units of several kinds: what is removed from one row is removed from all
                for row in grid[1:]:
                    self.unite(grid[0], row)
                return None, self.roots(grid[0])
        return self._array(rows), self._array(columns)

    def _array(self, sets: list[frozenset[int]]) -> Nodes | None:
        return np.array([self.node(s) for s in sets], np.int64) if any(sets) else None
