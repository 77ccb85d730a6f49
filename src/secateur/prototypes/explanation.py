"""What prototypes say of an image, and what images say of prototypes. Axes: N images, P prototypes, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from secateur.attribution import attribute
from secateur.attribution.composites import Composite
from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError, check_count
from secateur.core.progress import ProgressOption, reported, track
from secateur.data import LabelledImages
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.boxes import Locator
from secateur.prototypes.nearest import NearestPatches, nearest_patches, similarities_of
from secateur.prototypes.numbers import prototype_numbers
from secateur.prototypes.records import BOX_KINDS, Box, BoxKind, Projection, PrototypeSource
from secateur.prototypes.relevance import COMPOSITE

ENOUGH = 0.9
"""Share of the positive contributions that the prototypes which a decision uses make up."""


@dataclass(frozen=True)
class PrototypeEvidence:
    """One prototype in the decision on one image.

    Attributes:
        prototype: its number, as learned.
        label: its class.
        similarity: of the most similar patch.
        weight: from it to the explained class.
        position: of that patch in the feature map.
        boxes: of that patch in the image.
        source: the training patch that the prototype is; None: not known.
    """

    prototype: int
    label: int
    similarity: float
    weight: float
    position: tuple[int, int]
    boxes: Mapping[BoxKind, Box] = field(default_factory=dict)
    source: PrototypeSource | None = None

    @property
    def contribution(self) -> float:
        """To the logit: similarity times weight."""
        return self.similarity * self.weight


@dataclass(frozen=True)
class ImageExplanation:
    """Why an image gets the logit of a class: the contributions of all prototypes add up to it.

    Attributes:
        predicted: class with the highest logit.
        target: class that is explained.
        logits: of all classes.
        evidence: the prototypes with the largest contributions to the target, largest first.
        used: how many prototypes make up 90 % of the positive contributions.
    """

    predicted: int
    target: int
    logits: tuple[float, ...]
    evidence: tuple[PrototypeEvidence, ...]
    used: int


@dataclass(frozen=True, eq=False)
class PrototypeExplanations:
    """What images say of all prototypes.

    Attributes:
        train, test: nearest patches; None for a split without images.
        purity: share of the nearest training patches that are from images of the prototype's class, [P].
        used: mean number of prototypes that make up 90 % of the positive contributions to the predicted class.
    """

    train: NearestPatches
    test: NearestPatches | None
    purity: np.ndarray
    used: float


@reported("explaining images")
def explain_images(
    network: PrototypeNetwork,
    inputs: torch.Tensor,
    *,
    top: int = 5,
    targets: Sequence[int] | None = None,
    boxes: Sequence[BoxKind] | Locator = BOX_KINDS,
    projection: Projection | None = None,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> list[ImageExplanation]:
    """The prototypes that speak for a class, image by image.

    Args:
        network: comes back as it was.
        inputs: images [N, C, H, W].
        top: prototypes of each image.
        targets: class of each image; None: the predicted one.
        boxes: how patches are located; or what locates them, which measures receptive fields once for several calls.
        projection: where the prototypes come from.
        batch_size: images per pass.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for no image, or other targets than classes.

    Example:
        >>> from secateur.models import build
        >>> net = build("prototype-network", num_classes=2, per_class=2, channels=8)
        >>> found, = explain_images(net, torch.rand(1, 3, 32, 32), top=4, boxes=(), progress=False)
        >>> abs(sum(e.contribution for e in found.evidence) - found.logits[found.target]) < 1e-4
        True
    """
    check_count("top", top)
    if len(inputs) == 0:
        raise RequestError("there is no image to explain")
    if targets is not None and (len(targets) != len(inputs) or not all(0 <= t < network.num_classes for t in targets)):
        raise RequestError(f"targets must be {len(inputs)} classes from 0 to {network.num_classes - 1}, one per image")
    found: list[ImageExplanation] = []
    locator = boxes if isinstance(boxes, Locator) else Locator(network, boxes)
    for begin in track(range(0, len(inputs), batch_size), "batches of images"):
        chosen = None if targets is None else targets[begin : begin + batch_size]
        found += _explained(network, inputs[begin : begin + batch_size], top, chosen, locator, projection)
    return found


def _explained(
    network: PrototypeNetwork,
    inputs: torch.Tensor,
    top: int,
    targets: Sequence[int] | None,
    locator: Locator,
    projection: Projection | None,
) -> list[ImageExplanation]:
    with borrowed(network), torch.no_grad():
        seen = network.inspect(inputs.to(network.prototypes.weight))
    logits, similarities = seen.logits.cpu(), seen.similarities.cpu()
    predicted = logits.argmax(1).tolist()
    wanted = predicted if targets is None else list(targets)
    weights = network.last.weight.detach().cpu()[wanted]  # [N, P]
    contributions = similarities * weights
    order = contributions.argsort(dim=1, descending=True, stable=True)[:, :top]
    flat, width = seen.maps.flatten(2).cpu(), seen.maps.shape[3]
    numbers, classes = prototype_numbers(network), network.prototypes.classes.tolist()
    known = {} if projection is None else {source.prototype: source for source in projection.sources}
    pairs = [(n, int(row)) for n in range(len(inputs)) for row in order[n]]
    places = [int(flat[n, row].argmax()) for n, row in pairs]
    positions = [(place // width, place % width) for place in places]
    located: list[dict[BoxKind, Box]] = [{} for _ in pairs]
    if locator.kinds:
        located = locator.boxes(inputs[[n for n, _ in pairs]], [row for _, row in pairs], positions)
    evidence = [
        PrototypeEvidence(
            prototype=int(numbers[row]),
            label=classes[row],
            similarity=float(similarities[n, row]),
            weight=float(weights[n, row]),
            position=position,
            boxes=boxes,
            source=known.get(int(numbers[row])),
        )
        for (n, row), position, boxes in zip(pairs, positions, located, strict=True)
    ]
    count, used = order.shape[1], _used(contributions)
    return [
        ImageExplanation(
            predicted[n],
            int(wanted[n]),
            tuple(logits[n].tolist()),
            tuple(evidence[n * count : (n + 1) * count]),
            int(used[n]),
        )
        for n in range(len(inputs))
    ]


def class_heatmap(
    network: PrototypeNetwork, inputs: torch.Tensor, targets: Sequence[int], composite: str | Composite = COMPOSITE
) -> torch.Tensor:
    """Relevance of pixels for the logits of some classes, through all prototypes, [N, H, W] on the CPU.

    Args:
        network: comes back as it was.
        inputs: images [N, C, H, W].
        targets: class of each.
        composite: rules below the feature map.
    """
    inputs = inputs.to(network.prototypes.weight)
    targets = [1] * len(targets) if network.num_classes == 1 else targets  # one output: log-odds of class 1
    return attribute(network, inputs, targets, composite, start="logit").input.sum(1).cpu()


@reported("explaining prototypes")
def explain_prototypes(
    network: PrototypeNetwork,
    train: LabelledImages,
    test: LabelledImages | None = None,
    k: int = 6,
    *,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> PrototypeExplanations:
    """The nearest patches of every prototype, its purity, and how many prototypes a decision uses.

    Args:
        network: comes back as it was.
        train: training images.
        test: other images; None or empty: usage is measured on training images.
        k: patches of each prototype, from different images.
        batch_size: images per pass.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.
    """
    others = test if test is not None and len(test) else None
    near = nearest_patches(network, train, k, batch_size=batch_size)
    far = None if others is None else nearest_patches(network, others, k, split="test", batch_size=batch_size)
    purity = near.purity(network.prototypes.classes.cpu().numpy())
    return PrototypeExplanations(near, far, purity, prototypes_used(network, others or train, batch_size))


def prototypes_used(network: PrototypeNetwork, images: LabelledImages, batch_size: int = 64) -> float:
    """Mean number of prototypes that make up 90 % of the positive contributions to the predicted class.

    Args:
        network: comes back as it was.
        images: to decide on; augmentation is left out.
        batch_size: images per pass.

    Raises:
        RequestError: for no images.
    """
    similarities, weights = similarities_of(network, images, batch_size), network.last.weight.detach().cpu().float()
    contributions = similarities * weights[(similarities @ weights.T).argmax(1)]
    return float(_used(contributions).double().mean())


def _used(contributions_NP: torch.Tensor) -> torch.Tensor:
    """How many prototypes make up 90 % of the positive contributions, [N]."""
    positive = contributions_NP.clamp_min(0).double().sort(1, descending=True).values
    sums = positive.cumsum(1)
    total = sums[:, -1:]
    return torch.where(total[:, 0] > 0, (sums < ENOUGH * total).sum(1) + 1, 0)
