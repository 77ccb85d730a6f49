"""What operations on labelled tensors share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.structure.conditions import COMBINED, Conditions, Nodes
from secateur.structure.labels import Dims, Labels, tensors_in, unite

__all__ = ["FIXED_PICK", "POSITIONS", "UNKNOWN", "Base", "tensors_in"]

FIXED_PICK = "is picked apart at fixed positions by the network's code"
POSITIONS = "gives positions that something is picked at"
UNKNOWN = "reaches operation '{}', which has no structure rule"


class Base:
    """Labels, and tensors that meet.

    Args:
        labels: nodes of all tensors.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.ties_parts = True
        """Whether equal parts of a split stay equal; a network that was pruned before may have others."""
        self.conditions: Conditions = labels.conditions

    def note_sum(self, operands: Sequence[torch.Tensor]) -> None:
        """Mark units of several layers that are about to be added up, as where a residual block ends."""
        terms = [t for t in operands if id(t) in self.labels.dependent]
        for dim in range(-max((t.ndim for t in terms), default=0), 0):
            nodes = [self.labels.of(t)[dim] for t in terms if t.ndim >= -dim and t.shape[dim] > 1]
            known = [self.conditions.roots(n) for n in nodes if n is not None]
            if any(not np.array_equal(known[0], other) for other in known[1:]):
                for found in known:
                    self.conditions.mark(found, "added")

    def meet(self, operands: Sequence[torch.Tensor], shape: Sequence[int]) -> Dims:
        """Nodes behind broadcasting ``operands`` to ``shape``."""
        dims: list[Nodes | None] = []
        for dim in range(-len(shape), 0):
            found: list[Nodes | None] = [
                self.labels.of(t)[dim] for t in operands if t.ndim >= -dim and t.shape[dim] == shape[dim] > 1
            ]
            nodes = found[0] if found else None
            for other in found[1:]:
                nodes = unite(self.conditions, nodes, other, COMBINED)
            dims.append(nodes)
        return tuple(dims)
