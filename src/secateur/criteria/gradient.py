"""Criteria from the loss gradient.

Source: Molchanov et al., "Importance estimation for neural network pruning" (2019) for Taylor on the gate; the
coursework and toy scripts around Yeom et al. (2021) for the plain gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.criteria.base import SampleCriterion, View, register

_LOSS = View(None, "loss")


@register("taylor")
@dataclass(frozen=True)
class Taylor(SampleCriterion):
    """First-order change of the loss when the unit's gate closes: Σ_positions a·∂L/∂a per sample.

    Args:
        reduce: over samples: ``abs``, ``square``, ``signed``, ``abs-of-mean``.
        normalise: per layer: None, ``l1``, ``l2``, ``sum``.
        at: sum over the layers that read the unit (what closing its gate takes away) or that make it.
    """

    reduce: str = "square"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"

    def view(self) -> View:
        """See `SampleCriterion.view`."""
        return _LOSS


@register("grad")
@dataclass(frozen=True)
class Gradient(SampleCriterion):
    """Loss gradient of the unit: Σ_positions ∂L/∂a per sample.

    Args:
        reduce: over samples: ``abs``, ``square``, ``signed``, ``abs-of-mean``.
        normalise: per layer: None, ``l1``, ``l2``, ``sum``.
        at: sum over the layers that read the unit (what closing its gate takes away) or that make it.
    """

    reduce: str = "abs"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"
    what: ClassVar[Literal["relevance", "gradient"]] = "gradient"

    def view(self) -> View:
        """See `SampleCriterion.view`."""
        return _LOSS
