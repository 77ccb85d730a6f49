"""The loss of prototype networks, as an objective of `secateur.training.fit`. Axes: N samples, P prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from secateur.core.errors import RequestError
from secateur.models.prototype_network import PrototypeNetwork, log_similarity, squared_distances
from secateur.prototypes.schedule import TrainParts
from secateur.prototypes.settings import LossSettings
from secateur.training.objective import ParameterGroup


def nearest_distances(network: PrototypeNetwork, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distance of the nearest patch to each prototype, and its similarity, both [N, P] in float32.

    For cosine similarity the distance is 1 - cosine.

    Args:
        network: whose prototypes.
        features: its feature maps [N, D, H, W].
    """
    layer = network.prototypes
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        if layer.similarity == "cosine":
            similarities = layer.maps(features).amax((2, 3))
            return 1 - similarities, similarities
        distances = squared_distances(features, layer.weight).amin((2, 3))
        return distances, -distances if layer.similarity == "linear" else log_similarity(distances)


@dataclass(frozen=True, eq=False)
class PrototypeObjective:
    """Cross-entropy with cluster, separation and L1 terms; see `LossSettings`.

    Attributes:
        stage: which parts are trained, and at which rates.
        coefficients: of the terms.
        weight_decay: of backbone and add-on layers.
    """

    stage: TrainParts
    coefficients: LossSettings
    weight_decay: float

    @property
    def rate(self) -> float:
        """The largest rate: the others are factors on it."""
        return max(self.stage.backbone, self.stage.add_on, self.stage.prototypes)

    @property
    def identity(self) -> str:
        """See `secateur.training.Objective`."""
        return f"prototypes {self.stage} {self.coefficients.model_dump_json()} {self.weight_decay}"

    def groups(self, model: nn.Module) -> Sequence[ParameterGroup]:
        """The parts with a rate; see `secateur.training.Objective`."""
        network, stage = _unwrapped(model), self.stage
        parts = (
            (network.features, stage.backbone, self.weight_decay),
            (network.add_on, stage.add_on, self.weight_decay),
            (network.prototypes, stage.prototypes, 0.0),
        )
        return [
            ParameterGroup(tuple(part.parameters()), rate / self.rate, decay)
            for part, rate, decay in parts
            if rate and any(True for _ in part.parameters())
        ]

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `secateur.training.Objective`."""
        network = _unwrapped(model)
        distances, similarities = nearest_distances(network, network.feature_map(inputs))
        classes = network.prototypes.classes
        active = network.prototypes.active
        logits = network.last(torch.where(active, similarities, 0.0)).float()
        _check_targets(targets, network.num_classes)
        own = classes == targets[:, None]
        asked = self.coefficients
        loss = asked.cross_entropy * F.cross_entropy(logits, targets)
        loss = loss + asked.cluster * _mean_least(distances, own if asked.class_specific else active.expand_as(own))
        if asked.class_specific:
            loss = loss + asked.separation * _mean_least(distances, active & ~own)
        return logits, loss + asked.l1 * last_penalty(network.last.weight, classes, asked.class_specific)


def last_penalty(weight: torch.Tensor, classes: torch.Tensor, class_specific: bool) -> torch.Tensor:
    """Σ|w| of the last layer [C, P] between prototypes and other classes, or over all weights."""
    if not class_specific:
        return weight.abs().sum()
    other = classes[None, :] != torch.arange(weight.shape[0], device=weight.device)[:, None]
    return (weight.abs() * other).sum()


def _mean_least(distances: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean over samples of the least distance among the prototypes that count; samples without any are left out."""
    least = torch.where(counted, distances, torch.inf).amin(1)
    some = counted.any(1)
    return torch.where(some, least, 0.0).sum() / some.sum().clamp_min(1)


def _check_targets(targets: torch.Tensor, classes: int) -> None:
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise RequestError(
            f"labels run from {int(targets.min())} to {int(targets.max())}, the network has {classes} classes"
        )


def _unwrapped(model: nn.Module) -> PrototypeNetwork:
    return cast(PrototypeNetwork, getattr(model, "module", model))
