"""Prototypes that go for good, or are switched off."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch

from secateur.core.errors import RequestError
from secateur.models.building import input_shape
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.numbers import prototype_numbers
from secateur.selection import Plan
from secateur.structure import trace
from secateur.surgery import prune

GROUP = "prototypes"
"""Their group of units in `secateur.trace`."""


def remove_prototypes(network: PrototypeNetwork, numbers: Iterable[int]) -> PrototypeNetwork:
    """A network without some prototypes, and without the last layer's weights that read them; the input stays.

    Prototypes are units like channels: this is `secateur.prune` with a plan that names them, so that bundles, further
    pruning and export know of it.

    Args:
        network: with its last layer as it is.
        numbers: of the prototypes that go, as learned (`prototype_numbers`).

    Raises:
        RequestError: for unknown numbers, those of prototypes that are gone, or a class that would have none left.

    Example:
        >>> from secateur.models import build
        >>> net = build("prototype-network", num_classes=2, per_class=3)
        >>> prototype_numbers(remove_prototypes(net, [1, 4])).tolist()
        [0, 2, 3, 5]
    """
    rows = rows_of(network, numbers)
    if not len(rows):
        return copy.deepcopy(network)
    check_classes_left(network, rows)
    weight = network.prototypes.weight
    example = torch.zeros(1, *input_shape(network), device=weight.device, dtype=weight.dtype)
    structure = trace(network, example)
    keep = np.ones(structure.num_units, bool)
    keep[structure.group(GROUP).first + rows] = False
    slim = prune(network, Plan.of(structure, keep, {}, "by number", "none"))
    assert isinstance(slim, PrototypeNetwork)
    return slim


def disable_prototypes(network: PrototypeNetwork, numbers: Iterable[int]) -> PrototypeNetwork:
    """A copy in which the similarities of some prototypes count as 0, at the old size; bundles keep it.

    Args:
        network: stays as it is.
        numbers: of the prototypes, as learned.

    Raises:
        RequestError: for unknown numbers, or those of prototypes that are gone.
    """
    changed = copy.deepcopy(network)
    changed.prototypes.switch_off(int(row) for row in rows_of(network, numbers))
    return changed


def rows_of(network: PrototypeNetwork, numbers: Iterable[int]) -> np.ndarray:
    """Rows of the prototypes with some numbers, sorted, each once.

    Raises:
        RequestError: for a number that no prototype of the network has.
    """
    known = prototype_numbers(network)
    asked = np.unique(np.asarray(list(numbers), dtype=np.int64))
    missing = np.setdiff1d(asked, known)
    if len(missing):
        gone = " (it was removed)" if 0 <= missing[0] <= known.max() else ""
        raise RequestError(
            f"the network has no prototype {missing[0]}{gone}; its {len(known)} prototypes have numbers "
            f"{known.min()} to {known.max()}"
        )
    return np.searchsorted(known, asked)


def check_classes_left(network: PrototypeNetwork, rows: np.ndarray) -> None:
    """Refuse to remove all prototypes of a class."""
    classes = network.prototypes.classes.cpu().numpy()
    left = np.delete(classes, rows)
    for label in np.unique(classes[classes >= 0]):
        if label not in left:
            raise RequestError(
                f"class {label} would have no prototype left; keep one of {_named(network, classes == label)}"
            )


def _named(network: PrototypeNetwork, chosen: np.ndarray) -> str:
    numbers = prototype_numbers(network)[chosen]
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
