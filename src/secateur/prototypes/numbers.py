"""Prototypes by their numbers as learned, which stay when others are removed."""

from __future__ import annotations

import numpy as np

from secateur.models.prototype_network import PrototypeNetwork
from secateur.surgery.pruning import edits_of

WEIGHT = "prototypes.weight"


def prototype_numbers(network: PrototypeNetwork) -> np.ndarray:
    """The number of each prototype that is left, int64 [P]: its place in the network as it was built.

    Example:
        >>> from secateur.models import build
        >>> net = build("prototype-network", num_classes=2, per_class=2)
        >>> prototype_numbers(net).tolist()
        [0, 1, 2, 3]
    """
    for cut in edits_of(network).cuts:
        if cut.tensor == WEIGHT and cut.dim == 0:
            return np.asarray(cut.kept(), dtype=np.int64)
    return np.arange(network.num_prototypes, dtype=np.int64)
