"""Units that are closed and opened one by one. Axes: M permutations, K units of a group, N samples."""

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
    """Each sample's loss with the first 0, 1, ... K units of each order open, [M, K + 1, N]."""
    found = np.empty((len(orders_MK), group.size + 1, len(targets)))

    def loss(output: object) -> torch.Tensor:
        return sample_losses(output, targets).cpu()

    inputs = inputs.detach().to(device_of(model))
    with gated(structure, group, parameters) as gate:
        replay = Replay(model, inputs, gate.parameters)
        found[:, -1] = loss(replay()).numpy()
        gate.close()
        found[:, 0] = replay.check(loss).numpy()
        for order, losses in zip(orders_MK.tolist(), found, strict=True):
            gate.close()
            for joined, unit in enumerate(order[:-1], 1):
                gate.open(unit)
                losses[joined] = loss(replay()).numpy()
    return found


@contextlib.contextmanager
def gated(structure: Structure, group: Group, parameters: Mapping[str, torch.Tensor]) -> Iterator[Gate]:
    """A group whose units can be closed; all parameters as they were afterwards, also after an exception."""
    gate = Gate(structure, group, parameters)
    try:
        yield gate
    finally:
        gate.restore()


class Gate:
    """Closes the units of one group and opens them one by one, in place.

    Args:
        structure: the units.
        group: whose units are closed.
        parameters: by name; what goes with a closed unit is zero in them.
    """

    def __init__(self, structure: Structure, group: Group, parameters: Mapping[str, torch.Tensor]) -> None:
        self._group = group
        self._keep = np.ones(structure.num_units, bool)
        axes = [axis for axis in structure.axes if axis.tensor in parameters and _concerns(axis, group)]
        self._tensors = {axis.tensor: parameters[axis.tensor] for axis in axes}
        self._originals = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._axes = {name: [axis for axis in axes if axis.tensor == name] for name in self._tensors}
        self._places = {id(axis): _places(axis, group) for axis in axes}

    @property
    def parameters(self) -> list[torch.Tensor]:
        """That change."""
        return list(self._tensors.values())

    def close(self) -> None:
        """All units."""
        self._keep[self._group.units] = False
        for name, tensor in self._tensors.items():
            for axis in self._axes[name]:
                self._fill(tensor, axis)

    def open(self, unit: int) -> None:
        """The unit at this position of the group."""
        self._keep[self._group.first + unit] = True
        for name, tensor in self._tensors.items():
            for axis in self._axes[name]:
                where = self._places[id(axis)][unit]
                where = where[axis.stays(self._keep)[where]] if len(axis.unit) > 1 else where
                if not len(where):
                    continue
                index = torch.from_numpy(where).to(tensor.device)
                tensor.index_copy_(axis.dim, index, self._originals[name].index_select(axis.dim, index))
            if len(self._axes[name]) > 1:  # what one dimension opens, another may have closed
                for axis in self._axes[name]:
                    self._fill(tensor, axis)

    def restore(self) -> None:
        """Every parameter as it was."""
        self._keep[self._group.units] = True
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(self._originals[name])

    def _fill(self, tensor: torch.Tensor, axis: Axis) -> None:
        closed = torch.from_numpy(np.flatnonzero(~axis.stays(self._keep))).to(tensor.device)
        tensor.index_fill_(axis.dim, closed, 0)


def _concerns(axis: Axis, group: Group) -> bool:
    return bool(((axis.unit >= group.first) & (axis.unit < group.first + group.size)).any())


def _places(axis: Axis, group: Group) -> list[np.ndarray]:
    """Indices along the axis that each unit of the group is part of."""
    return [np.flatnonzero((axis.unit == group.first + unit).any(0)) for unit in range(group.size)]
