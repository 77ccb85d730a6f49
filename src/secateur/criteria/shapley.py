"""Shapley values of units in the loss. Axes: M permutations, K units of a group, N samples, U units.

Source: Shapley, "A value for n-person games" (1953); Ancona et al., "Shapley value as principled metric for structured
network pruning" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from secateur.core.errors import check_count
from secateur.criteria.base import Criterion, register
from secateur.criteria.names import NORMALISATIONS, check_known

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("shapley")
@dataclass(frozen=True)
class Shapley(Criterion):
    """Mean decrease of the loss when the unit is added to a random subset of its group, with all other groups.

    φ_u = mean over permutations of [L(units before u) - L(units before u, and u)], with L the mean cross-entropy over
    the reference samples. Units that are not in the subset are masked: all their parameters are zero. For any number of
    permutations, a group's values add up to L(no unit) - L(all units).

    This is the most expensive criterion: for each unit and permutation, it runs all layers from the group on once.

    Args:
        permutations: number of random orders of each group.
        seed: seed of the orders; None: 0, or what `seeded` sets.
        samples: number of reference samples that are used: the first ones, taken from the classes in turn; None: all.
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
    """

    permutations: int = 5
    seed: int | None = None
    samples: int | None = None
    normalise: str | None = None
    equivariant: ClassVar[bool] = False
    quick: ClassVar[bool] = False
    strategy: ClassVar[str] = "per-cost"

    def __post_init__(self) -> None:
        check_count("permutations", self.permutations)
        if self.samples is not None:
            check_count("samples", self.samples)
        check_known("normalisation", self.normalise, NORMALISATIONS)

    @property
    def asks_for(self) -> int | None:
        """See `Criterion.asks_for`."""
        return self.samples

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; masked units have no mean that could be compensated: ``centred`` is ignored."""
        import numpy as np
        import torch

        from secateur.core.borrowing import borrowed
        from secateur.core.progress import track
        from secateur.core.randomness import numpy_generator
        from secateur.criteria.aggregation import normalise_layers
        from secateur.criteria.gates import losses_of
        from secateur.criteria.samples import Share, device_of, first_balanced

        used = first_balanced(reference, self.samples, self.name)
        share = Share.of(used)
        parameters: dict[str, torch.Tensor] = dict(model.named_parameters())
        values = np.zeros(structure.num_units)
        with borrowed(model), torch.no_grad():
            model(used.inputs[:1].to(device_of(model)).clone())  # one-time computations of the network
            for group in track(structure.groups, "groups whose units are masked in turn"):
                draw = numpy_generator(self.seed or 0, "shapley", group.name)
                orders_MK = np.stack([draw.permutation(group.size) for _ in range(self.permutations)])
                # samples last and averaged at once, so that batches do not change sums
                losses = [
                    losses_of(model, structure, group, parameters, inputs, targets, orders_MK)
                    for inputs, targets in share.samples.batches(batch_size)
                ]
                own_NMK = torch.from_numpy(np.concatenate(losses, 2)).movedim(2, 0)
                losses_MKN = share.ranks.joined(own_NMK).movedim(0, 2).numpy()
                decrease_MK = -np.diff(losses_MKN.mean(2), axis=1)
                joined = np.zeros((self.permutations, group.size))
                np.put_along_axis(joined, orders_MK, decrease_MK, axis=1)
                values[group.units] = joined.mean(0)
        return normalise_layers(structure, values, self.normalise)
