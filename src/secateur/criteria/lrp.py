"""Layer-wise relevance of units.

Source: Yeom et al., "Pruning by explaining: a novel criterion for deep neural network pruning" (2021); Hatefi et al.,
"Pruning by explaining revisited" (2024), for ε and |R|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from secateur.attribution import Start, UnitStatistics, unit_statistics
from secateur.attribution.composites import Composite
from secateur.attribution.layers import At
from secateur.core.errors import RequestError
from secateur.criteria.base import Criterion, normalise_layers, reduce_samples, register, unit_relevance
from secateur.data import ReferenceSet
from secateur.structure import Structure


@register("lrp")
@dataclass(frozen=True)
class LRP(Criterion):
    """Relevance of a unit for the true class, summed over positions and the layers that read it.

    Args:
        composite: rules, see `secateur.attribution.composites`.
        start: relevance at the true class's logit: ``logit``, its value (confident samples count more), or ``one``.
        reduce: over samples: ``square`` (mean R_n²), ``abs`` (mean |R_n|), ``signed`` (mean R_n), ``abs-of-mean``.
        normalise: per layer: None, ``l1``, ``l2``.
        at: sum over the layers that read the unit (what closing its gate takes away) or that make it.
        positions: over space or tokens: ``sum``, or ``abs`` (Σ |R|), which cannot be centred.
    """

    composite: str | Composite = "epsilon"
    start: Start = "logit"
    reduce: str = "square"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"
    positions: Literal["sum", "abs"] = "sum"

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""
        if centred and self.positions == "abs":
            raise RequestError("positions='abs' cannot be centred; use positions='sum', or prune with centred=false")

        def look(at: At) -> dict[str, UnitStatistics]:
            return unit_statistics(
                model,
                reference.batches(batch_size),
                self.composite,
                start=self.start,
                bounds=reference.bounds,
                at=at,
                positions=self.positions,
            )

        values = unit_relevance(structure, look, "relevance", centred, self.at)
        return normalise_layers(structure, reduce_samples(values, self.reduce), self.normalise)
