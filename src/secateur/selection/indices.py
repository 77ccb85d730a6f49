"""Units to be removed, from given indices of layers' outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.structure import Structure
from secateur.structure.groups import FIXED

_TOLD = 8
"""Number of indices that a message names."""


def units_left(structure: Structure, indices: Mapping[str, Any], removed: bool) -> np.ndarray:
    """Which units stay, [U] bool, when the given outputs of layers are removed, or kept.

    Args:
        structure: structure of the network.
        indices: by name of layer, indices along the output dimension of its weight.
        removed: True: these outputs are removed; False: they stay, and all others of the layer are removed.

    Raises:
        RequestError: for unknown layers, indices out of range, given twice, or that cannot be removed alone; for layers
            that contradict each other about a shared unit; when nothing is removed, or nothing of a group stays.
    """
    if not isinstance(indices, Mapping):
        raise RequestError(f"indices must be given by name of layer, like {{'conv1': [0, 3]}}, got {indices!r}")
    fate: dict[int, tuple[bool, str]] = {}  # by unit: whether it is removed, and the first layer that says so
    for name, given in indices.items():
        unit = _outputs(structure, name)
        named = _checked(name, given, unit.shape[1])
        goes = named if removed else ~named
        for number in np.unique(unit[unit != FIXED]).tolist():
            fate_here = bool(goes[(unit == number).any(0)].all())
            before, said = fate.setdefault(number, (fate_here, name))
            if before != fate_here:
                one, other = (said, name) if before else (name, said)
                where = int(np.flatnonzero((_outputs(structure, one) == number).any(0))[0])
                raise RequestError(
                    f"'{one}' and '{other}' contradict each other: '{one}' removes output {where}, but '{other}' keeps "
                    "the same unit; give both the same units, or only one of them"
                )
    keep = np.ones(structure.num_units, bool)
    keep[[number for number, (removed_too, _) in fate.items() if removed_too]] = False
    for name, given in indices.items():
        unit = _outputs(structure, name)
        named = _checked(name, given, unit.shape[1])
        _check_whole(structure, name, unit, named if removed else ~named, keep)
    if keep.all():
        raise RequestError("the indices remove nothing; name at least one output to remove")
    for group in structure.groups:
        if not keep[group.units].any():
            raise RequestError(f"the indices leave nothing of '{group.name}'; keep at least one of its outputs")
    return keep


def _outputs(structure: Structure, name: str) -> np.ndarray:
    """Units of a layer's outputs, [factors, outputs]."""
    weights = {layer.name: layer.weight for layer in structure.layers}
    axes = {axis.tensor: axis.unit for axis in structure.axes if axis.role == "out"}
    unit = axes.get(weights.get(name, ""))
    if unit is None:
        group = structure.group(name)  # its error says why a layer has none, and which layers have some
        raise RequestError(f"the outputs of '{name}' are removed with those of '{group.name}'; name that layer")
    return unit


def _checked(name: str, given: Any, outputs: int) -> np.ndarray:
    """The indices as a mask, [outputs] bool."""
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors that are not on the CPU
        values = np.empty((), object)
    if values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
        hint = "; for a mask, numpy.flatnonzero(mask)" if values.dtype == bool else ""
        what = f"{type(given).__name__} of {values.dtype} {list(values.shape)}"
        raise RequestError(f"the outputs of '{name}' must be a list of indices, got {what}{hint}")
    wrong = values[(values < 0) | (values >= outputs)]
    if wrong.size:
        raise RequestError(f"'{name}' has outputs 0 to {outputs - 1}, got {_few(wrong)}; give indices of these")
    indices, times = np.unique(values, return_counts=True)
    if (times > 1).any():
        raise RequestError(f"output {_few(indices[times > 1])} of '{name}' is given more than once; give each once")
    named = np.zeros(outputs, bool)
    named[values.astype(np.int64)] = True
    return named


def _check_whole(structure: Structure, name: str, unit: np.ndarray, removed: np.ndarray, keep: np.ndarray) -> None:
    """Refuse outputs that are only a part of their unit, or that cannot be removed at all."""
    alone = np.flatnonzero(removed & np.append(keep, True)[unit].all(0))
    if not len(alone):
        return
    first = int(alone[0])
    numbers = [number for number in unit[:, first].tolist() if number != FIXED]
    if not numbers:
        raise RequestError(f"output {first} of '{name}' belongs to no removable unit; leave it out")
    group = structure.groups[int(structure.group_of[numbers[0]])]
    others = np.flatnonzero((unit == numbers[0]).any(0))
    raise RequestError(
        f"output {first} of '{name}' can only be removed with {_few(others)} (whole {group.kind} of "
        f"'{group.name}'); name them all, or none"
    )


def _few(values: np.ndarray) -> str:
    named = ", ".join(str(int(value)) for value in values[:_TOLD])
    return named + (f" and {len(values) - _TOLD} more" if len(values) > _TOLD else "")
