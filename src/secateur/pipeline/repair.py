"""Repair after cutting that needs no labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.data import ReferenceSet
from secateur.pipeline.settings import PruneSettings
from secateur.selection import Plan
from secateur.surgery import compensate, recalibrate, refit

_WHOLE = 256
"""Samples per pass where statistics are measured; a cumulative average over batches of nearly equal size."""


@dataclass(frozen=True, eq=False)
class Repair:
    """What is done to a network that was cut.

    Attributes:
        settings: which repairs.
        reference: samples for means and statistics.
        samples: for the refit; None: the reference samples.
    """

    settings: PruneSettings
    reference: ReferenceSet
    samples: ReferenceSet | None = None

    @classmethod
    def of(cls, settings: PruneSettings, reference: ReferenceSet, train: Dataset[Any] | None) -> Repair:
        """With as many training samples as the settings ask for.

        Raises:
            RequestError: when they ask for some, and there are no training images.
        """
        if not settings.refit or settings.refit_samples is None:
            return cls(settings, reference)
        if train is None:
            raise RequestError(
                f"refit_samples={settings.refit_samples} are drawn from training images; give them (train=...), or "
                "leave it out to refit on the reference samples"
            )
        return cls(settings, reference, ReferenceSet.drawn(train, settings.refit_samples))

    def __call__(self, slim: nn.Module, model: nn.Module, plan: Plan, *, compensated: bool = False) -> nn.Module:
        """Repair in place.

        Args:
            slim: what is left.
            model: the network before.
            plan: what was removed of it.
            compensated: whether the biases of ``slim`` hold the mean of what went already.
        """
        settings, reference = self.settings, self.reference
        if settings.refit:  # batch norms get their statistics with it
            refit(slim, model, plan, self.samples or reference, batch_size=settings.batch_size)
            return slim
        if settings.compensate and not compensated:
            compensate(slim, model, plan, reference, batch_size=settings.batch_size)
        if settings.recalibrate:
            place = next(slim.parameters()).device
            recalibrate(slim, (x for x, _ in reference.batches(_WHOLE)), device=place)
        return slim
