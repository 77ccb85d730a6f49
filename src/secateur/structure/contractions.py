"""Rules for convolutions and matrix products, whose weights read units and produce others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secateur.structure.base import UNKNOWN, Base
from secateur.structure.conditions import COMBINED, MULTIPLIED, READ_TOGETHER, Nodes
from secateur.structure.labels import Dims, Labels, unite

NONZERO = "is summed over in a product of two tensors neither of which is zero where a unit is masked"


@dataclass(frozen=True, eq=False)
class Product:
    """One contraction of the traced pass.

    Attributes:
        op: ``convolution``, ``linear`` or ``product`` (of two activations).
        weight: name of the parameter that holds the weight; None for products of activations.
        x: shape and nodes of the input; w: of the weight (or second operand).
        out: nodes of the weight's rows; read: nodes of its columns.
        macs: multiply-accumulates divided by the elements that remain of ``sizes``.
        sizes: (length, nodes) whose product, times ``macs``, is the number of multiply-accumulates of the call.
        options: options of a convolution.
    """

    op: str
    weight: str | None
    x: tuple[tuple[int, ...], Dims]
    w: tuple[tuple[int, ...], Dims]
    out: Nodes | None
    read: Nodes | None
    macs: float
    sizes: tuple[tuple[int, Nodes | None], ...]
    options: dict[str, Any]


class Contractions(Base):
    """Rules for weighted layers, and for products of activations."""

    def __init__(self, labels: Labels) -> None:
        super().__init__(labels)
        self.products: list[Product] = []

    def convolution(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Channels are read by one dimension of the weight and produced by the other; groups fold both."""
        x, weight, bias = args[:3]
        transposed, groups = bool(args[6]), int(args[8])
        con = self.conditions
        batch, read, *space = self.labels.of(x)
        for nodes in space:
            con.lock(nodes, "is mixed with positions by a convolution")
        lead, inner, *kernel = self.labels.of(weight)
        for nodes in kernel:
            con.lock(nodes, "is a position of a kernel")
        # in both layouts dimension 0 runs over the groups; transposed weights are [in, out / groups, ...]
        rows = weight.shape[0] // groups
        fixed = READ_TOGETHER
        if transposed:
            if read is None:
                con.lock(lead, fixed)
            elif lead is not None:
                con.unite(read, lead)
            outer, _ = con.fold(lead, (groups, rows)) if groups > 1 else (None, None)
            produced = con.merge(outer, inner, (groups, weight.shape[1]))
            raw_read, raw_out = lead, inner
        else:
            outer, column = con.fold(read, (groups, x.shape[1] // groups)) if groups > 1 else (None, read)
            if groups > 1:
                own, _ = con.fold(lead, (groups, rows))
                if outer is None:
                    con.lock(own, "comes from fixed inputs through a grouped convolution")
                elif own is not None:
                    con.unite(outer, own)
            if column is None:
                con.lock(inner, fixed)
            elif inner is None:
                con.lock(column, fixed)
            else:
                con.unite(column, inner)
            produced, raw_read, raw_out = lead, inner, lead
        self._lock_nonzero(x, weight, raw_read)
        if groups > 1:
            con.mark(outer, "group" if groups < x.shape[1] else "channel")
        if bias is not None:
            unite(con, produced, self.labels.of(bias)[0], COMBINED)
        self.labels.set(result, [batch, produced, *[None] * len(space)])
        # a transposed convolution uses each weight once per input position, a plain one once per output position
        visited = x if transposed else result
        positions = visited.shape[0] * math.prod(visited.shape[2:])
        keys = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
        options = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in zip(keys, args[3:9], strict=True)}
        sizes = tuple(zip(weight.shape, self.labels.of(weight), strict=True))
        self._product("convolution", x, weight, raw_out, raw_read, positions, sizes, options)

    def matrix(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Matrix products under all their names."""
        bias = args[0] if name in ("addmm", "baddbmm") else None
        x, w = args[1:3] if bias is not None else args[:2]
        if name == "linear":
            bias = args[2] if len(args) > 2 else None
        a, b = list(self.labels.of(x)), list(self.labels.of(w))
        if name == "linear":
            b[-1], b[-2] = b[-2], b[-1]
        lead = a[:-2] if name in ("bmm", "baddbmm") else []
        if lead:
            lead = [unite(self.conditions, a[0], b[0], COMBINED)]
        k_size, m_size = x.shape[-1], result.shape[-1]
        # where weights are computed, a buffer that is multiplied there is no layer
        computed = id(x) not in self.labels.dependent and id(w) not in self.labels.dependent
        none = self.labels.buffers if computed else frozenset()
        owners = [None if o in none else o for o in (self._weight_of(w, b), self._weight_of(x, a[::-1]))]
        if k_size > 1:
            self._lock_nonzero(x, w, a[-1], b[-2])
            if owners == [None, None]:
                self._contract_activations(a[-1], b[-2])
            else:
                unite(self.conditions, a[-1], b[-2], READ_TOGETHER)
        out = [*lead, *a[len(lead) : -1], b[-1]]
        if bias is not None:
            self.labels.set(result, out)
            if id(bias) in self.labels.dependent:
                self.labels.dependent.add(id(result))
                self.note_sum([result, bias])
            out = list(self.meet([result, bias], result.shape))
        self.labels.set(result, out)
        rest = x.shape[:-1]
        sizes = (*zip(rest, [*lead, *a[len(lead) : -1]], strict=True), (k_size, a[-1]), (m_size, b[-1]))
        if owners[0] is not None or owners[1] is None:
            op = "linear" if owners[0] is not None else "product"
            self._product(op, x, w, b[-1], b[-2], 1, sizes, {"transposed": name == "linear"}, owners[0])
        else:  # the weight is the left operand
            self._product("linear", w, x, a[-2], a[-1], 1, sizes, {"left": True}, owners[1])

    def vector(self, name: str, args: Any, kwargs: Any, result: Any, inplace: bool) -> None:
        """Products with vectors, only where weights are computed (the norm in a spectral norm)."""
        x, w = args[:2]
        if name == "addmv" or id(x) in self.labels.dependent or id(w) in self.labels.dependent:
            for tensor in (*args[:2], result):
                self.labels.lock(tensor, UNKNOWN.format(name))
            return
        a, b = self.labels.of(x), self.labels.of(w)
        self._lock_nonzero(x, w, a[-1], b[-1])
        unite(self.conditions, a[-1], b[-1], MULTIPLIED)
        self.labels.set(result, a[:-1])

    def _weight_of(self, tensor: torch.Tensor, dims: Sequence[Nodes | None]) -> str | None:
        """Name of the parameter that a matrix operand comes from; None for activations."""
        if id(tensor) in self.labels.dependent:
            return None
        for nodes in dims:
            owner = self.labels.owner(nodes)
            if owner is not None:
                return owner[0]
        return self.labels.name(tensor)

    def _lock_nonzero(self, x: torch.Tensor, w: torch.Tensor, *units: Nodes | None) -> None:
        """Lock units that are summed over where neither factor is zero without them."""
        if not self.labels.zero_without(x) and not self.labels.zero_without(w):
            for nodes in units:
                self.conditions.lock(nodes, NONZERO)

    def _contract_activations(self, a: Nodes | None, b: Nodes | None) -> None:
        if a is None and b is None:
            return
        for nodes in (a, b):
            self.conditions.mark(nodes, "contracted")
        unite(self.conditions, a, b, MULTIPLIED)

    def _product(
        self,
        op: str,
        x: torch.Tensor,
        weight: torch.Tensor,
        out: Nodes | None,
        read: Nodes | None,
        macs: float,
        sizes: tuple[tuple[int, Nodes | None], ...],
        options: dict[str, Any],
        name: str | None = None,
    ) -> None:
        if op == "convolution":
            name = self._weight_of(weight, self.labels.of(weight)) if name is None else name
        if op == "product":
            for dim in (0,):
                self.conditions.mark(self.labels.of(x)[dim], "head")
        x_part = tuple(x.shape), self.labels.of(x)
        w_part = tuple(weight.shape), self.labels.of(weight)
        self.products.append(Product(op, name, x_part, w_part, out, read, macs, sizes, options))
