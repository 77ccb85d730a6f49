"""Random scores, the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from secateur.criteria.base import Criterion, register

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("random")
@dataclass(frozen=True)
class Random(Criterion):
    """Independent uniform numbers; the same for the same seed, network and reference samples.

    Args:
        seed: seed of the random numbers; None: 0, or what `seeded` sets.
    """

    seed: int | None = None
    equivariant: ClassVar[bool] = False

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""
        from secateur.core.randomness import numpy_generator

        draw = numpy_generator(self.seed or 0, "random", structure.fingerprint, *reference.indices[:8])
        return draw.random(structure.num_units)
