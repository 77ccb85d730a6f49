"""Layer-wise relevance of units.

Source: Yeom et al., "Pruning by explaining: a novel criterion for deep neural network pruning" (2021); Hatefi et al.,
"Pruning by explaining revisited" (2024), for ε and |R|.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from secateur.attribution.composites import Composite, SmoothGrad
from secateur.attribution.composites import get as get_composite
from secateur.criteria.base import SampleCriterion, View, register

if TYPE_CHECKING:
    from secateur.attribution import Start


@register("lrp")
@dataclass(frozen=True)
class LRP(SampleCriterion):
    """Relevance of a unit for the true class, summed over positions and the layers that read it.

    Two published protocols for class-aware pruning are

    - for networks without batch norm (VGG): ``composite=plus-weights, start=logit, reduce=signed, normalise=sum,
      at=makers``: Σ_n R_nu / Σ_u Σ_n R_nu at the layers' outputs, with positive weights only;
    - for residual networks: ``composite=epsilon-plus, bias=false, start=one, reduce=abs, positions=abs, normalise=sum,
      at=makers``: Σ_n Σ_p |R_nup|, over the layer's sum.

    Args:
        composite: composite of rules, see `secateur.attribution.composites`.
        bias: whether biases of convolutions get their share of relevance; false: in composites with z⁺ or αβ, they get
            none.
        start: relevance at the true class's logit: ``logit``, its value (confident samples count more), or ``one``.
        reduce: reduction over samples: ``square`` (mean R_n²), ``abs`` (mean |R_n|), ``signed`` (mean R_n),
            ``abs-of-mean``.
        normalise: normalisation per layer: None, ``l1``, ``l2``, ``sum``.
        at: sum over the layers that read the unit (the effect of removing it) or over those that produce it.
        positions: how positions (space or tokens) are combined: ``sum``, or ``abs`` (Σ |R|), which cannot be centred.
    """

    composite: str | Composite = "epsilon"
    start: Start = "logit"
    reduce: str = "square"
    normalise: str | None = None
    at: Literal["makers", "readers"] = "readers"
    positions: Literal["sum", "abs"] = "sum"
    bias: bool = True
    strategy: ClassVar[str] = "per-cost"

    def seeded(self, seed: int) -> Self:
        """See `Criterion.seeded`: SmoothGrad draws noise; a composite object keeps its own seed."""
        if isinstance(self.composite, str):
            composite = get_composite(self.composite)
            if isinstance(composite.average, SmoothGrad):
                drawn = replace(composite.average, seed=seed)
                return replace(self, composite=replace(composite, name=f"{composite.name}(seed={seed})", average=drawn))
        return self

    def view(self) -> View:
        """See `SampleCriterion.view`."""
        return View(self.composite if self.bias else _without_bias(self.composite), self.start, self.positions)


@lru_cache
def _without_bias(composite: str | Composite) -> Composite:
    """The composite without biases; always the same object, so that criteria share its pass."""
    return get_composite(composite, bias=False)
