"""Criteria that compare the filters of a layer: FPGM, LAMP. Axes: C filters, D weights of each.

Sources: He et al., "Filter pruning via geometric median" (2019); Lee et al., "Layer-adaptive sparsity for the
magnitude-based pruning" (2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.criteria.base import Criterion, register
from secateur.criteria.names import NORMALISATIONS, check_known

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("fpgm")
@dataclass(frozen=True)
class FPGM(Criterion):
    """Distance to the layer's other filters: near the geometric median, they can replace it (He et al. 2019).

    score_c = Σ_d ‖w_c - w_d‖₂ over the filters d of the layer, summed over the layers that produce the unit.

    Args:
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
    """

    normalise: str | None = None

    def __post_init__(self) -> None:
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; reference samples are not used."""
        import torch

        from secateur.criteria.aggregation import normalise_layers, over_makers, unmade_last
        from secateur.criteria.filter_weights import filters

        distances = {
            # a filter's distance to itself is 0, except for rounding
            name: torch.cdist(w_CD, w_CD).fill_diagonal_(0).sum(1).cpu().numpy()
            for name, w_CD in filters(model, structure).items()
        }
        return unmade_last(structure, normalise_layers(structure, over_makers(structure, distances), self.normalise))


@register("lamp")
@dataclass(frozen=True)
class LAMP(Criterion):
    """Squared weight norm as a share of that of all units that are not weaker (Lee et al. 2021), for filters.

    score_i = s_i / Σ_{j: s_j ≥ s_i} s_j within the unit's group, with s the squared L2 norm of the unit's filters,
    summed over the layers that produce it. The strongest unit of a group scores 1, so that a global ranking empties no
    group; equal units have equal scores.
    """

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; reference samples are not used."""
        import numpy as np

        from secateur.criteria.aggregation import over_makers, unmade_last
        from secateur.criteria.filter_weights import filters, lamp_scores

        squares = {name: (w_CD**2).sum(1).cpu().numpy() for name, w_CD in filters(model, structure).items()}
        sizes = over_makers(structure, squares)
        scores = np.zeros_like(sizes)
        for group in structure.groups:
            scores[group.units] = lamp_scores(sizes[group.units])
        return unmade_last(structure, scores)
