"""Conditions of tensors during a traced pass: per dimension one node per index, or None where every index stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.structure.conditions import Conditions, Nodes

Dims = tuple[Nodes | None, ...]


class Labels:
    """Nodes of all tensors seen, keyed by identity; tensors are held so that identities stay unique.

    Parameters and buffers have their own nodes for every dimension, so that operations on them in the network's code
    (slices, transposes, concatenations, sums) need no separate rules.

    Args:
        state: parameters and buffers by name.
    """

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.conditions = Conditions()
        self._names = {id(t): name for name, t in reversed(list(state.items()))}
        self._dims: dict[int, Dims] = {}
        self._held: list[Any] = []
        self._firsts: list[int] = []
        self._owners: list[tuple[str, int, int]] = []
        self.state_dims: dict[str, Dims] = {}
        self.computed: set[str] = set()
        """Parameters that were replaced by a tensor computed from them."""
        self.behind: set[str] = set()
        """Other parameters from which such tensors are computed; they are dropped when the tensor replaces them."""
        self.dependent: set[int] = set()
        """Identities of tensors that depend on the network's input."""
        self.weighed: set[int] = {id(t) for t in state.values() if t.is_floating_point() or t.is_complex()}
        """Identities of tensors that depend on parameters or buffers of numbers."""
        self._aliases: dict[int, list[int]] = {}
        self._layouts: dict[int, tuple[Any, ...]] = {}
        self.buffers = {name for name, t in state.items() if not isinstance(t, nn.Parameter)}
        # buffers are not masked
        self._nonzero = {memory(t) for t in state.values() if not isinstance(t, nn.Parameter)}
        self.hold(list(state.values()))

    def hold(self, value: Any) -> None:
        """Keep tensors alive until the pass is over, and note which share memory."""
        self._held.append(value)
        for tensor in tensors_in(value):
            if id(tensor) not in self._layouts:
                self._layouts[id(tensor)] = layout(tensor)
                self._aliases.setdefault(memory(tensor), []).append(id(tensor))

    def recognise(self, tensor: torch.Tensor) -> None:
        """Label a tensor that no operation returned, such as ``x.data`` or what `torch.vmap` unwraps, by its memory."""
        if id(tensor) in self._layouts:
            return
        others = self.aliases(tensor)
        self.hold(tensor)
        for other in others:
            for known in (self.dependent, self.weighed):
                if other in known:
                    known.add(id(tensor))
            if self._layouts.get(other) == layout(tensor) and other in self._dims:
                self._dims[id(tensor)] = self._dims[other]
        if id(tensor) not in self._dims:
            for other in others:
                for nodes in self._dims.get(other, ()):
                    self.conditions.lock(nodes, "is read by code outside torch's operations")

    def shape_before(self, tensor: torch.Tensor) -> tuple[int, ...]:
        """The shape that a tensor had when it was last seen: ``squeeze_`` and the like change it."""
        earlier = self._layouts.get(id(tensor))
        return tuple(tensor.shape) if earlier is None or len(earlier) < 2 else tuple(earlier[1])

    def see(self, tensor: torch.Tensor) -> None:
        """Note the shape of a tensor after an operation."""
        self._layouts[id(tensor)] = layout(tensor)

    def aliases(self, tensor: torch.Tensor) -> list[int]:
        """Identities of all tensors that share memory with this one."""
        return list(self._aliases.get(memory(tensor), [id(tensor)]))

    def zero_without(self, tensor: torch.Tensor) -> bool:
        """Whether entries of removed units are zero in the masked network."""
        return memory(tensor) not in self._nonzero

    def set_nonzero(self, tensor: torch.Tensor) -> None:
        """Note that entries of removed units need not be zero."""
        self._nonzero.add(memory(tensor))

    def of(self, tensor: torch.Tensor) -> Dims:
        """Nodes of each dimension of a tensor."""
        dims = self._dims.get(id(tensor))
        if dims is not None:
            return dims
        name = self._names.get(id(tensor))
        if name is None or not (tensor.is_floating_point() or tensor.is_complex()):
            return (None,) * tensor.ndim  # masks and index tensors name positions and have no units
        return self._own(name, tensor)

    def carry(self, tensor: torch.Tensor) -> None:
        """Give new units to a tensor that an earlier pass left in a cache."""
        self._held.append(tensor)
        self.dependent.add(id(tensor))
        self._dims[id(tensor)] = tuple(self.conditions.fresh(size) if size > 1 else None for size in tensor.shape)

    def adopt(self, name: str, tensor: torch.Tensor) -> None:
        """Replace a parameter by a tensor computed from it."""
        self._held.append(tensor)
        self._nonzero.discard(memory(tensor))
        self._own(name, tensor)

    def _own(self, name: str, tensor: torch.Tensor) -> Dims:
        dims: list[Nodes | None] = []
        for dim, size in enumerate(tensor.shape):
            if size < 2:
                dims.append(None)
                continue
            nodes = self.conditions.fresh(size)
            self._firsts.append(int(nodes[0]))
            self._owners.append((name, dim, size))
            dims.append(nodes)
        self._dims[id(tensor)] = self.state_dims[name] = tuple(dims)
        return self._dims[id(tensor)]

    def name(self, tensor: torch.Tensor) -> str | None:
        """Name of a parameter or buffer; None for anything else."""
        return self._names.get(id(tensor))

    def owner(self, nodes: Nodes | None) -> tuple[str, int] | None:
        """Name and dimension of the parameter or buffer whose own nodes these are."""
        if nodes is None or not len(nodes):
            return None
        index = int(np.searchsorted(self._firsts, int(nodes[0]), "right")) - 1
        if index < 0:
            return None
        name, dim, size = self._owners[index]
        first = self._firsts[index]
        return (name, dim) if first <= nodes.min() and nodes.max() < first + size else None

    def set(self, tensor: torch.Tensor, dims: Sequence[Nodes | None]) -> None:
        """Set the nodes of a tensor's dimensions."""
        if len(dims) != tensor.ndim:
            raise AssertionError(f"nodes for {len(dims)} dimensions of a tensor of {tensor.ndim}")
        if any(n is not None and len(n) != size for n, size in zip(dims, tensor.shape, strict=True)):
            raise AssertionError(f"nodes for {[None if n is None else len(n) for n in dims]} of {list(tensor.shape)}")
        labelled: list[Nodes | None] = []
        for nodes in dims:
            alone = nodes is not None and len(nodes) == 1
            if alone:
                self.conditions.lock(nodes, "is alone in a part of a tensor")
            labelled.append(None if alone else nodes)
        self._dims[id(tensor)] = tuple(labelled)

    def lock(self, tensor: torch.Tensor, reason: str, dims: Sequence[int] | None = None) -> None:
        """Lock the units along some dimensions, by default all."""
        for dim, nodes in enumerate(self.of(tensor)):
            if dims is None or dim in dims:
                self.conditions.lock(nodes, reason)


def memory(tensor: torch.Tensor) -> int:
    """Identity of a tensor's memory."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)


def layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Position of a tensor's elements in its memory: type, shape, strides, offset."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return (id(tensor),)
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    tensors: list[torch.Tensor] = []
    _collect(value, tensors)
    return iter(tensors)


def _collect(value: Any, tensors: list[torch.Tensor]) -> None:
    # called for every operation: the cheap checks come first
    if isinstance(value, torch.Tensor):
        tensors.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _collect(item, tensors)
    elif not isinstance(value, (int, float, str, type(None))) and isinstance(value, Mapping):
        for item in value.values():
            _collect(item, tensors)


def unite(conditions: Conditions, a: Nodes | None, b: Nodes | None, reason: str) -> Nodes | None:
    """Nodes of two dimensions that are combined index by index; their indices stay or are removed together."""
    if a is None or b is None:
        conditions.lock(a if b is None else b, reason)
        return None
    conditions.unite(a, b)
    return a
