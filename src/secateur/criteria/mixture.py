"""A criterion that combines several others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from secateur.core.errors import RequestError
from secateur.criteria.base import Criterion, get, parse, register

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("mixture")
@dataclass(frozen=True)
class Mixture(Criterion):
    """Weighted mean of a unit's ranks by several criteria, as shares of all units.

    Scores of different criteria have different scales; ranks have the same. Units of equal score share their mean rank.

    Args:
        of: criteria as text, with their parameters: ``mixture:of=[lrp, taylor]``.
        weights: positive weight of each; None: equal weights.
        seed: seed of criteria that draw random numbers, see `Criterion.seeded`; None: their own.

    Raises:
        RequestError: for fewer than two criteria, or another number of weights.

    Example:
        >>> Mixture(of=("lrp", "weight:p=1"), weights=(3, 1)).shares
        (0.75, 0.25)
    """

    of: tuple[str, ...] = ("lrp", "taylor")
    weights: tuple[float, ...] | None = None
    seed: int | None = None
    strategy: ClassVar[str] = "global"

    def __post_init__(self) -> None:
        given: Any = self.of
        if isinstance(given, str) or len(given) < 2:
            raise RequestError(f"a mixture is of two criteria at least, as in mixture:of=[lrp, taylor]; got {self.of}")
        if self.weights is not None and (len(self.weights) != len(self.of) or not all(w > 0 for w in self.weights)):
            raise RequestError(f"a mixture takes a positive weight for each of its {len(self.of)} criteria")
        object.__setattr__(self, "of", tuple(self.of))  # recipes contain lists
        object.__setattr__(self, "weights", None if self.weights is None else tuple(self.weights))
        self.criteria  # noqa: B018 - so that wrong parameters are refused now

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """The criteria of the mixture."""
        parsed = [parse(text) for text in self.of]
        criteria = tuple(get(name, **parameters) for name, parameters in parsed)
        return criteria if self.seed is None else tuple(each.seeded(self.seed) for each in criteria)

    def seeded(self, seed: int) -> Self:
        """See `Criterion.seeded`; a mixture without random criteria is the same for all seeds."""
        if self.seed is not None or all(each == each.seeded(seed) for each in self.criteria):
            return self
        return replace(self, seed=seed)

    @property
    def shares(self) -> tuple[float, ...]:
        """Weights that add up to 1."""
        weights = self.weights or (1,) * len(self.of)
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def asks_for(self) -> int | None:
        """See `Criterion.asks_for`."""
        needed = [criterion.asks_for for criterion in self.criteria]
        return max((number for number in needed if number is not None), default=None)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`."""
        import numpy as np
        from scipy.stats import rankdata

        mean_ranks = np.zeros(structure.num_units)
        for criterion, share in zip(self.criteria, self.shares, strict=True):
            scores = criterion.unit_scores(model, structure, reference, centred=centred, batch_size=batch_size)
            mean_ranks += share * rankdata(scores) / structure.num_units
        return mean_ranks
