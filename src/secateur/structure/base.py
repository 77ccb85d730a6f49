"""What operations on labelled tensors share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from secateur.structure.conditions import Conditions, Nodes
from secateur.structure.labels import Dims, Labels, unite

FIXED_PICK = "is picked apart at fixed positions by the network's code"
UNKNOWN = "reaches operation '{}', which has no structure rule"


class Base:
    """Labels, and tensors that meet.

    Args:
        labels: nodes of all tensors.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.conditions: Conditions = labels.conditions

    def meet(self, operands: Sequence[torch.Tensor], shape: Sequence[int]) -> Dims:
        """Nodes behind broadcasting ``operands`` to ``shape``."""
        dims: list[Nodes | None] = []
        for dim in range(-len(shape), 0):
            found: list[Nodes | None] = [
                self.labels.of(t)[dim] for t in operands if t.ndim >= -dim and t.shape[dim] == shape[dim] > 1
            ]
            nodes = found[0] if found else None
            for other in found[1:]:
                nodes = unite(self.conditions, nodes, other, "is combined with channels that cannot go")
            dims.append(nodes)
        return tuple(dims)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
