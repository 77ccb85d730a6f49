"""Prototype pruning: nearest patches, decisions, removal, last layer, and what it costs and brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from secateur.core.progress import ProgressOption, reported
from secateur.data import LabelledImages, loader
from secateur.evaluation import Evaluation, evaluate
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.last_layer import fit_last_layer
from secateur.prototypes.nearest import NearestPatches, nearest_patches, similarities_of
from secateur.prototypes.records import Projection
from secateur.prototypes.removal import remove_prototypes
from secateur.prototypes.selection import PrototypeDecision, decide
from secateur.prototypes.settings import PrototypePruneSettings, PrototypeTrainSettings

BEFORE, REMOVED, REFITTED = "unpruned", "pruned", "last layer trained"


@dataclass(frozen=True, eq=False)
class PrunedPrototypes:
    """What came of it.

    Attributes:
        network: the smaller one.
        decisions: one for each prototype that there was.
        nearest: patches, on which purity rests; rows as in ``decisions``.
        measured: on the test images, by stage: ``unpruned``, ``pruned``, and ``last layer trained``.
    """

    network: PrototypeNetwork
    decisions: tuple[PrototypeDecision, ...]
    nearest: NearestPatches
    measured: Mapping[str, Evaluation]

    @property
    def kept(self) -> tuple[int, ...]:
        """Numbers of the prototypes that are left."""
        return tuple(decision.number for decision in self.decisions if decision.kept)


@reported("pruning prototypes")
def prune_prototypes(
    network: PrototypeNetwork,
    train: LabelledImages,
    test: LabelledImages,
    settings: PrototypePruneSettings | None = None,
    training: PrototypeTrainSettings | None = None,
    *,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> PrunedPrototypes:
    """Remove the prototypes that the settings choose, then train the last layer on what is left.

    Args:
        network: stays as it is.
        train: training images; augmentation is left out.
        test: to measure on.
        settings: which go; None: as published (6 nearest patches, fewer than 3 of the class).
        training: how the last layer is trained; None: as published.
        batch_size: images per pass.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for a class that would have no prototype left.
    """
    settings, training = settings or PrototypePruneSettings(), training or PrototypeTrainSettings()
    nearest = nearest_patches(network, train, settings.k, batch_size=batch_size)
    decisions = decide(network, train, nearest, settings)
    measured = {BEFORE: _evaluated(network, test)}
    slim = remove_prototypes(network, [decision.number for decision in decisions if not decision.kept])
    measured[REMOVED] = _evaluated(slim, test)
    if settings.last_iterations:
        labels = torch.from_numpy(train.labels)
        similarities = similarities_of(slim, train, batch_size)
        fit_last_layer(slim, similarities, labels, training, settings.last_iterations)
        measured[REFITTED] = _evaluated(slim, test)
    return PrunedPrototypes(slim, decisions, nearest, measured)


def left_of(projection: Projection, kept: tuple[int, ...]) -> Projection:
    """Where the prototypes that are left come from."""
    sources = tuple(source for source in projection.sources if source.prototype in kept)
    return Projection(sources, projection.epoch, projection.data)


def _evaluated(network: PrototypeNetwork, images: LabelledImages) -> Evaluation:
    device = network.prototypes.weight.device
    found = evaluate(
        network,
        loader(images.replace(augmentation=None)),
        class_names=images.class_names,
        device=device,
    )
    network.to(device)
    return found
