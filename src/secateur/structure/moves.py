"""Rules for operations that move data: they move the nodes in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from secateur.structure.base import FIXED_INDEX, POSITIONS, UNKNOWN, Base, tensors_in
from secateur.structure.conditions import COMBINED, Nodes
from secateur.structure.labels import Dims, unite


class Moves(Base):
    """Rules for reshapes, slices, concatenations and similar operations."""

    def view(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Fold and merge dimensions."""
        before = self.labels.shape_before(args[0])
        if math.prod(before) != result.numel():  # as another type of numbers
            self.labels.lock(args[0], UNKNOWN.format(name))
            return
        self.labels.set(result, self.reshaped(self.labels.of(args[0]), before, result.shape))

    def reshaped(self, dims: Dims, before: Sequence[int], after: Sequence[int]) -> Dims:
        """Nodes of the dimensions after a reshape from one shape to another."""
        out: list[Nodes | None] = [None] * len(after)
        if math.prod(before) == 0:
            for nodes in dims:
                self.conditions.lock(nodes, "is reshaped in a tensor without elements")
            return tuple(out)
        i = j = 0
        while i < len(before) or j < len(after):
            ins, outs = [i] if i < len(before) else [], [j] if j < len(after) else []
            i, j = i + len(ins), j + len(outs)
            while math.prod(before[k] for k in ins) != math.prod(after[k] for k in outs):
                if math.prod(before[k] for k in ins) < math.prod(after[k] for k in outs):
                    ins, i = [*ins, i], i + 1
                else:
                    outs, j = [*outs, j], j + 1
            if all(dims[k] is None for k in ins):
                continue
            wide_in, wide_out = [k for k in ins if before[k] > 1], [k for k in outs if after[k] > 1]
            if len(wide_in) == len(wide_out) == 1:
                out[wide_out[0]] = dims[wide_in[0]]
                continue
            nodes, size = None, 1
            for k in reversed(wide_in):
                nodes = self.conditions.merge(dims[k], nodes, (before[k], size))
                size *= before[k]
            for k in wide_out[:-1]:
                size //= after[k]
                out[k], nodes = self.conditions.fold(nodes, (after[k], size))
            if wide_out:
                out[wide_out[-1]] = nodes
        return tuple(out)

    def permute(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Reorder dimensions."""
        dims = list(self.labels.of(args[0]))
        if name == "permute":
            order = [d % len(dims) for d in args[1]]
        else:
            a, b = (0, 1) if name == "t" else (args[1] % len(dims), args[2] % len(dims))
            order = list(range(len(dims)))
            if len(dims) > 1:
                order[a], order[b] = order[b], order[a]
        self.labels.set(result, [dims[d] for d in order])

    def expand(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Repeat dimensions of size one; new dimensions come first."""
        self.labels.set(result, self.meet([args[0]], result.shape))

    def squeeze(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Drop or add dimensions of size one."""
        before = self.labels.shape_before(args[0])
        self.labels.set(result, self.reshaped(self.labels.of(args[0]), before, result.shape))

    def slice(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """A range of indices; `secateur.structure.sizes` corrects its ends where code names them."""
        bound = [*args[1:], *[None] * (4 - len(args[1:]))]
        dim = (kwargs.get("dim", bound[0]) or 0) % args[0].ndim
        start, end = kwargs.get("start", bound[1]), kwargs.get("end", bound[2])
        step = kwargs.get("step", bound[3]) or 1
        dims = list(self.labels.of(args[0]))
        if dims[dim] is not None:
            if step != 1:
                self.conditions.lock(dims[dim], FIXED_INDEX)
            dims[dim] = dims[dim][slice(start, end, step)]
        self.labels.set(result, dims)

    def select(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """One index, or every index separately."""
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % args[0].ndim
        dims = self.labels.of(args[0])
        if args[0].shape[dim] > 1:
            self.conditions.lock(dims[dim], FIXED_INDEX)
        for output in tensors_in(result):
            self.labels.set(output, [n for d, n in enumerate(dims) if d != dim])

    def split(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Consecutive ranges of indices; ranges of equal length keep equal length."""
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].ndim
        dims = list(self.labels.of(args[0]))
        sizes = [part.shape[dim] for part in result]
        parts: list[Nodes | None] = [None] * len(sizes)
        nodes = dims[dim]
        if nodes is not None:
            parts = list(np.split(nodes, np.cumsum(sizes)[:-1]))
            if len(set(sizes)) == 1 and not isinstance(args[1], (list, tuple)) and self.ties_parts:
                # equal parts given by a number: code that says chunk(2) still works when the parts stay equal
                for part in parts[1:]:
                    self.conditions.unite(parts[0], part)  # type: ignore[arg-type]
        for output, part in zip(result, parts, strict=True):
            self.labels.set(output, [part if d == dim else n for d, n in enumerate(dims)])

    def index(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Advanced indexing: indexed dimensions are fixed, the others pass."""
        dims = self.labels.of(args[0])
        indexed: list[int] = []
        at = 0
        for index in args[1]:
            width = index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
            indexed += [] if index is None else range(at, at + width)
            at += width
        for d in indexed:
            self.conditions.lock(dims[d], FIXED_INDEX)
        for index in tensors_in([i for i in args[1] if i is not None]):
            self.labels.lock(index, POSITIONS)
        width = result.ndim - (len(dims) - len(indexed))
        at = indexed[0] if indexed == list(range(indexed[0], indexed[0] + len(indexed))) else 0
        passed: list[Nodes | None] = [n for d, n in enumerate(dims) if d not in indexed]
        self.labels.set(result, [*passed[:at], *[None] * width, *passed[at:]])

    def take(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Indices along one dimension, given by a tensor."""
        x, dim, index = args[0], args[1] % max(1, args[0].ndim), args[2]
        dims, positions = list(self.labels.of(x)), self.labels.of(index)
        if not dims:
            return
        self.conditions.lock(dims[dim], FIXED_INDEX)
        dims[dim] = None
        if name == "index_select":
            self.labels.lock(index, POSITIONS)
        else:  # every index of the other dimensions has its own positions
            dims[dim] = positions[dim]
            for d, (nodes, own) in enumerate(zip(dims, positions, strict=True)):
                if d != dim and x.shape[d] > 1:
                    cut = None if nodes is None else nodes[: index.shape[d]]
                    dims[d] = unite(self.conditions, cut, own, "is indexed at positions that are given for every unit")
        self.labels.set(result, dims)

    def glu(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """One half times a function of the other."""
        dim = (args[1] if len(args) > 1 else -1) % args[0].ndim
        dims = list(self.labels.of(args[0]))
        nodes = dims[dim]
        if nodes is not None:
            first, second = np.split(nodes, 2)
            self.conditions.unite(first, second)
            dims[dim] = first
        self.labels.set(result, dims)

    def nothing(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Operations that take no data from their tensor."""

    def embedding(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Rows of a table."""
        rows, columns = self.labels.of(args[0])
        self.conditions.lock(rows, FIXED_INDEX)
        self.labels.set(result, [*self.labels.of(args[1]), columns])

    def flip(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Reverse dimensions."""
        turned = {d % args[0].ndim for d in args[1]}
        dims = self.labels.of(args[0])
        self.labels.set(result, [n[::-1] if n is not None and d in turned else n for d, n in enumerate(dims)])

    def roll(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Shift dimensions by fixed amounts."""
        shifted = args[2] if len(args) > 2 else kwargs.get("dims", ())
        shifted = [shifted] if isinstance(shifted, int) else shifted
        self.labels.lock(args[0], FIXED_INDEX, [d % args[0].ndim for d in shifted] or None)
        self.labels.set(result, self.labels.of(args[0]))

    def repeat(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Tile."""
        dims = self.labels.of(args[0])
        dims = (*[None] * (result.ndim - len(dims)), *dims)
        self.labels.set(
            result,
            [None if n is None else np.tile(n, size // len(n)) for n, size in zip(dims, result.shape, strict=True)],
        )

    def pad(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Add or remove indices at the ends; added constants are fixed."""
        dims = list(self.labels.of(args[0]))
        for back, (low, high) in enumerate(zip(args[1][::2], args[1][1::2], strict=True)):
            nodes = dims[-1 - back]
            if nodes is None or not (low or high):
                continue
            if name != "constant_pad_nd":
                self.conditions.lock(nodes, f"is extended by {name}")
                dims[-1 - back] = None
                continue
            nodes = nodes[max(0, -low) : len(nodes) - max(0, -high)]
            dims[-1 - back] = np.concatenate([np.zeros(max(0, low), np.int64), nodes, np.zeros(max(0, high), np.int64)])
        self.labels.set(result, dims)

    def unfold(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Patches as columns: [N, C, ...] -> [N, C·k, L]."""
        *batch, channels, _, _ = self.labels.of(args[0])
        self.labels.lock(args[0], f"meets a window of {name} across units", range(args[0].ndim - 2, args[0].ndim))
        nodes = None if channels is None else np.repeat(channels, result.shape[-2] // len(channels))
        self.labels.set(result, [*batch, nodes, None])

    def shuffle_pixels(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """[N, C·r², H, W] <-> [N, C, rH, rW]."""
        x, r = args[0], int(args[1])
        *batch, channels, _, _ = self.labels.of(x)
        if name == "pixel_shuffle":
            channels, inner = self.conditions.fold(channels, (result.shape[-3], r * r))
            self.conditions.lock(inner, "becomes a position")
        else:
            channels = None if channels is None else np.repeat(channels, r * r)
        self.labels.lock(x, f"meets a window of {name} across units", range(x.ndim - 2, x.ndim))
        self.labels.set(result, [*batch, channels, None, None])

    def shuffle_channels(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Channels (g, c) -> (c, g)."""
        dims = list(self.labels.of(args[0]))
        sizes = (int(args[1]), args[0].shape[1] // int(args[1]))
        outer, inner = self.conditions.fold(dims[1], sizes)
        self.conditions.lock(outer, FIXED_INDEX)
        dims[1] = self.conditions.merge(inner, outer, sizes[::-1])
        self.labels.set(result, dims)

    def join(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Concatenate or stack."""
        parts = [p for p in args[0] if p.numel() or p.ndim > 1]
        given = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        dim = given % result.ndim
        dims: list[Nodes | None] = []
        for d in range(result.ndim):
            if d == dim and name == "stack":
                dims.append(None)
                continue
            at = d - (name == "stack" and d > dim)
            of_parts = [self.labels.of(p)[at] for p in parts]
            if d == dim:
                known = any(n is not None for n in of_parts)
                filled = [
                    np.zeros(p.shape[d], np.int64) if n is None else n for n, p in zip(of_parts, parts, strict=True)
                ]
                dims.append(np.concatenate(filled) if known else None)
                continue
            nodes = of_parts[0]
            for other in of_parts[1:]:
                nodes = unite(self.conditions, nodes, other, COMBINED)
            dims.append(nodes)
        self.labels.set(result, dims)
