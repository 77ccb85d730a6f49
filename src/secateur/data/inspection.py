"""Inspects a whole data set: counts, broken files, duplicates, and leakage from one split into another."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported
from secateur.data.checks import is_table
from secateur.data.duplicates import Fingerprints, Pairs, exact_duplicates, fingerprints, near_pairs
from secateur.data.findings import ALL, ClassCount, Duplicate, Inspection, LeakingGroup, Reason, Sizes
from secateur.data.settings import DataSettings, Resize
from secateur.data.sources import open_data, read_table
from secateur.data.splits import assigned, with_splits_of
from secateur.data.table import SPLITS, LabelledTable

_EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class _Rows:
    """All images of a source, row by row."""

    name: str
    ids: Sequence[str]
    images: Sequence[Any]
    labels: np.ndarray
    class_names: tuple[str, ...]
    groups: Sequence[str] | None
    splits: Sequence[str]
    split_by: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@reported("checking the data")
def inspect(settings: DataSettings, *, progress: ProgressOption = True) -> Inspection:
    """Inspect every image of a data set, and its splits.

    Images are split as `secateur.data.open_data` splits them, but what it would refuse, such as groups in several
    splits that a table itself gives, is counted here. All classes and images are inspected, for any ``classes``,
    ``limit`` and ``on_bad_sample``.

    Args:
        settings: settings of the data.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for a source that cannot be read at all, and a split file of other data.
    """
    changes: dict[str, Any] = {"on_bad_sample": "skip", "classes": None, "limit": None, "augmentation": "none"}
    settings = settings.model_copy(update=changes)
    if is_table(settings.source):
        table = read_table(settings)
        prints = fingerprints(table.paths, window=settings.window, workers=settings.workers)
        rows = _of_table(table, prints, settings)
    else:
        rows = _of_arrays(settings)
        prints = fingerprints(rows.images, window=settings.window, workers=settings.workers)
    return _inspection(rows, prints, settings)


def _of_table(table: LabelledTable, found: Fingerprints, settings: DataSettings) -> _Rows:
    good = [row for row in range(len(table)) if row not in found.broken]
    readable = table.subset(good)
    if settings.split.file is not None:
        readable = with_splits_of(readable, settings.split.file)
    given, notes = readable.splits or (), readable.notes
    if settings.split.file is not None:
        split_by = f"by '{settings.split.file}'"
    elif given:
        split_by = "as the data themselves say"
    else:
        how = "by group" if settings.split.by == "group" and table.groups is not None else "image by image"
        split_by = f"made here {how}, seed {settings.seed}"
        try:
            given = assigned(readable, settings.split, settings.seed).splits
        except (RequestError, ValueError) as error:
            split_by, notes = "not split", (*notes, f"the data cannot be split: {error}")
    splits = [ALL] * len(table)
    for row, split in zip(good, given, strict=False):  # none where the data cannot be split
        splits[row] = split
    return _Rows(
        table.name,
        table.ids,
        table.paths,
        table.labels,
        table.class_names,
        table.groups,
        splits,
        split_by,
        table.skipped,
        notes,
    )


def _of_arrays(settings: DataSettings) -> _Rows:
    if settings.source.startswith("torchvision/") and settings.resize is None:
        settings = settings.model_copy(update={"resize": Resize(size=64)})  # it is not used: images are as stored
    data = open_data(settings)
    splits, ids, images = [], [], []
    for name in SPLITS:
        split = getattr(data, name)
        splits += [name] * len(split)
        ids += [f"{name} {row}" for row in range(len(split))]
        images += [split.images[row] for row in range(len(split))]
    labels = np.concatenate([data.train.labels, data.val.labels, data.test.labels])
    split_by = "as the data themselves say; what they lack is made here"
    return _Rows(data.name, ids, images, labels, data.class_names, None, splits, split_by, data.skipped)


def _inspection(rows: _Rows, found: Fingerprints, settings: DataSettings) -> Inspection:
    good = [row for row in range(len(rows.ids)) if row not in found.broken]
    present = {rows.splits[row] for row in good}
    names = tuple(split for split in (*SPLITS, ALL) if split in present) or (ALL,)
    pairs = near_pairs(found)
    sizes = found.sizes[good]
    order = np.argsort(sizes[:, 0] * sizes[:, 1], kind="stable")
    return Inspection(
        name=rows.name,
        source=settings.source,
        files=len(rows.ids),
        splits=names,
        split_by=rows.split_by,
        classes=_classes(rows, good, names),
        groups=None if rows.groups is None else len({rows.groups[row] for row in good}),
        left_out=_reasons((line, line) for line in rows.left_out),
        broken=_reasons((_bare(why, rows.images[row]), rows.ids[row]) for row, why in found.broken.items()),
        leaking=_leaking(rows, good),
        duplicates=_duplicates(rows, found, pairs),
        complete=pairs.complete,
        sizes=None if not good else Sizes(*(_pair(sizes[order[at]]) for at in (0, len(order) // 2, -1))),
        grey=int(found.grey[good].sum()),
        flat=int(found.flat.sum()),
        notes=rows.notes,
        images=rows.images,
        window=settings.window,
    )


def _pair(size: np.ndarray) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def _classes(rows: _Rows, good: Sequence[int], names: Sequence[str]) -> tuple[ClassCount, ...]:
    images = Counter((int(rows.labels[row]), rows.splits[row]) for row in good)
    groups: dict[tuple[int, str], set[str]] = defaultdict(set)
    for row in good if rows.groups is not None else ():
        groups[int(rows.labels[row]), rows.splits[row]].add((rows.groups or ())[row])
    return tuple(
        ClassCount(
            name,
            {split: images[index, split] for split in names},
            {} if rows.groups is None else {split: len(groups[index, split]) for split in names},
        )
        for index, name in enumerate(rows.class_names)
    )


def _leaking(rows: _Rows, good: Sequence[int]) -> tuple[LeakingGroup, ...]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in good if rows.groups is not None else ():
        counts[(rows.groups or ())[row]][rows.splits[row]] += 1
    return tuple(LeakingGroup(name, dict(found)) for name, found in sorted(counts.items()) if len(found) > 1)


def _duplicates(rows: _Rows, found: Fingerprints, pairs: Pairs) -> tuple[Duplicate, ...]:
    def made(kind: Literal["exact", "near"], one: int, two: int, distance: int = 0, alike: float = 1.0) -> Duplicate:
        return Duplicate(
            kind=kind,
            first=rows.ids[one],
            second=rows.ids[two],
            first_split=rows.splits[one],
            second_split=rows.splits[two],
            first_group="" if rows.groups is None else rows.groups[one],
            second_group="" if rows.groups is None else rows.groups[two],
            first_class=rows.class_names[int(rows.labels[one])],
            second_class=rows.class_names[int(rows.labels[two])],
            distance=distance,
            alike=alike,
            rows=(one, two),
        )

    every = [made("exact", first, other) for first, *others in exact_duplicates(found) for other in others]
    every += [
        made("near", one, two, distance, alike)
        for (one, two), distance, alike in zip(
            pairs.rows.tolist(), pairs.distance.tolist(), pairs.alike.tolist(), strict=True
        )
    ]
    return tuple(
        sorted(every, key=lambda each: (not each.across_splits, not each.across_groups, each.kind, -each.alike))
    )


def _reasons(told: Iterable[tuple[str, str]]) -> tuple[Reason, ...]:
    """Lines that differ in names and numbers only, together; the most frequent first."""
    every: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for text, of in told:
        key = re.sub(r"'[^']*'|\d+", "#", text.partition(": ")[2] or text)
        every[key].append((text, of))
    reasons = [Reason(lines[0][0], len(lines), tuple(of for _, of in lines[:_EXAMPLES])) for lines in every.values()]
    return tuple(sorted(reasons, key=lambda reason: -reason.count))


def _bare(why: str, path: Any) -> str:
    """What is wrong with a file, without its name and what to do about it."""
    text = why.rpartition("; ")[0] or why
    for name in (f"'{path}'", f"{str(path)!r}", str(path)):
        text = text.replace(f" {name}", "")
    text = text.removeprefix("image ").removeprefix("is ")
    return re.sub(r"^cannot be read \((.*)\)$", r"\1", text)
