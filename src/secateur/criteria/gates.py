"""Masks units and restores them one by one. Axes: M permutations, K units of a group, N samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from secateur.criteria.replay import Replay
from secateur.criteria.samples import device_of, sample_losses
from secateur.structure import Axis, Group, Structure


def losses_of(
    model: nn.Module,
    structure: Structure,
    group: Group,
    parameters: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    orders_MK: np.ndarray,
) -> np.ndarray:
    """Each sample's loss with the first 0, 1, ... K units of each order restored, [M, K + 1, N]."""
    losses_MKN = np.empty((len(orders_MK), group.size + 1, len(targets)))

    def loss(output: object) -> torch.Tensor:
        return sample_losses(output, targets).cpu()

    inputs = inputs.detach().to(device_of(model))
    with gated(structure, group, parameters) as gate:
        replay = Replay(model, inputs, gate.parameters)
        losses_MKN[:, -1] = loss(replay()).numpy()
        gate.close()
        losses_MKN[:, 0] = replay.check(loss).numpy()
        for order, losses in zip(orders_MK.tolist(), losses_MKN, strict=True):
            gate.close()
            for joined, unit in enumerate(order[:-1], 1):
                gate.open(unit)
                losses[joined] = loss(replay()).numpy()
    return losses_MKN


@contextlib.contextmanager
def gated(structure: Structure, group: Group, parameters: Mapping[str, torch.Tensor]) -> Iterator[Gate]:
    """A gate for a group within the context; afterwards all parameters are restored, also after an exception."""
    gate = Gate(structure, group, parameters)
    try:
        yield gate
    finally:
        gate.restore()


class Gate:
    """Closes (masks) the units of one group and opens (restores) them one by one, in place.

    Args:
        structure: the units.
        group: the group whose units are closed.
        parameters: parameters by name; entries of closed units are set to zero.
    """

    def __init__(self, structure: Structure, group: Group, parameters: Mapping[str, torch.Tensor]) -> None:
        self._group = group
        self._keep = np.ones(structure.num_units, bool)
        axes = [axis for axis in structure.axes if axis.tensor in parameters and _concerns(axis, group)]
        self._tensors = {axis.tensor: parameters[axis.tensor] for axis in axes}
        self._originals = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._axes = {name: [axis for axis in axes if axis.tensor == name] for name in self._tensors}
        self._indices = {id(axis): _indices(axis, group) for axis in axes}

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Parameters that opening and closing units changes."""
        return list(self._tensors.values())

    def close(self) -> None:
        """Close all units of the group."""
        self._keep[self._group.units] = False
        for name, tensor in self._tensors.items():
            for axis in self._axes[name]:
                self._fill(tensor, axis)

    def open(self, unit: int) -> None:
        """Open the unit at this position of the group."""
        self._keep[self._group.first + unit] = True
        for name, tensor in self._tensors.items():
            for axis in self._axes[name]:
                where = self._indices[id(axis)][unit]
                where = where[axis.stays(self._keep)[where]] if len(axis.unit) > 1 else where
                if not len(where):
                    continue
                index = torch.from_numpy(where).to(tensor.device)
                tensor.index_copy_(axis.dim, index, self._originals[name].index_select(axis.dim, index))
            if len(self._axes[name]) > 1:  # entries that one dimension opens may belong to closed units of another
                for axis in self._axes[name]:
                    self._fill(tensor, axis)

    def restore(self) -> None:
        """Restore every parameter."""
        self._keep[self._group.units] = True
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(self._originals[name])

    def _fill(self, tensor: torch.Tensor, axis: Axis) -> None:
        closed = torch.from_numpy(np.flatnonzero(~axis.stays(self._keep))).to(tensor.device)
        tensor.index_fill_(axis.dim, closed, 0)


def _concerns(axis: Axis, group: Group) -> bool:
    return bool(((axis.unit >= group.first) & (axis.unit < group.first + group.size)).any())


def _indices(axis: Axis, group: Group) -> list[np.ndarray]:
    """For each unit of the group, the indices along the axis that depend on it."""
    return [np.flatnonzero((axis.unit == group.first + unit).any(0)) for unit in range(group.size)]
