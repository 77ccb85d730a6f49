"""Base class of the rules for operations on labelled tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secateur.structure.conditions import COMBINED, Conditions, Nodes
from secateur.structure.labels import Dims, Labels, tensors_in, unite

__all__ = ["FIXED_INDEX", "POSITIONS", "UNKNOWN", "Base", "tensors_in"]

FIXED_INDEX = "is indexed at fixed positions by the network's code"
POSITIONS = "gives positions at which a tensor is indexed"
UNKNOWN = "reaches operation '{}', which has no structure rule"


class Base:
    """Combines the labels of tensors that an operation combines.

    Args:
        labels: nodes of all tensors.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.ties_parts = True
        """Whether equal parts of a split stay equal; in a network that was pruned before they may differ."""
        self.conditions: Conditions = labels.conditions

    def note_sum(self, operands: Sequence[torch.Tensor]) -> None:
        """Mark units of several layers that are added to each other, as at the end of a residual block."""
        terms = [t for t in operands if id(t) in self.labels.dependent]
        for dim in range(-max((t.ndim for t in terms), default=0), 0):
            nodes = [self.labels.of(t)[dim] for t in terms if t.ndim >= -dim and t.shape[dim] > 1]
            known = [self.conditions.roots(n) for n in nodes if n is not None]
            if any(not np.array_equal(known[0], other) for other in known[1:]):
                for term_nodes in known:
                    self.conditions.mark(term_nodes, "added")

    def meet(self, operands: Sequence[torch.Tensor], shape: Sequence[int]) -> Dims:
        """Nodes of ``operands`` after broadcasting to ``shape``."""
        dims: list[Nodes | None] = []
        for dim in range(-len(shape), 0):
            operand_nodes: list[Nodes | None] = [
                self.labels.of(t)[dim] for t in operands if t.ndim >= -dim and t.shape[dim] == shape[dim] > 1
            ]
            nodes = operand_nodes[0] if operand_nodes else None
            for other in operand_nodes[1:]:
                nodes = unite(self.conditions, nodes, other, COMBINED)
            dims.append(nodes)
        return tuple(dims)
