"""Labelled images as a table: one row per image, with its class, its lesion or patient, and its split.

Light: NumPy is loaded by `table_of` only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean

if TYPE_CHECKING:
    import numpy as np

PixelBox = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the image as stored; right and bottom are outside."""

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits in tables, and what they are here."""

_MAX_NUMBER = 100_000  # of a class


@dataclass(frozen=True, eq=False)
class LabelledTable:
    """Images on disk with their labels.

    Attributes:
        name: of the data set.
        ids: unique name of each image, [N].
        paths: of the files, [N].
        labels: class index of each image, int64 [N].
        class_names: name of each class index.
        groups: lesion or patient of each image, [N]; None where they are not known.
        splits: train, val or test, [N], where the source itself says so.
        where: where each row was read, e.g. "manifest.csv row 17", [N].
        skipped: what was left out, one line each.
        notes: remarks on the data for readers of results, one line each.
        left_out: ids of the images that were left out, as far as they are known.
        boxes: left, top, right and bottom of what is to be cut out of each image, [N]; None: they are taken whole.
    """

    name: str
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    where: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    boxes: tuple[PixelBox, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """One line."""
        groups = "" if self.groups is None else f", {len({*self.groups}):,} groups"
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        return f"LabelledTable('{self.name}': {len(self):,} images, {len(self.class_names)} classes{groups}{skipped})"

    def subset(self, rows: Sequence[int] | np.ndarray, skipped: Sequence[str] = ()) -> LabelledTable:
        """Some of the rows.

        Args:
            rows: their positions.
            skipped: why the others are left out; added to what was left out before.
        """
        kept = [int(row) for row in rows]

        def of(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in kept)

        return LabelledTable(
            self.name,
            of(self.ids),
            tuple(self.paths[row] for row in kept),
            self.labels[kept],
            self.class_names,
            None if self.groups is None else of(self.groups),
            None if self.splits is None else of(self.splits),
            of(self.where) if self.where else (),
            (*self.skipped, *skipped),
            self.notes,
            self.left_out | ({*self.ids} - {self.ids[row] for row in kept}),
            None if self.boxes is None else tuple(self.boxes[row] for row in kept),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read: text, nothing checked but that the image is there."""

    id: str
    path: Path
    label: str
    group: str | None
    split: str | None
    where: str


@dataclass
class Faults:
    """What is wrong with rows: the first line is raised, or all are kept.

    Attributes:
        skip: keep them.
        lines: one for each row that is left out.
        ids: of their images, where they are known.
    """

    skip: bool
    lines: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, line: str, image: str = "") -> None:
        """A row cannot be used.

        Args:
            line: where it is, and why.
            image: its id, where that is known.

        Raises:
            RequestError: unless rows are skipped.
        """
        if not self.skip:
            raise RequestError(f"{line}; correct that, or leave such rows out with data.on_bad_sample=skip")
        self.lines.append(line)
        if image:
            self.ids.add(image)


def plain(name: str) -> str:
    """A name by which files, folders and columns are compared.

    Example:
        >>> plain("HAM10000 images_part-1")
        'ham10000imagespart1'
    """
    return "".join(letter for letter in name.lower() if letter not in "_- ")


def table_of(
    name: str,
    rows: Sequence[Row],
    faults: Faults,
    *,
    of: str,
    class_names: Sequence[str] | None = None,
    group_column: str | None = None,
    notes: Sequence[str] = (),
    boxes: Mapping[str, PixelBox] | None = None,
) -> LabelledTable:
    """Check rows and number their classes.

    Args:
        name: of the data set.
        rows: as read.
        faults: collects rows that cannot be used; those collected before count as skipped too.
        of: what messages call the whole, e.g. "manifest.csv".
        class_names: known ones, in their order; None: those that occur, sorted; numbers stay what they are.
        group_column: name of the column of groups. All images of a lesion are of one class, those of a patient are not.
        notes: of the table.
        boxes: of all images, by id; None: they are taken whole.

    Raises:
        RequestError: for the first row that cannot be used, unless such are skipped; when no rows are left, or one
            class only.
    """
    import numpy as np

    kept = [row for row in rows if _is_usable(row, faults, class_names, group_column)]
    kept = _without_repeats(kept, faults)
    if group_column is not None and "lesion" in group_column.lower():
        kept = _without_contradictions(kept, faults, group_column)
    if not kept:
        first = f"; the first: {faults.lines[0]}" if faults.lines else ""
        raise RequestError(f"{of} has no rows that can be used{first}")
    names, labels = (
        numbered([row.label for row in kept], of)
        if class_names is None
        else (tuple(class_names), [list(class_names).index(row.label) for row in kept])
    )
    if len({*labels}) < 2:
        raise RequestError(f"{of} has images of one class only ('{kept[0].label}'); at least two are needed")
    return LabelledTable(
        name,
        tuple(row.id for row in kept),
        tuple(row.path for row in kept),
        np.array(labels, np.int64),
        names,
        None if kept[0].group is None else tuple(row.group or "" for row in kept),
        None if kept[0].split is None else tuple(SPLIT_NAMES[(row.split or "").lower()] for row in kept),
        tuple(row.where for row in kept),
        tuple(faults.lines),
        tuple(notes),
        frozenset(faults.ids),
        None if boxes is None else tuple(boxes[row.id] for row in kept),
    )


def numbered(labels: Sequence[str], of: str) -> tuple[tuple[str, ...], list[int]]:
    """Class names and the index of each label; numbers stay what they are.

    Args:
        labels: as text.
        of: what messages call the whole.

    Raises:
        RequestError: for numbers that are no class indices.

    Example:
        >>> numbered(["nv", "mel", "nv"], "a.csv"), numbered(["10", "9"], "a.csv")[1]
        ((('mel', 'nv'), [1, 0, 1]), [10, 9])
    """
    distinct = sorted({*labels})
    if all(label.lstrip("-").isdecimal() and label.isascii() for label in distinct):
        numbers = [int(label) for label in labels]
        if min(numbers) < 0 or max(numbers) >= _MAX_NUMBER:
            raise RequestError(
                f"{of} has labels from {min(numbers)} to {max(numbers)}; classes are numbered from 0, below "
                f"{_MAX_NUMBER:,}"
            )
        return tuple(map(str, range(max(numbers) + 1))), numbers
    index = {label: position for position, label in enumerate(distinct)}
    return tuple(distinct), [index[label] for label in labels]


def _is_usable(row: Row, faults: Faults, class_names: Sequence[str] | None, group_column: str | None) -> bool:
    reason = None
    if not row.label:
        reason = "the label is empty"
    elif class_names is not None and row.label not in class_names:
        hint = did_you_mean(row.label, class_names)
        reason = f"class '{row.label}' is unknown{hint}; known: {', '.join(class_names)}"
    elif row.group == "":
        reason = f"{group_column or 'the group'} is empty"
    elif row.split is not None and row.split.lower() not in SPLIT_NAMES:
        reason = f"split '{row.split}' is unknown; known: train, val, test (data.table.split='' leaves the column out)"
    if reason is None:
        return True
    faults.add(f"{row.where}: {reason}", row.id)
    return False


def _without_repeats(rows: list[Row], faults: Faults) -> list[Row]:
    """The first row of each image; none of an image that is there with several classes, groups or splits."""
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row.id].append(row)
    left_out: set[str] = set()
    for first, *others in by_id.values():
        agree = all((row.label, row.group, row.split) == (first.label, first.group, first.split) for row in others)
        for row in others:
            differing = "" if agree else f" with another class, group or split ('{first.label}', here '{row.label}')"
            faults.add(f"{row.where}: image '{row.id}' is in {first.where} already{differing}", row.id)
        if not agree:
            why = f"image '{first.id}' is in other rows with another class, group or split"
            faults.add(f"{first.where}: {why}", first.id)
        left_out.update(row.where for row in (others if agree else (first, *others)))
    return [row for row in rows if row.where not in left_out]


def _without_contradictions(rows: list[Row], faults: Faults, group_column: str) -> list[Row]:
    """No lesion of several classes."""
    first: dict[str | None, Row] = {}
    contradictions: dict[str | None, str] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if row.label != other.label and row.group not in contradictions:
            contradictions[row.group] = f"'{other.label}' in {other.where} but '{row.label}' in {row.where}"
    for row in rows:
        if row.group in contradictions:
            faults.add(f"{row.where}: {group_column} '{row.group}' is {contradictions[row.group]}", row.id)
    return [row for row in rows if row.group not in contradictions]
