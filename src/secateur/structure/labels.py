"""Labels of tensors during a traced pass, and the union-find over them.

A label tensor has, per dimension, either the tensor's size or 1 (the same along that dimension). Label 0 means: belongs
to no unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secateur.structure.groups import Role


@dataclass(frozen=True, eq=False)
class Attachment:
    """Labels along one dimension of a parameter or buffer."""

    tensor: str
    dim: int
    role: Role
    labels: np.ndarray


_PICKS = frozenset({"slice", "select", "index", "index_select", "unbind", "split_with_sizes"})


class LabelTable:
    """Labels of all tensors seen, keyed by identity; tensors are held so that identities stay unique.

    Args:
        state: parameters and buffers by name.
    """

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.attachments: list[Attachment] = []
        self._names = {id(t): name for name, t in reversed(list(state.items()))}
        self._state = state
        self._labels: dict[int, torch.Tensor] = {}
        self._origins: dict[int, tuple[str, torch.Tensor]] = {}  # views of parameters: name, flat positions
        self._held: list[Any] = []
        self._parent: list[int] = [0]
        self._reasons: dict[int, str] = {}
        self._attached: dict[tuple[str, int], np.ndarray] = {}

    # -- union-find ---------------------------------------------------------------------------------------------

    def fresh(self, count: int) -> np.ndarray:
        """``count`` new labels."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, label: int) -> int:
        """The label that stands for all that were declared one with ``label``."""
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """`find` for each element."""
        return np.array([self.find(int(v)) for v in labels], np.int64)

    def union(self, a: int, b: int) -> None:
        """Declare two labels one; 0 joins nothing."""
        ra, rb = self.find(a), self.find(b)
        if ra == rb or not ra or not rb:
            return
        low, high = min(ra, rb), max(ra, rb)
        self._parent[high] = low
        if high in self._reasons:
            self._reasons.setdefault(low, self._reasons[high])

    def reason(self, root: int) -> str | None:
        """Why the units behind a root cannot go; None: they can."""
        return self._reasons.get(root)

    def lock_label(self, label: int, reason: str) -> None:
        """Say why a label's unit cannot go; the first reason stays."""
        if label:
            self._reasons.setdefault(self.find(label), reason)

    # -- labels of tensors --------------------------------------------------------------------------------------

    def hold(self, value: Any) -> None:
        """Keep tensors alive until the pass is over."""
        self._held.append(value)

    def has_labels(self, tensor: torch.Tensor) -> bool:
        """Whether any index of the tensor belongs to a unit."""
        found = self._labels.get(id(tensor))
        return found is not None and bool(found.any())

    def labels(self, tensor: torch.Tensor) -> torch.Tensor:
        """Label tensor, broadcastable to the tensor's shape."""
        found = self._labels.get(id(tensor))
        return torch.zeros([1] * tensor.ndim, dtype=torch.int64) if found is None else found

    def _set(self, tensor: torch.Tensor, labels: torch.Tensor) -> None:
        if tensor.ndim != labels.ndim:
            raise AssertionError(f"labels of {labels.ndim} dimensions for a tensor of {tensor.ndim}")
        self._labels[id(tensor)] = labels

    def set_along(self, tensor: torch.Tensor, dim: int, labels: np.ndarray) -> None:
        """Label a tensor along one dimension only."""
        shape = [1] * tensor.ndim
        shape[dim] = len(labels)
        self._set(tensor, torch.from_numpy(np.asarray(labels, np.int64)).reshape(shape))

    def along(self, tensor: torch.Tensor, dim: int) -> np.ndarray | None:
        """Labels along one dimension; None when they vary along another one as well."""
        labels = self.labels(tensor)
        if any(size != 1 for d, size in enumerate(labels.shape) if d != dim):
            return None
        return labels.reshape(-1).expand(tensor.shape[dim]).numpy().copy()

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """The target's indices belong to the same units (its fixed dimensions may have other sizes)."""
        self._set(target, self.labels(source))
        if id(source) in self._names or id(source) in self._origins:
            if source.shape == target.shape:
                self._origins[id(target)] = self._origin(source)
        elif id(target) in self._origins:
            del self._origins[id(target)]

    def lock(self, tensor: torch.Tensor, reason: str) -> None:
        """Lock every unit that the tensor carries, and parameters used raw."""
        for label in torch.unique(self.labels(tensor)).tolist():
            self.lock_label(label, reason)

    def lock_if_varies(self, tensor: torch.Tensor, dims: Iterable[int], reason: str) -> bool:
        """Lock the tensor's units when they differ along any of ``dims``; says whether they do."""
        varies = any(self.labels(tensor).shape[d] != 1 for d in dims)
        if varies:
            self.lock(tensor, reason)
        return varies

    def lock_newcomers(self, into: torch.Tensor, others: Sequence[torch.Tensor], reason: str) -> None:
        """Lock units of ``others`` where ``into`` has none."""
        if not self.has_labels(into):
            for tensor in others:
                self.lock(tensor, reason)

    def reduce(self, source: torch.Tensor, target: torch.Tensor, dims: Sequence[int], keepdim: bool) -> None:
        """Labels behind a reduction over ``dims`` (along which they do not vary)."""
        labels = self.labels(source)
        if not keepdim and target.ndim != source.ndim:
            kept = [size for d, size in enumerate(labels.shape) if d not in dims]
            labels = labels.reshape(kept)
        self._set(target, labels)

    def pairwise(self, operands: Sequence[torch.Tensor], result: torch.Tensor) -> None:
        """Element by element: labels that meet are one; parameters that meet labels are attached."""
        merged = torch.zeros([1] * result.ndim, dtype=torch.int64)
        for tensor in operands:
            labels = self.labels(tensor)
            labels = labels.reshape([1] * (result.ndim - labels.ndim) + list(labels.shape))
            merged, labels = torch.broadcast_tensors(merged, labels)
            both = torch.unique(torch.stack([merged.flatten(), labels.flatten()]), dim=1)
            for a, b in both.T.tolist():
                self.union(a, b)
            merged = torch.where(merged > 0, merged, labels)
        merged = _compressed(merged.clone())
        for tensor in operands:
            if id(tensor) in self._names or id(tensor) in self._origins:
                self._meet(tensor, merged, result.shape)
            else:
                self._lock_strangers(tensor, merged)
        self._set(result, merged)

    def _lock_strangers(self, tensor: torch.Tensor, merged: torch.Tensor) -> None:
        """Lock labels that meet fixed channels of an operand: those channels could not go along."""
        shape = [1] * (merged.ndim - tensor.ndim) + list(tensor.shape)
        if all(size == 1 or shape[d] == 1 for d, size in enumerate(merged.shape)):
            return  # the operand is broadcast over the units
        own = self.labels(tensor).reshape([1] * (merged.ndim - tensor.ndim) + list(self.labels(tensor).shape))
        own, merged = torch.broadcast_tensors(own, merged)
        for label in torch.unique(merged[(own == 0) & (merged > 0)]).tolist():
            self.lock_label(label, "is combined with channels that cannot go")

    def move(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Move labels (and the provenance of parameters) by the operation itself."""
        source = args[0]
        outputs = [result] if isinstance(result, torch.Tensor) else list(result)
        if id(source) in self._names or id(source) in self._origins:
            name, flat = self._origin(source)
            for target, moved in zip(outputs, _apply(func, flat, args, kwargs), strict=True):
                self._origins[id(target)] = (name, moved)
        if not self.has_labels(source):
            return
        name = func._schema.name.split("::")[-1]
        labels = self.labels(source)
        varying = [d for d, size in enumerate(labels.shape) if size != 1]
        if name in _PICKS and any(
            t.ndim != source.ndim or t.shape[d] != source.shape[d] for t in outputs for d in varying
        ):
            self.lock(source, "is picked apart at fixed positions by the network's code")
            return
        full = labels.expand(source.shape)
        moved_all = [_compressed(moved) for moved in _apply(func, full, args, kwargs)]
        if len(outputs) > 1 and any(m.shape != moved_all[0].shape for m in moved_all):
            self.lock(source, "is split into unequal parts by the network's code")
            return
        if len(outputs) > 1 and any(not torch.equal(m, moved_all[0]) for m in moved_all):
            # equal parts stay equal when the same positions leave each of them
            for part in moved_all[1:]:
                self._tie(moved_all[0], part)
        for target, moved in zip(outputs, moved_all, strict=True):
            self._set(target, moved)
            now = [d for d, size in enumerate(moved.shape) if size != 1]
            if len(now) > len(varying):
                # a dimension was folded in two: what leaves one fold leaves all
                for d in now[:-1]:
                    for index in range(1, moved.shape[d]):
                        self._tie(moved.narrow(d, 0, 1), moved.narrow(d, index, 1))

    def _tie(self, a: torch.Tensor, b: torch.Tensor) -> None:
        for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
            self.union(x, y)
            if bool(x) != bool(y):
                self.lock_label(x or y, "is split alongside channels that cannot go")

    def join(self, func: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        """Concatenate or stack labels."""
        parts = list(args[0])
        if any(self.has_labels(part) for part in parts):
            full = [self.labels(part).expand(part.shape) for part in parts]
            self._set(result, _compressed(func(full, *args[1:], **kwargs)))

    # -- parameters ---------------------------------------------------------------------------------------------

    def parameter_name(self, tensor: torch.Tensor) -> str | None:
        """Name of a parameter or buffer used as it is; None for anything else."""
        return self._names.get(id(tensor))

    def matrix_parameter(self, tensor: torch.Tensor) -> tuple[str, int] | None:
        """(name, parameter dimension behind dimension 0) of a two-dimensional parameter or its transpose."""
        if tensor.ndim != 2 or (id(tensor) not in self._names and id(tensor) not in self._origins):
            return None
        name, flat = self._origin(tensor)
        shape = self._state[name].shape
        if len(shape) != 2 or flat.numel() != self._state[name].numel():
            return None
        natural = torch.arange(flat.numel()).reshape(shape)
        if flat.shape == natural.shape and torch.equal(flat, natural):
            return name, 0
        if flat.shape == natural.T.shape and torch.equal(flat, natural.T):
            return name, 1
        return None

    def attach(self, tensor: str, dim: int, role: Role, labels: np.ndarray) -> None:
        """Tie labels to a dimension of a parameter; a second use of it makes both uses' labels one."""
        before = self._attached.get((tensor, dim))
        if before is not None:
            for a, b in zip(before.tolist(), labels.tolist(), strict=True):
                self.union(a, b)
                if not a or not b:
                    self.lock_label(a or b, f"shares the weight '{tensor}' with fixed channels")
        else:
            self._attached[(tensor, dim)] = labels
        self.attachments.append(Attachment(tensor, dim, role, labels))

    def _origin(self, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
        if id(tensor) in self._origins:
            return self._origins[id(tensor)]
        return self._names[id(tensor)], torch.arange(tensor.numel()).reshape(tensor.shape)

    def _meet(self, tensor: torch.Tensor, merged: torch.Tensor, shape: torch.Size) -> None:
        """Attach a parameter (or view of one) that met labels element by element."""
        if not merged.any():
            return
        name, flat = self._origin(tensor)
        flat = flat.reshape([1] * (len(shape) - flat.ndim) + list(flat.shape))
        at, labels = torch.broadcast_tensors(flat, merged)
        pairs = torch.unique(torch.stack([at.flatten(), labels.flatten()]), dim=1).numpy()
        size = self._state[name].shape
        where = np.array(np.unravel_index(pairs[0], tuple(size))) if size else np.zeros((0, len(pairs[0])), int)
        for dim in range(len(size)):
            found = {(int(i), int(v)) for i, v in zip(where[dim], pairs[1], strict=True)}
            if len(found) == size[dim] > 1 or (size[dim] == 1 and len(pairs[0]) == 1):
                self.attach(name, dim, "along", np.array([v for _, v in sorted(found)], np.int64))
                return
        if len(set(pairs[0].tolist())) > 1:
            for label in set(pairs[1].tolist()):
                self.lock_label(label, f"meets '{name}' in a way that has no structure rule")


def _apply(func: Any, labels: torch.Tensor, args: Any, kwargs: Any) -> list[torch.Tensor]:
    name = func._schema.name.split("::")[-1]
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias"):
        moved: Any = labels.reshape(args[1])
    elif name == "constant_pad_nd":
        moved = func(labels.contiguous(), args[1], 0)
    elif name in ("reflection_pad2d", "replication_pad2d"):
        moved = func(labels.to(torch.float64).contiguous(), *args[1:], **kwargs).to(torch.int64)
    else:
        moved = func(labels, *args[1:], **kwargs)
    return [moved] if isinstance(moved, torch.Tensor) else list(moved)


def _compressed(labels: torch.Tensor) -> torch.Tensor:
    """Shrink dimensions along which the labels are the same to size 1."""
    for dim, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels.contiguous()
