"""Criteria from the filters of a layer beside each other: FPGM, LAMP. Axes: C filters, D weights of each.

Sources: He et al., "Filter pruning via geometric median" (2019); Lee et al., "Layer-adaptive sparsity for the
magnitude-based pruning" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.criteria.aggregation import NORMALISATIONS, check_known, normalise_layers, over_makers, unmade_last
from secateur.criteria.base import Criterion, register
from secateur.data import ReferenceSet
from secateur.structure import Structure


def filters(model: nn.Module, structure: Structure) -> dict[str, torch.Tensor]:
    """What makes each output channel of the layers that make units, [C, D] float64, by layer name."""
    weights = dict(model.named_parameters())
    out_dim = {axis.tensor: axis.dim for axis in structure.axes if axis.role == "out"}
    return {
        layer.name: weights[layer.weight].detach().to(torch.float64).movedim(out_dim[layer.weight], 0).flatten(1)
        for layer in structure.layers
        if layer.weight in out_dim
    }


@register("fpgm")
@dataclass(frozen=True)
class FPGM(Criterion):
    """Distance to the layer's other filters: near the geometric median, the others can stand in (He et al. 2019).

    score_c = Σ_d ‖w_c - w_d‖₂ over the filters d of the layer, summed over the layers that make the unit.

    Args:
        normalise: per layer: None, ``l1``, ``l2``, ``sum``.
    """

    normalise: str | None = None

    def __post_init__(self) -> None:
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; looks at no sample."""
        found = {
            # a filter's distance to itself is 0, but for rounding
            name: torch.cdist(w_CD, w_CD).fill_diagonal_(0).sum(1).cpu().numpy()
            for name, w_CD in filters(model, structure).items()
        }
        return unmade_last(structure, normalise_layers(structure, over_makers(structure, found), self.normalise))


@register("lamp")
@dataclass(frozen=True)
class LAMP(Criterion):
    """Squared weight norm as a share of what is left when all weaker units are gone (Lee et al. 2021), for filters.

    score_i = s_i / Σ_{j: s_j ≥ s_i} s_j within the unit's group, with s the squared L2 norm of the unit's filters,
    summed over the layers that make it. The strongest unit of a group scores 1, so that a global ranking empties none;
    equal units score alike.
    """

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; looks at no sample."""
        squares = {name: (w_CD**2).sum(1).cpu().numpy() for name, w_CD in filters(model, structure).items()}
        sizes = over_makers(structure, squares)
        scores = np.zeros_like(sizes)
        for group in structure.groups:
            scores[group.units] = lamp_scores(sizes[group.units])
        return unmade_last(structure, scores)


def lamp_scores(sizes: np.ndarray) -> np.ndarray:
    """s_i / Σ_{j: s_j ≥ s_i} s_j, [units]; 0 where s_i is.

    Example:
        >>> lamp_scores(np.array([1.0, 3.0, 2.0, 2.0])).tolist()
        [0.125, 1.0, 0.2857142857142857, 0.2857142857142857]
    """
    ascending = np.sort(sizes)
    at_least = ascending[::-1].cumsum()[::-1][np.searchsorted(ascending, sizes)]
    return np.asarray(np.divide(sizes, at_least, out=np.zeros_like(sizes), where=at_least > 0))
