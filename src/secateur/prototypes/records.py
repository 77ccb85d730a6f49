"""Where prototypes come from, and what is near them: plain values, as they are kept beside a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BoxKind = Literal["activation", "receptive-field", "relevance"]
BOX_KINDS: tuple[BoxKind, ...] = ("activation", "receptive-field", "relevance")


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, in pixels of the network's input; ``bottom`` and ``right`` are outside.

    Example:
        >>> Box(2, 3, 6, 5).area
        8
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels."""
        return max(0, self.bottom - self.top) * max(0, self.right - self.left)


@dataclass(frozen=True)
class Patch:
    """A patch of an image, as a prototype sees it.

    Attributes:
        image: index in its data set.
        split: of the data set: ``train`` or ``test``.
        label: class of the image.
        position: (row, column) in the feature map.
        similarity: to the prototype.
        distance: squared, to the prototype; for cosine similarity 1 - cosine.
        name: of the image, where the data set has names (a file's path, relative to the data).
        checksum: SHA-256 of the network's input (float32, little-endian), to see whether the image changed.
    """

    image: int
    split: str
    label: int
    position: tuple[int, int]
    similarity: float
    distance: float
    name: str = ""
    checksum: str = ""


@dataclass(frozen=True)
class PrototypeSource:
    """The training patch that a prototype was projected onto.

    Attributes:
        prototype: its number, as learned: pruning others does not change it.
        label: its class.
        patch: the patch; its similarity and distance are those before the projection.
        boxes: where it is in the image, by three methods; see `secateur.prototypes.boxes`.
        duplicate_of: number of an earlier prototype on the same patch; None: there is none.
    """

    prototype: int
    label: int
    patch: Patch
    boxes: Mapping[BoxKind, Box] = field(default_factory=dict)
    duplicate_of: int | None = None


@dataclass(frozen=True)
class Projection:
    """All prototypes on training patches.

    Attributes:
        sources: by prototype, in the order of the network's prototypes.
        epoch: after which it was made; None: by hand.
        data: digest of the images and labels that it was made on (`secateur.prototypes.projection.data_digest`).
    """

    sources: tuple[PrototypeSource, ...]
    epoch: int | None = None
    data: str = ""

    @property
    def duplicates(self) -> tuple[PrototypeSource, ...]:
        """Prototypes on a patch that an earlier one is on."""
        return tuple(source for source in self.sources if source.duplicate_of is not None)
