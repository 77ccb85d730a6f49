"""Repair of pruned networks without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from secateur.core.errors import RequestError
from secateur.data import ReferenceSet
from secateur.pipeline.settings import PruneSettings
from secateur.selection import Plan
from secateur.surgery import LayerFit, compensate, recalibrate, refit

_WHOLE = 256
"""Samples per pass where statistics are measured; a cumulative average over batches of nearly equal size."""


@dataclass(frozen=True, eq=False)
class Repair:
    """The repairs of a pruned network.

    Attributes:
        settings: settings that name the repairs.
        samples: samples that they use.
    """

    settings: PruneSettings
    samples: ReferenceSet

    @classmethod
    def of(cls, settings: PruneSettings, reference: ReferenceSet, train: Dataset[Any] | None) -> Repair:
        """Repairs on the reference samples, or on as many training images as the settings say.

        Raises:
            RequestError: when the settings need training images and there are none.
        """
        if settings.repair == "none" or settings.repair_samples is None:
            return cls(settings, reference)
        if train is None:
            raise RequestError(
                f"repair_samples={settings.repair_samples} are drawn from training images; give them (train=...), or "
                "leave it out to repair on the reference samples"
            )
        return cls(settings, ReferenceSet.drawn(train, settings.repair_samples))

    def __call__(
        self, slim: nn.Module, model: nn.Module, plan: Plan, *, compensated: bool = False
    ) -> tuple[LayerFit, ...]:
        """Repair in place.

        Args:
            slim: the pruned network.
            model: the network before pruning.
            plan: the plan with which it was pruned.
            compensated: whether the biases of ``slim`` already contain the mean of removed units.

        Returns:
            The refit of each layer.
        """
        settings, samples = self.settings, self.samples
        if settings.repair == "refit":  # a refit also sets the statistics of batch norms
            return refit(slim, model, plan, samples, batch_size=settings.batch_size)
        if settings.repair == "mean" and not compensated:
            compensate(slim, model, plan, samples, batch_size=settings.batch_size)
        if settings.recalibrate:
            device = next(slim.parameters()).device
            recalibrate(slim, (x for x, _ in samples.batches(_WHOLE)), device=device)
        return ()
