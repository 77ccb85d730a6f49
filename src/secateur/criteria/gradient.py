"""Criteria from the loss gradient.

Source: Molchanov et al., "Importance estimation for neural network pruning" (2019) for Taylor on the gate; the
coursework and toy scripts around Yeom et al. (2021) for the plain gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from secateur.attribution import UnitStatistics, unit_statistics
from secateur.attribution.layers import At
from secateur.criteria.base import Criterion, normalise_layers, reduce_samples, register, unit_relevance
from secateur.data import ReferenceSet
from secateur.structure import Structure


@register("taylor")
@dataclass(frozen=True)
class Taylor(Criterion):
    """First-order change of the loss when the unit's gate closes: Σ_positions a·∂L/∂a per sample.

    Args:
        reduce: over samples: ``abs``, ``square``, ``signed``, ``abs-of-mean``.
        normalise: per layer: None, ``l1``, ``l2``.
        at: sum over the layers that read the unit (what closing its gate takes away) or that make it.
    """

    reduce: str = "square"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""

        def look(at: At) -> dict[str, UnitStatistics]:
            return unit_statistics(model, reference.batches(batch_size), None, start="loss", at=at)

        values = unit_relevance(structure, look, "relevance", centred, self.at)
        return normalise_layers(structure, reduce_samples(values, self.reduce), self.normalise)


@register("grad")
@dataclass(frozen=True)
class Gradient(Criterion):
    """Loss gradient of the unit: Σ_positions ∂L/∂a per sample.

    Args:
        reduce: over samples: ``abs``, ``square``, ``signed``, ``abs-of-mean``.
        normalise: per layer: None, ``l1``, ``l2``.
        at: sum over the layers that read the unit (what closing its gate takes away) or that make it.
    """

    reduce: str = "abs"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""

        def look(at: At) -> dict[str, UnitStatistics]:
            return unit_statistics(model, reference.batches(batch_size), None, start="loss", at=at)

        values = unit_relevance(structure, look, "gradient", centred, self.at)
        return normalise_layers(structure, reduce_samples(values, self.reduce), self.normalise)
