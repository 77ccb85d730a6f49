"""Criteria based on the loss gradient of all parameters of a unit.

The parameters of a unit are the rows that produce it, scale and shift of the norms that it passes, and the columns that
read it; a weight in a row and a column of the unit (from a residual stream into the same stream) belongs to both.

Sources: LeCun et al., "Optimal brain damage" (1990) and Theis et al., "Faster gaze prediction with dense networks and
Fisher pruning" (2018); Fang et al., "DepGraph: towards any structural pruning" (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from secateur.criteria.base import Criterion, register
from secateur.criteria.names import NORMALISATIONS, check_known

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from secateur.data import ReferenceSet
    from secateur.structure import Structure


@register("hessian")
@dataclass(frozen=True)
class Hessian(Criterion):
    """Second-order increase of the loss without the unit, with the empirical Fisher diagonal as Hessian.

    score = ½ Σ_w w² · mean_n (∂L_n/∂w)² over all parameters w of the unit, L_n the cross-entropy of sample n.
    One backward pass per sample.

    Args:
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
    """

    normalise: str | None = None
    strategy: ClassVar[str] = "per-cost"

    def __post_init__(self) -> None:
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; weights have no mean that could be compensated: ``centred`` is ignored."""
        import torch

        from secateur.criteria.aggregation import normalise_layers
        from secateur.criteria.coupled import coupled, gradient_sums, over_parameters

        parameters = coupled(model, structure)
        squares = gradient_sums(model, parameters, reference, 1, power=2)
        figures = {
            name: p.detach().to(torch.float64) ** 2 * squares[name] / (2 * len(reference))
            for name, p in parameters.items()
        }
        return normalise_layers(structure, over_parameters(structure, figures), self.normalise)


@register("taylor-group")
@dataclass(frozen=True)
class TaylorGroup(Criterion):
    """First-order change of the loss over all parameters of the unit (Fang et al. 2023): Σ_w |w · ∂L/∂w|.

    L is the mean cross-entropy of the reference samples.

    Args:
        inner: ``abs``: as above; ``signed``: the |sum| of w · ∂L/∂w in each parameter tensor, added up.
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
    """

    inner: Literal["abs", "signed"] = "abs"
    normalise: str | None = None
    strategy: ClassVar[str] = "per-cost"

    def __post_init__(self) -> None:
        check_known("inner sum", self.inner, ("abs", "signed"))
        check_known("normalisation", self.normalise, NORMALISATIONS)

    def unit_scores(
        self, model: nn.Module, structure: Structure, reference: ReferenceSet, *, centred: bool, batch_size: int
    ) -> np.ndarray:
        """See `Criterion.unit_scores`; weights have no mean that could be compensated: ``centred`` is ignored."""
        import torch

        from secateur.criteria.aggregation import normalise_layers
        from secateur.criteria.coupled import coupled, gradient_sums, over_parameters

        parameters = coupled(model, structure)
        sums = gradient_sums(model, parameters, reference, batch_size, power=1)
        figures = {name: p.detach().to(torch.float64) * sums[name] / len(reference) for name, p in parameters.items()}
        if self.inner == "abs":
            figures = {name: figure.abs() for name, figure in figures.items()}
        # the terms are positive, so |sum| is the sum
        values = over_parameters(structure, figures, absolute=True)
        return normalise_layers(structure, values, self.normalise)
