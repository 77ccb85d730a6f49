"""Scores by how active units are where they are read.

Source: Luo et al., "An entropy-based pruning method for CNN compression" (2017) and Molchanov et al. (2017) compare
mean activations.
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


@register("activation")
@dataclass(frozen=True)
class Activation(Criterion):
    """Mean |x| over samples and positions at the layers that read the unit; centred: the standard deviation.

    Args:
        normalise: normalisation per layer: None, ``l1``, ``l2``.
    """

    normalise: str | None = None

    def __post_init__(self) -> None:
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""
        from secateur.attribution import reads
        from secateur.criteria.aggregation import check_observed, normalise_layers, over_readers, summed
        from secateur.criteria.samples import Share

        share = Share.of(reference)
        by_layer = reads(model, (inputs for inputs, _ in share.samples.batches(batch_size)), share.ranks)
        features = {name: (r.deviation() if centred else r.magnitude).cpu().numpy() for name, r in by_layer.items()}
        values = over_readers(structure, features)
        if structure.unread.any():
            outputs = {
                n: (r.made_deviation() if centred else r.made_magnitude).cpu().numpy() for n, r in by_layer.items()
            }
            check_observed(structure, structure.made, outputs, structure.unread)
            values[structure.unread] = summed(structure, structure.made, outputs)[structure.unread]
        return normalise_layers(structure, values, self.normalise)
