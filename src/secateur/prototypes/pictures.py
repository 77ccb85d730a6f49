"""Pictures of images, prototypes and what is near them, for pages. Axes: H, W, C colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur import reports as rp
from secateur.data import LabelledImages
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.boxes import boxes_of
from secateur.prototypes.explanation import ImageExplanation, class_heatmap
from secateur.prototypes.nearest import NONE, NearestPatches
from secateur.prototypes.numbers import prototype_numbers
from secateur.prototypes.records import Box, BoxKind, Projection, PrototypeSource
from secateur.prototypes.relevance import prototype_relevance
from secateur.reports.prototype_pictures import Sides, crop, heat_picture, picture

CROPPED_BY: tuple[BoxKind, ...] = ("relevance", "activation", "receptive-field")
"""Crops are cut by the first of these boxes that is there."""
_NEAR = _CROP = 96  # pixels of the longer side
_BATCH = 64


def boxed(images: LabelledImages, index: int, boxes: Mapping[BoxKind, Box], longest: int = 256) -> rp.BoxedImage:
    """An image in its own colours, with boxes.

    Args:
        images: of one split.
        index: among them.
        boxes: in pixels of the network's input.
        longest: pixels that the longer side of the picture has at most.
    """
    pixels = _pixels(images, index)
    height, width = pixels.shape[:2]
    return rp.BoxedImage(picture(pixels, longest), height, width, {kind: sides(box) for kind, box in boxes.items()})


def _pixels(images: LabelledImages, index: int) -> np.ndarray:
    """Uint8 [H, W, C], as stored and resized."""
    found: np.ndarray = images.raw([index])[0].permute(1, 2, 0).numpy()
    return found


def sides(box: Box) -> Sides:
    """Top, left, bottom and right."""
    return box.top, box.left, box.bottom, box.right


def class_called(names: Sequence[str], label: int) -> str:
    """A class by its index; -1: switched off."""
    return names[label] if 0 <= label < len(names) else ("switched off" if label < 0 else str(label))


def image_called(split: str, image: int, name: str = "") -> str:
    """An image in words."""
    return f"{split} image {image}" + (f" ({name})" if name else "")


def cropping_kind(projection: Projection) -> BoxKind | None:
    """The kind of box that crops are cut by."""
    return next((kind for kind in CROPPED_BY if all(kind in source.boxes for source in projection.sources)), None)


def source_crop(images: LabelledImages, source: PrototypeSource, kind: BoxKind | None) -> str:
    """The patch that a prototype is, in the colours of its image; the whole image where there is no box."""
    pixels = _pixels(images, source.patch.image)
    whole = (0, 0, *pixels.shape[:2])
    return crop(pixels, whole if kind is None else sides(source.boxes[kind]), _CROP)


@dataclass(frozen=True, eq=False)
class NearPictures:
    """Images with the nearest patches of prototypes, the patch marked in each."""

    network: PrototypeNetwork
    images: LabelledImages
    nearest: NearestPatches
    kind: BoxKind | None

    def of(self, rows: Mapping[int, int]) -> dict[int, list[rp.NearPatch]]:
        """By place, of the prototypes in some rows."""
        near, classes = self.nearest, self.network.prototypes.classes.tolist()
        wanted = [(place, row, k) for place, row in rows.items() for k in range(near.images.shape[1])]
        wanted = [(place, row, k) for place, row, k in wanted if near.images[row, k] != NONE]
        found: dict[int, list[rp.NearPatch]] = {place: [] for place in rows}
        for begin in range(0, len(wanted), _BATCH):
            part = wanted[begin : begin + _BATCH]
            for (place, row, k), boxes in zip(part, self._boxes(part), strict=True):
                index, label = int(near.images[row, k]), int(near.labels[row, k])
                name = class_called(self.images.class_names, label)
                image = boxed(self.images, index, boxes, _NEAR)
                called = f"{image_called(near.split, index)}: {name}"
                found[place].append(rp.NearPatch(name, label == classes[row], image, called))
        return found

    def _boxes(self, part: Sequence[tuple[int, int, int]]) -> list[dict[BoxKind, Box]]:
        if self.kind is None:
            return [{} for _ in part]
        near = self.nearest
        inputs = self.images.batch([int(near.images[row, k]) for _, row, k in part])[0]
        positions = [(int(near.rows[row, k]), int(near.columns[row, k])) for _, row, k in part]
        return boxes_of(self.network, inputs, [row for _, row, _ in part], positions, [self.kind])


def heatmaps(
    network: PrototypeNetwork, images: LabelledImages, explanations: Sequence[ImageExplanation]
) -> list[tuple[str, list[str]]]:
    """Relevance for the explained class, and for each prototype of the evidence, of each image."""
    rows = {int(number): row for row, number in enumerate(prototype_numbers(network))}
    found = []
    for place, item in enumerate(explanations):
        inputs = images.batch([place])[0]
        whole = class_heatmap(network, inputs, [item.target])[0].numpy()
        wanted = [rows[evidence.prototype] for evidence in item.evidence]
        each = prototype_relevance(network, inputs.expand(len(wanted), -1, -1, -1), wanted).sum(1).cpu().numpy()
        found.append((heat_picture(whole), [heat_picture(one) for one in each]))
    return found
