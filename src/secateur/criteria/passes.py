"""Passes over the reference samples that several criteria share."""

from __future__ import annotations

from functools import cached_property

from torch import nn

from secateur.attribution import UnitStatistics, running, unit_statistics
from secateur.attribution.names import At
from secateur.criteria.aggregation import UnseenError
from secateur.criteria.base import View
from secateur.criteria.samples import Share, tracked
from secateur.data import ReferenceSet


class Passes:
    """Per-sample statistics of one network on one reference set; each backward pass runs once.

    With several ranks, each processes its share of the samples, and gets the statistics of all.
    """

    def __init__(self, model: nn.Module, reference: ReferenceSet, batch_size: int) -> None:
        self.model, self.reference, self.batch_size = model, reference, batch_size
        self._found: dict[tuple[View, At, bool], dict[str, UnitStatistics]] = {}

    @cached_property
    def running(self) -> set[str]:
        """Layers that run on the reference samples."""
        layers = [name.removesuffix(".weight") for name, _ in self.model.named_parameters(remove_duplicate=False)]
        return running(self.model, (inputs for inputs, _ in self.reference.batches(self.batch_size)), layers)

    def check_running(self, layers: list[str]) -> None:
        """Raise `UnseenError` for layers that do not run."""
        idle = [layer for layer in layers if layer not in self.running] if layers else []
        if idle:
            raise UnseenError(idle)

    def __call__(self, view: View, at: At, constants: bool = False) -> dict[str, UnitStatistics]:
        """Statistics by layer, observed where units are produced or read.

        Args:
            view: settings of the pass.
            at: ``makers`` or ``readers``.
            constants: include layers that do not depend on the inputs; samples are then processed one by one.
        """
        if (view, at, constants) not in self._found:
            share = Share.of(self.reference)
            by_layer = unit_statistics(
                self.model,
                tracked(share.samples, 1 if constants else self.batch_size),
                view.composite,
                start=view.start,
                bounds=self.reference.bounds,
                at=at,
                positions=view.positions,
                constants=constants,
            )
            parts = [
                share.joined({name: getattr(statistics, figure) for name, statistics in by_layer.items()})
                for figure in ("relevance", "gradient", "activation")
            ]
            self._found[view, at, constants] = {
                name: UnitStatistics(*(part[name] for part in parts)) for name in by_layer
            }
        return self._found[view, at, constants]
