"""Which units go, from indices of layers' outputs that somebody else has decided on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.structure import Structure
from secateur.structure.groups import FIXED

_TOLD = 8
"""Indices that a message names."""


def units_left(structure: Structure, indices: Mapping[str, Any], removed: bool) -> np.ndarray:
    """Which units stay, [U] bool, when layers lose, or keep, the outputs that are named.

    Args:
        structure: of the network.
        indices: by name of layer, indices along its weight's dimension of outputs.
        removed: whether they go; False: whether they stay, and all others of that layer go.

    Raises:
        RequestError: for unknown layers, indices that are none of the layer's, that are given twice, or that cannot go
            alone; for layers that disagree about a unit they share; when nothing goes, or nothing of a group stays.
    """
    if not isinstance(indices, Mapping):
        raise RequestError(f"indices must be given by name of layer, like {{'conv1': [0, 3]}}, got {indices!r}")
    fate: dict[int, tuple[bool, str]] = {}  # by unit: whether it goes, and the first layer that says so
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
                    f"'{one}' and '{other}' disagree: output {where} of '{one}' would go, but '{other}' would keep "
                    "what goes with it; give both the same units, or one of them alone"
                )
    keep = np.ones(structure.num_units, bool)
    keep[[number for number, (goes_too, _) in fate.items() if goes_too]] = False
    for name, given in indices.items():
        unit = _outputs(structure, name)
        named = _checked(name, given, unit.shape[1])
        _check_whole(structure, name, unit, named if removed else ~named, keep)
    if keep.all():
        raise RequestError("the indices remove nothing; name at least one output that goes")
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
        group = structure.group(name)  # says why a layer has none, and which have
        raise RequestError(f"the outputs of '{name}' go with those of '{group.name}'; name that layer")
    return unit


def _checked(name: str, given: Any, outputs: int) -> np.ndarray:
    """Where the indices are, [outputs] bool."""
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors that are not on the CPU
        values = np.empty((), object)
    if values.ndim != 1 or (values.size and not np.issubdtype(values.dtype, np.integer)):
        hint = "; of a mask, numpy.flatnonzero(mask)" if values.dtype == bool else ""
        what = f"{type(given).__name__} of {values.dtype} {list(values.shape)}"
        raise RequestError(f"the outputs of '{name}' must be a list of indices, got {what}{hint}")
    wrong = values[(values < 0) | (values >= outputs)]
    if wrong.size:
        raise RequestError(f"'{name}' has outputs 0 to {outputs - 1}, got {_few(wrong)}; give indices of these")
    found, times = np.unique(values, return_counts=True)
    if (times > 1).any():
        raise RequestError(f"output {_few(found[times > 1])} of '{name}' is given more than once; give each once")
    named = np.zeros(outputs, bool)
    named[values.astype(np.int64)] = True
    return named


def _check_whole(structure: Structure, name: str, unit: np.ndarray, goes: np.ndarray, keep: np.ndarray) -> None:
    """Refuse outputs that would go without the rest of their unit, or that cannot go at all."""
    alone = np.flatnonzero(goes & np.append(keep, True)[unit].all(0))
    if not len(alone):
        return
    first = int(alone[0])
    numbers = [number for number in unit[:, first].tolist() if number != FIXED]
    if not numbers:
        raise RequestError(f"output {first} of '{name}' belongs to no removable unit; leave it out")
    group = structure.groups[int(structure.group_of[numbers[0]])]
    others = np.flatnonzero((unit == numbers[0]).any(0))
    raise RequestError(
        f"output {first} of '{name}' goes only with {_few(others)} ('{group.name}' loses whole {group.kind}); "
        "name them all, or none"
    )


def _few(values: np.ndarray) -> str:
    told = ", ".join(str(int(value)) for value in values[:_TOLD])
    return told + (f" and {len(values) - _TOLD} more" if len(values) > _TOLD else "")
