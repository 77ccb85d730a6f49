"""Criteria from the loss gradient.

Source: Molchanov et al., "Importance estimation for neural network pruning" (2019) for Taylor on the gate; the
coursework and toy scripts around Yeom et al. (2021) for the plain gradient; Mittal et al., "Studying the plasticity in
deep convolutional neural networks using random pruning" (2019) compare its absolute value, the sensitivity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from secateur.criteria.base import SampleCriterion, View, register

if TYPE_CHECKING:
    import numpy as np

    from secateur.criteria.passes import Passes
    from secateur.structure import Structure

_LOSS = View(None, "loss")


@register("taylor")
@dataclass(frozen=True)
class Taylor(SampleCriterion):
    """First-order change of the loss when the unit is removed: Σ_positions a·∂L/∂a per sample.

    Args:
        reduce: reduction over samples: ``abs``, ``square``, ``signed``, ``abs-of-mean``.
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
        at: sum over the layers that read the unit (the effect of removing it) or over those that produce it.
    """

    reduce: str = "square"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"
    strategy: ClassVar[str] = "per-cost"

    def view(self) -> View:
        """See `SampleCriterion.view`."""
        return _LOSS


@register("grad")
@dataclass(frozen=True)
class Gradient(SampleCriterion):
    """Loss gradient of the unit: Σ_positions ∂L/∂a per sample.

    Args:
        reduce: reduction over samples: ``abs``, ``square``, ``signed``, ``abs-of-mean``.
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
        at: sum over the layers that read the unit (the effect of removing it) or over those that produce it.
    """

    reduce: str = "abs"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"
    what: ClassVar[Literal["relevance", "gradient"]] = "gradient"

    def view(self) -> View:
        """See `SampleCriterion.view`."""
        return _LOSS


@register("sensitivity")
@dataclass(frozen=True)
class Sensitivity(SampleCriterion):
    """Sensitivity of the loss to the unit: Σ_positions |∂L/∂a| per sample, mean over samples.

    Mean activations have no effect: centred scores are the same.

    Args:
        reduce: reduction over samples: ``abs`` (the mean), ``square``; the figures have no sign.
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
        at: sum over the layers that read the unit (after its nonlinearity) or over those that produce it.
    """

    reduce: str = "abs"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"
    what: ClassVar[Literal["relevance", "gradient"]] = "gradient"

    def view(self) -> View:
        """See `SampleCriterion.view`."""
        return View(None, "loss", "abs")

    def scores_from(self, structure: Structure, passes: Passes, *, centred: bool) -> np.ndarray:
        """See `SampleCriterion.scores_from`."""
        return super().scores_from(structure, passes, centred=False)
