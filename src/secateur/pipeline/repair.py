"""Repair after cutting that needs no labels."""

from __future__ import annotations

from torch import nn

from secateur.data import ReferenceSet
from secateur.pipeline.settings import PruneSettings
from secateur.surgery import recalibrate

_WHOLE = 256
"""Samples per pass where statistics are measured; a cumulative average over batches of nearly equal size."""


def repaired(slim: nn.Module, reference: ReferenceSet, settings: PruneSettings) -> nn.Module:
    """Batch norms measured anew in place, where the settings say so."""
    if settings.recalibrate:
        place = next(slim.parameters()).device
        recalibrate(slim, (x for x, _ in reference.batches(_WHOLE)), device=place)
    return slim
