"""Where in an image a prototype is: by its upsampled map, by the receptive field, by relevance.

Upsampled maps are what the published code shows; they assume that a position of the map sees the pixels beneath it,
which deep networks do not keep to (Gautam et al. 2022). The receptive field is what it can see at most, and relevance
what it did see.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from secateur.core.borrowing import borrowed
from secateur.models.prototype_network import PrototypeNetwork
from secateur.prototypes.receptive_field import ReceptiveField, receptive_field
from secateur.prototypes.records import BOX_KINDS, Box, BoxKind
from secateur.prototypes.relevance import prototype_relevance

PERCENTILE = 0.95
"""Of the upsampled map: the box holds what is at or above it."""
MIDDLE = 0.9
"""Share of positive relevance that the box holds along each axis."""


def activation_box(map_HW: torch.Tensor, size: tuple[int, int]) -> Box:
    """Smallest box around all pixels whose upsampled similarity is at or above its 95th percentile.

    Args:
        map_HW: similarity of each position.
        size: (H, W) of the image; the map is upsampled to it bicubically.

    Example:
        >>> similar = torch.zeros(4, 4)
        >>> similar[1, 2] = 1
        >>> activation_box(similar, (16, 16))
        Box(top=4, left=8, bottom=8, right=12)
    """
    upsampled = upsampled_map(map_HW, size)
    threshold = upsampled.flatten().quantile(PERCENTILE)
    return _around(upsampled >= threshold)


def upsampled_map(map_HW: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A similarity map in the size of the image, bicubically."""
    return F.interpolate(map_HW[None, None].float(), size, mode="bicubic", align_corners=False)[0, 0]


def relevance_box(relevance_HW: torch.Tensor) -> Box:
    """The rows and columns that hold the middle 90 % of positive relevance; the whole image where there is none.

    Example:
        >>> relevance = torch.zeros(8, 8)
        >>> relevance[2:4, 5] = 1
        >>> relevance_box(relevance)
        Box(top=2, left=5, bottom=4, right=6)
    """
    positive = relevance_HW.detach().double().clamp_min(0)
    (top, bottom), (left, right) = (_middle(positive.sum(dim)) for dim in (1, 0))
    return Box(top, left, bottom, right)


class Locator:
    """Finds boxes; the receptive field of a network is measured once for each size of images.

    Args:
        network: comes back as it was; its backbone must stay as it is.
        kinds: which boxes.
    """

    def __init__(self, network: PrototypeNetwork, kinds: Sequence[BoxKind] = BOX_KINDS) -> None:
        self.network = network
        self.kinds = tuple(kinds)
        self._fields: dict[tuple[int, int, int], ReceptiveField] = {}

    def field(self, shape: tuple[int, int, int]) -> ReceptiveField:
        """The receptive field for images [C, H, W]."""
        if shape not in self._fields:
            self._fields[shape] = receptive_field(self.network, shape)
        return self._fields[shape]

    def boxes(
        self, inputs: torch.Tensor, rows: Sequence[int], positions: Sequence[tuple[int, int]]
    ) -> list[dict[BoxKind, Box]]:
        """Boxes of one prototype in each image.

        Args:
            inputs: images [N, C, H, W].
            rows: of the prototype of each image.
            positions: of its patch in the feature map.
        """
        network, kinds = self.network, self.kinds
        network_inputs = inputs.to(network.prototypes.weight)
        size = (int(inputs.shape[2]), int(inputs.shape[3]))
        found: list[dict[BoxKind, Box]] = [{} for _ in rows]
        if "activation" in kinds:
            with borrowed(network), torch.no_grad():
                maps = network.inspect(network_inputs).maps
            for boxes, one, row in zip(found, maps, rows, strict=True):
                boxes["activation"] = activation_box(one[row].cpu(), size)
        if "receptive-field" in kinds:
            field = self.field((int(inputs.shape[1]), *size))
            extent = (network.prototypes.weight.shape[2], network.prototypes.weight.shape[3])
            for boxes, position in zip(found, positions, strict=True):
                boxes["receptive-field"] = field.box(position, extent)
        if "relevance" in kinds:
            relevance = prototype_relevance(network, inputs, list(rows)).sum(1).cpu()
            for boxes, one in zip(found, relevance, strict=True):
                boxes["relevance"] = relevance_box(one)
        return found


def boxes_of(
    network: PrototypeNetwork,
    inputs: torch.Tensor,
    rows: Sequence[int],
    positions: Sequence[tuple[int, int]],
    kinds: Sequence[BoxKind] = BOX_KINDS,
) -> list[dict[BoxKind, Box]]:
    """Boxes of one prototype in each image; see `Locator`."""
    return Locator(network, kinds).boxes(inputs, rows, positions)


def _around(marked_HW: torch.Tensor) -> Box:
    rows, columns = (marked_HW.any(dim).nonzero().flatten() for dim in (1, 0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _middle(weights: torch.Tensor) -> tuple[int, int]:
    total = float(weights.sum())
    if total <= 0:
        return 0, len(weights)
    shares = weights.cumsum(0) / total
    tail = (1 - MIDDLE) / 2
    first = int((shares > tail).nonzero()[0])
    last = int((shares >= 1 - tail - 1e-12).nonzero()[0])
    return first, last + 1
