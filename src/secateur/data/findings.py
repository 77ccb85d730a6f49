"""Results of an inspection of data, as values for JSON, tables and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from secateur.data.images import read_pixels
from secateur.data.verdicts import sentences

ALL = "all"
"""Name of the only split of data that are not split."""


@dataclass(frozen=True)
class ClassCount:
    """Images of a class that can be read, and their groups, in each split; no groups where none are known."""

    name: str
    images: dict[str, int]
    groups: dict[str, int]


@dataclass(frozen=True)
class Reason:
    """Why images or rows cannot be used: what is said of the first, how many it is said of, and of which."""

    text: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class LeakingGroup:
    """A lesion or patient with images in several splits: how many in each."""

    name: str
    images: dict[str, int]


@dataclass(frozen=True)
class Duplicate:
    """Two images that are the same.

    Attributes:
        kind: exact: the same bytes; near: as far as `secateur.data.duplicates` can tell.
        first: name of the one; for exact duplicates the first of all that are the same.
        second: name of the other.
        first_split: its split; second_split: that of the other.
        first_group: its lesion or patient; empty where that is not known.
        first_class: its class.
        distance: bits by which the hashes differ.
        alike: correlation of the small grey pictures.
        rows: positions of the two.
    """

    kind: Literal["exact", "near"]
    first: str
    second: str
    first_split: str
    second_split: str
    first_group: str
    second_group: str
    first_class: str
    second_class: str
    distance: int
    alike: float
    rows: tuple[int, int]

    @property
    def across_splits(self) -> bool:
        """Whether the images are in different splits."""
        return self.first_split != self.second_split

    @property
    def across_groups(self) -> bool:
        """Whether the images are not known to be of the same lesion or patient."""
        return not self.first_group or self.first_group != self.second_group

    @property
    def across_classes(self) -> bool:
        """Whether the images are of different classes."""
        return self.first_class != self.second_class

    def to_row(self) -> dict[str, Any]:
        """Columns of ``duplicates.csv``."""
        row = asdict(self)
        row.pop("rows")
        return row | {"alike": round(self.alike, 4)}


@dataclass(frozen=True)
class Sizes:
    """Width and height of the smallest image by area, of the one in the middle, and of the largest."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]


@dataclass(frozen=True)
class Inspection:
    """Results of `secateur.data.inspection.inspect`.

    Attributes:
        name: name of the data set.
        source: its source.
        files: number of images that were inspected.
        splits: names of the splits, in order.
        split_by: where the split comes from, in words.
        classes: in the order of their indices.
        groups: lesions or patients of images that can be read; None: they are not known.
        left_out: rows of a table that cannot be used.
        broken: files that cannot be read.
        leaking: groups in several splits.
        duplicates: exact and near, those across splits first.
        complete: all near-duplicates are listed.
        sizes: sizes of the images; None where none can be read.
        grey: images without colour.
        flat: images of one even colour, which were not compared.
        notes: what a reader of results must know, one line each.
        images: files or pixels, for `picture`.
        window: of DICOM images.
    """

    name: str
    source: str
    files: int
    splits: tuple[str, ...]
    split_by: str
    classes: tuple[ClassCount, ...]
    groups: int | None
    left_out: tuple[Reason, ...]
    broken: tuple[Reason, ...]
    leaking: tuple[LeakingGroup, ...]
    duplicates: tuple[Duplicate, ...]
    complete: bool
    sizes: Sizes | None
    grey: int
    flat: int
    notes: tuple[str, ...]
    images: Sequence[Any] = field(repr=False, compare=False)
    window: tuple[float, float] | None = None

    @property
    def usable(self) -> int:
        """Number of images that can be read."""
        return self.files - sum(reason.count for reason in self.broken)

    @property
    def leakage(self) -> bool:
        """Whether test figures would be too high: a group, or the same file, is in two splits."""
        return bool(self.leaking) or any(each.kind == "exact" and each.across_splits for each in self.duplicates)

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Class and split, where a class has no images in a split that has some."""
        filled = [split for split in self.splits if any(each.images[split] for each in self.classes)]
        return tuple((each.name, split) for each in self.classes for split in filled if not each.images[split])

    def findings(self) -> list[str]:
        """The results in sentences, the answer first."""
        return sentences(self)

    def picture(self, row: int, side: int = 160) -> np.ndarray:
        """One of the images, uint8 [H, W, 3], its longer side not above ``side``."""
        image = self.images[row]
        pixels_HWC = read_pixels(image, 3, None, self.window) if isinstance(image, Path) else np.asarray(image)
        picture = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC).convert("RGB")
        picture.thumbnail((side, side))
        return np.asarray(picture)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with counts of the duplicates; see `Duplicate.to_row`."""
        whole = {name: value for name, value in vars(self).items() if name not in ("images", "window", "duplicates")}
        exact, near = ([each for each in self.duplicates if each.kind == kind] for kind in ("exact", "near"))
        counts = {
            kind: {
                "pairs": len(pairs),
                "across_splits": sum(each.across_splits for each in pairs),
                "across_groups": sum(each.across_groups for each in pairs),
                "across_classes": sum(each.across_classes for each in pairs),
            }
            for kind, pairs in (("exact", exact), ("near", near))
        }
        parts = {name: value for name, value in whole.items() if name not in ("classes", "sizes")}
        return {
            "leakage": self.leakage,
            "findings": self.findings(),
            **{name: _plain(value) for name, value in parts.items()},
            "usable": self.usable,
            "classes": [asdict(each) for each in self.classes],
            "sizes": None if self.sizes is None else asdict(self.sizes),
            "absent": [{"class": name, "split": split} for name, split in self.absent],
            "duplicates": counts,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if isinstance(value, Reason | LeakingGroup) else value
