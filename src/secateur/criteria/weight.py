"""Norm of the weights that produce a unit.

Source: Li et al., "Pruning filters for efficient ConvNets" (2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError
from secateur.criteria.base import Criterion, register
from secateur.criteria.names import NORMALISATIONS, check_known

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("weight")
@dataclass(frozen=True)
class Weight(Criterion):
    """(Σ |w|^p)^(1/p) over the filter, summed over the layers that produce the unit; units without one come last.

    Args:
        p: 1 or 2.
        normalise: normalisation per layer: None, ``l1``, ``l2``.
    """

    p: int = 2
    normalise: str | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2):
            raise RequestError(f"the weight norm's p must be 1 or 2, got {self.p}")
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; reference samples are not used."""
        import torch

        from secateur.criteria.aggregation import normalise_layers, over_makers, unmade_last
        from secateur.criteria.filter_weights import filters

        norms = {
            name: torch.linalg.vector_norm(w_CD, self.p, 1).cpu().numpy()
            for name, w_CD in filters(model, structure).items()
        }
        return unmade_last(structure, normalise_layers(structure, over_makers(structure, norms), self.normalise))
