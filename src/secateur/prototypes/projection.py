"""Prototypes become training patches. Axes: P prototypes, D channels, h and w positions of a prototype."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from secateur.core.borrowing import borrowed
from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.data import ImageData, LabelledImages
from secateur.models.prototype_network import PrototypeNetwork
from secateur.pipeline import contents
from secateur.prototypes.boxes import Locator
from secateur.prototypes.nearest import NearestPatches, feature_batches, nearest_patches
from secateur.prototypes.numbers import prototype_numbers
from secateur.prototypes.records import BOX_KINDS, Box, BoxKind, Patch, Projection, PrototypeSource


@reported("projecting prototypes")
def project(
    network: PrototypeNetwork,
    data: LabelledImages,
    *,
    epoch: int | None = None,
    avoid_duplicates: bool = False,
    boxes: Sequence[BoxKind] = BOX_KINDS,
    split: str = "train",
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> Projection:
    """Let each prototype become the nearest patch of the training images of its class, in place.

    One pass over all images finds the patches (see `secateur.prototypes.nearest.nearest_patches`), another one over the
    images that were found takes their features. A prototype that is switched off stays as it is and gets no source.

    Args:
        network: changed in place.
        data: training images; augmentation is left out.
        epoch: after which this is done, for the record.
        avoid_duplicates: prototypes of one class become patches of different images: by rising distance, each takes the
            nearest image that none before it has taken. The sum of distances need not be the least possible.
        boxes: how the patch is located in its image, see `secateur.prototypes.boxes`.
        split: what to call the images.
        batch_size: images per pass.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Returns:
        Where each prototype comes from.

    Raises:
        RequestError: for a class with prototypes and no image, or with fewer images than prototypes where duplicates
            are to be avoided; the network is as it was then.

    Example:
        >>> from secateur.data import Normalisation
        >>> from secateur.models import build
        >>> pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)
        >>> images = LabelledImages(pixels, np.array([0, 1, 0, 1]), ("a", "b"), Normalisation((0.5,) * 3, (0.2,) * 3))
        >>> net = build("prototype-network", num_classes=2, per_class=1, channels=8, image_size=16)
        >>> found = project(net, images, progress=False)
        >>> [(source.prototype, source.label, source.patch.label) for source in found.sources]
        [(0, 0, 0), (1, 1, 1)]
    """
    classes = network.prototypes.classes.cpu().numpy()
    rows = np.flatnonzero(classes >= 0)
    _check_classes(classes[rows], data, avoid_duplicates)
    most = int(np.bincount(classes[rows]).max()) if avoid_duplicates and len(rows) else 1
    nearest = nearest_patches(network, data, most, split=split, own_class=True, batch_size=batch_size)
    picks = _distinct(nearest, classes) if avoid_duplicates else np.zeros(len(classes), np.int64)
    patches = {int(row): _patch(nearest, int(row), int(picks[row]), data) for row in rows}
    _copy_features(network, data, patches, batch_size)
    located = _located(network, data, patches, boxes, batch_size)
    return Projection(_sources(network, patches, located), epoch, data_digest(data))


def data_digest(data: LabelledImages) -> str:
    """Hash of images and labels, as networks see them without augmentation."""
    plain = data.replace(augmentation=None)
    none = plain.subset([])
    return contents.data_digest(ImageData("", plain, none, none))


def checksum(inputs_CHW: torch.Tensor) -> str:
    """SHA-256 of one input of the network, as little-endian float32."""
    values = inputs_CHW.detach().cpu().to(torch.float32).contiguous().numpy().astype("<f4")
    return hashlib.sha256(values.tobytes()).hexdigest()


def check_sources(projection: Projection, data: LabelledImages) -> None:
    """Refuse data whose images are not those that prototypes were projected onto.

    Raises:
        RequestError: naming the first prototype whose source changed or is gone.
    """
    plain = data.replace(augmentation=None)
    for source in projection.sources:
        patch, remedy = source.patch, "give the same data, or project again (secateur prototypes push)"
        called = f"prototype {source.prototype} is a patch of {patch.split} image {patch.image}"
        called += f" ('{patch.name}')" if patch.name else ""
        if patch.image >= len(plain):
            raise RequestError(f"{called}, but there are {len(plain)} images; {remedy}")
        if patch.checksum and checksum(plain.batch([patch.image])[0][0]) != patch.checksum:
            raise RequestError(f"{called}, which is another image now; {remedy}")


def _check_classes(classes: np.ndarray, data: LabelledImages, distinct: bool) -> None:
    counts = np.bincount(data.labels, minlength=int(classes.max(initial=0)) + 1)
    for label, needed in zip(*np.unique(classes, return_counts=True), strict=True):
        name = data.class_names[label] if label < len(data.class_names) else str(label)
        if counts[label] == 0:
            raise RequestError(
                f"class '{name}' has {needed} prototypes but no training image to project them onto; give it images, "
                "or remove its prototypes"
            )
        if distinct and counts[label] < needed:
            raise RequestError(
                f"class '{name}' has {needed} prototypes and {counts[label]} training images: they cannot be patches "
                "of different images; set avoid_duplicates=false"
            )


def _distinct(nearest: NearestPatches, classes: np.ndarray) -> np.ndarray:
    """Which of its nearest images each prototype takes, so that those of a class take different ones."""
    picks = np.zeros(len(classes), np.int64)
    for label in np.unique(classes[classes >= 0]):
        rows = np.flatnonzero(classes == label)
        places = range(nearest.images.shape[1])
        offers = [(float(nearest.distances[row, k]), int(row), k) for row in rows for k in places]
        taken: set[int] = set()
        served: set[int] = set()
        for _, row, k in sorted(offer for offer in offers if np.isfinite(offer[0])):
            image = int(nearest.images[row, k])
            if row not in served and image not in taken:
                picks[row] = k
                served.add(row)
                taken.add(image)
    return picks


def _patch(nearest: NearestPatches, row: int, k: int, data: LabelledImages) -> Patch:
    image = int(nearest.images[row, k])
    file = data.images[image] if isinstance(data.images, list) else None
    return Patch(
        image=image,
        split=nearest.split,
        label=int(nearest.labels[row, k]),
        position=(int(nearest.rows[row, k]), int(nearest.columns[row, k])),
        similarity=float(nearest.similarities[row, k]),
        distance=float(nearest.distances[row, k]),
        name="/".join(Path(file).parts[-2:]) if file is not None else "",
        checksum=checksum(data.replace(augmentation=None).batch([image])[0][0]),
    )


def _copy_features(network: PrototypeNetwork, data: LabelledImages, patches: dict[int, Patch], batch_size: int) -> None:
    """Prototypes get the features of their patches, all at once: a failing pass leaves the network as it was."""
    weight = network.prototypes.weight.detach().clone()
    height, width = weight.shape[2:]
    images = np.unique([patch.image for patch in patches.values()])
    with borrowed(network):
        for begin, _, features in feature_batches(network, data, batch_size, images):
            held = {int(image): place for place, image in enumerate(images[begin : begin + batch_size])}
            for row, patch in patches.items():
                place = held.get(patch.image)
                if place is not None:
                    i, j = patch.position
                    weight[row] = features[place, :, i : i + height, j : j + width]
    with torch.no_grad():
        network.prototypes.weight.copy_(weight)


def _located(
    network: PrototypeNetwork,
    data: LabelledImages,
    patches: dict[int, Patch],
    kinds: Sequence[BoxKind],
    batch_size: int,
) -> dict[int, dict[BoxKind, Box]]:
    plain, rows = data.replace(augmentation=None), list(patches)
    found: dict[int, dict[BoxKind, Box]] = {}
    locator = Locator(network, kinds)
    for begin in track(range(0, len(rows) if kinds else 0, batch_size), "boxes of source images"):
        some = rows[begin : begin + batch_size]
        inputs = plain.batch([patches[row].image for row in some])[0]
        positions = [patches[row].position for row in some]
        found.update(zip(some, locator.boxes(inputs, some, positions), strict=True))
    return found


def _sources(
    network: PrototypeNetwork, patches: dict[int, Patch], boxes: dict[int, dict[BoxKind, Box]]
) -> tuple[PrototypeSource, ...]:
    numbers, classes = prototype_numbers(network), network.prototypes.classes
    first: dict[tuple[int, tuple[int, int]], int] = {}
    found = []
    for row, patch in patches.items():
        number = int(numbers[row])
        before = first.setdefault((patch.image, patch.position), number)
        duplicate = before if before != number else None
        found.append(PrototypeSource(number, int(classes[row]), patch, boxes.get(row, {}), duplicate))
    return tuple(found)
