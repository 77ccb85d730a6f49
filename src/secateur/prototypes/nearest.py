"""The training patches that are nearest to prototypes. Axes: N images, P prototypes, D channels, H and W positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError, SecateurError, check_count
from secateur.core.progress import ProgressOption, reported, track
from secateur.data import LabelledImages
from secateur.models.prototype_network import PrototypeNetwork, log_similarity, similarity_maps, squared_distances

NONE = -1
"""In place of a patch that does not exist."""


@dataclass(frozen=True, eq=False)
class NearestPatches:
    """The nearest patch of each of the k nearest images to every prototype, nearest first.

    Fewer images than k leave -1 in the integer arrays, and NaN in the others.

    Attributes:
        images: index in the data set, [P, k].
        labels: class of the image.
        rows, columns: position in the feature map.
        distances: squared; for cosine similarity 1 - cosine.
        similarities: to the prototype.
        split: that the images are of.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    distances: np.ndarray
    similarities: np.ndarray
    split: str = "train"

    def purity(self, classes: np.ndarray) -> np.ndarray:
        """Share of the patches that are from images of the prototype's class, [P].

        Args:
            classes: of the prototypes.
        """
        there = self.images != NONE
        same = (self.labels == np.asarray(classes)[:, None]) & there
        found: np.ndarray = same.sum(1) / np.maximum(1, there.sum(1))
        return found


@reported("finding nearest patches")
def nearest_patches(
    network: PrototypeNetwork,
    data: LabelledImages,
    k: int = 6,
    *,
    split: str = "train",
    own_class: bool = False,
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> NearestPatches:
    """The k images with the patches nearest to each prototype, in one pass that keeps k of them.

    Distances are computed in float64 from the network's features, so that rounding decides no near tie; equal ones go
    to the image with the lower index, then to the first position.

    Args:
        network: as it is; it comes back so.
        data: images, whose augmentation is left out.
        k: patches of each prototype, from different images.
        split: what to call the images.
        own_class: look at images of the prototype's class alone.
        batch_size: images per pass.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for no images.

    Example:
        >>> from secateur.data import Normalisation
        >>> from secateur.models import build
        >>> pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
        >>> images = LabelledImages(pixels, np.array([0, 1, 0, 1]), ("a", "b"), Normalisation((0.5,) * 3, (0.2,) * 3))
        >>> net = build("prototype-network", num_classes=2, per_class=1, channels=8, image_size=16)
        >>> nearest_patches(net, images, k=3, progress=False).images.shape
        (2, 3)
    """
    check_count("k", k)
    if len(data) == 0:
        raise RequestError(f"there are no {split} images to compare prototypes with")
    best: _Best | None = None
    weight, kind = network.prototypes.weight.detach().double(), network.prototypes.similarity
    classes = network.prototypes.classes
    with borrowed(network):
        for begin, labels, features in feature_batches(network, data, batch_size):
            maps_NPHW = _distances(features.double(), weight.to(features.device), kind)
            distances_NP, places_NP = _first_least(maps_NPHW)
            if own_class:
                other = classes.to(labels.device)[None, :] != labels[:, None]
                distances_NP = distances_NP.masked_fill(other, torch.inf)
            images = torch.arange(begin, begin + len(labels), device=labels.device)
            found = _Best(distances_NP.T, images.expand(len(weight), -1), labels.expand(len(weight), -1), places_NP.T)
            best = (found if best is None else best.joined(found)).least(k)
            width = maps_NPHW.shape[3]
    assert best is not None
    return best.padded(k).patches(width, kind, split)


def feature_batches(
    network: PrototypeNetwork, data: LabelledImages, batch_size: int = 64, indices: np.ndarray | None = None
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Index of the first image, labels [N], feature maps [N, D, H, W], batch by batch, on the network's device.

    Args:
        network: borrowed by the caller for the whole pass, which costs as much as a tenth of a small batch.
        data: images; without augmentation.
        batch_size: images per pass.
        indices: of the images; None: all.
    """
    check_count("batch_size", batch_size)
    plain = data.replace(augmentation=None)
    order = np.arange(len(plain)) if indices is None else np.asarray(indices)
    device = network.prototypes.weight.device
    for begin in track(range(0, len(order), batch_size), "batches of images"):
        inputs, labels = plain.batch([int(index) for index in order[begin : begin + batch_size]])
        with torch.no_grad():
            features = network.feature_map(inputs.to(network.prototypes.weight))
        wrong = ~features.flatten(1).isfinite().all(1)
        if wrong.any():
            image = order[begin + int(wrong.nonzero()[0])]
            raise SecateurError(f"the feature map of image {image} is not finite; train with a lower learning rate")
        yield begin, labels.to(device), features


@reported("measuring similarities")
def similarities_of(
    network: PrototypeNetwork, data: LabelledImages, batch_size: int = 64, *, progress: ProgressOption = True
) -> torch.Tensor:
    """Similarity of each image to each prototype, [N, P] float32 on the CPU; augmentation is left out.

    Raises:
        RequestError: for no images.
    """
    if len(data) == 0:
        raise RequestError("there are no images to take similarities of")
    parts = []
    with borrowed(network):
        for _, _, features in feature_batches(network, data, batch_size):
            with torch.no_grad():
                parts.append(network.prototypes(features).float().cpu())
    return torch.cat(parts)


def _distances(features: torch.Tensor, weight: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "cosine":
        return 1 - similarity_maps(features, weight, "cosine")
    return squared_distances(features, weight)


def _similarity(distances: torch.Tensor, kind: str) -> torch.Tensor:
    """The other way round."""
    if kind == "log":
        return log_similarity(distances)
    return -distances if kind == "linear" else 1 - distances


def _first_least(maps_NPHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least value of each map, and the first position that has it."""
    flat = maps_NPHW.flatten(2)
    least = flat.amin(2)
    places = torch.arange(flat.shape[2], device=flat.device).expand_as(flat)
    return least, torch.where(flat == least[..., None], places, flat.shape[2]).amin(2)


@dataclass(frozen=True, eq=False)
class _Best:
    """Candidates of each prototype, [P, M], in the order of their images."""

    distances: torch.Tensor
    images: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> _Best:
        return _Best(*(change(t) for t in (self.distances, self.images, self.labels, self.places)))

    def joined(self, later: _Best) -> _Best:
        """With those of later images behind."""
        pairs = zip(
            (self.distances, self.images, self.labels, self.places),
            (later.distances, later.images, later.labels, later.places),
            strict=True,
        )
        return _Best(*(torch.cat(pair, 1) for pair in pairs))

    def least(self, k: int) -> _Best:
        """The k nearest; of equal ones, those of earlier images."""
        order = self.distances.sort(dim=1, stable=True).indices[:, :k]
        return self._map(lambda t: t.gather(1, order))

    def padded(self, k: int) -> _Best:
        """With room for k, also where there are fewer images."""
        missing = k - self.distances.shape[1]
        if missing <= 0:
            return self
        fill = self.distances.new_full((len(self.distances), missing), torch.inf)
        none = self.images.new_full(fill.shape, NONE)
        return self.joined(_Best(fill, none, none, none))

    def patches(self, width: int, kind: str, split: str) -> NearestPatches:
        """As arrays; ``width``: columns of the map."""
        distances = self.distances.cpu()
        there = torch.isfinite(distances)
        similarities = _similarity(distances, kind)
        arrays = [torch.where(there, t.cpu(), NONE).numpy() for t in (self.images, self.labels)]
        places = self.places.cpu()
        rows, columns = (torch.where(there, t, NONE).numpy() for t in (places // width, places % width))
        figures = [torch.where(there, t, torch.nan).numpy() for t in (distances, similarities)]
        return NearestPatches(arrays[0], arrays[1], rows, columns, figures[0], figures[1], split)
