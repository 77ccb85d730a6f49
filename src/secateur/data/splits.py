"""Splits images into training, validation and test by group and class, and stores the split as a file."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from secateur.core.errors import RequestError, SecateurError
from secateur.core.extras import check_installed
from secateur.core.files import atomic_path, cache_folder
from secateur.core.progress import task
from secateur.core.randomness import derive_seed, numpy_generator
from secateur.data.manifest import SPLIT_COMMENT, read_sheet
from secateur.data.settings import SplitSettings
from secateur.data.table import SPLITS, Faults, LabelledTable

_COLUMNS = ("image_id", "split", "group", "label")
_MOST_FOLDS = 10
_KEPT = 500  # groups, from which on their folds are kept


@dataclass(frozen=True)
class Assignment:
    """The split of a data set, image by image.

    Attributes:
        ids: unique name of each image, [N].
        splits: train, val or test, [N].
        groups: lesion or patient of each image, [N]; None where they are not known.
        labels: class index of each image, [N].
        class_names: name of each class index.
        digest: digest of the ids and the names of their classes, in any order.
        notes: remarks on the split for readers of results, one line each.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...] | None
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    digest: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One line."""
        counts = Counter(self.splits)
        return f"Assignment({', '.join(f'{counts[split]:,} {split}' for split in SPLITS)}, {self.digest[:8]})"


def digest_of(ids: Sequence[str], classes: Sequence[str]) -> str:
    """Hex SHA-256 of images and the names of their classes, in any order.

    Example:
        >>> digest_of(["a", "b"], ["nv", "mel"]) == digest_of(["b", "a"], ["mel", "nv"])
        True
    """
    lines = sorted(json.dumps(pair, ensure_ascii=False) for pair in zip(ids, classes, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_assignment(assignment: Assignment, path: Path) -> None:
    """Write a split as CSV (image_id, split, group, label), whole or not at all; its first line holds the digest.

    Args:
        assignment: of a data set.
        path: of the file.
    """
    groups = assignment.groups or ("",) * len(assignment.ids)
    classes = [assignment.class_names[label] for label in assignment.labels]
    rows = sorted(zip(assignment.ids, assignment.splits, groups, classes, strict=True))
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{SPLIT_COMMENT}{assignment.digest}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)


def read_assignment(path: Path) -> Assignment:
    """Read what `write_assignment` wrote, or a table with the same columns.

    Raises:
        RequestError: for a file that is none.
    """
    faults = Faults(skip=False)
    sheet = read_sheet(path, faults, SPLIT_COMMENT, exact=True)
    missing = [column for column in _COLUMNS if column not in sheet.columns and column != "group"]
    if missing:
        raise RequestError(f"split file '{path}' has no column '{missing[0]}'; expected {', '.join(_COLUMNS)}")
    columns = [column for column in _COLUMNS if column in sheet.columns]
    seen: dict[str, str] = {}
    rows: list[dict[str, str]] = []
    for where, cells in sheet.records(*columns):
        row = dict(zip(columns, cells, strict=True))
        if row["split"] not in SPLITS:
            faults.add(f"{where}: split '{row['split']}' is unknown; known: {', '.join(SPLITS)}")
        if row["image_id"] in seen:
            faults.add(f"{where}: image '{row['image_id']}' is in {seen[row['image_id']]} already")
        seen[row["image_id"]] = where
        rows.append(row)
    if not rows:
        raise RequestError(f"split file '{path}' has no rows")
    ids, classes = [row["image_id"] for row in rows], [row["label"] for row in rows]
    names = tuple(sorted({*classes}))
    labels = tuple(map({name: index for index, name in enumerate(names)}.__getitem__, classes))
    groups = tuple(row.get("group", "") for row in rows)
    digest = _written_digest(path) or digest_of(ids, classes)
    splits = tuple(row["split"] for row in rows)
    return Assignment(tuple(ids), splits, groups if any(groups) else None, labels, names, digest)


def _written_digest(path: Path) -> str:
    if path.suffix.lower() == ".parquet":
        return ""
    with path.open(encoding="utf-8-sig") as file:
        line = file.readline()
    return line.removeprefix(SPLIT_COMMENT).strip() if line.startswith(SPLIT_COMMENT) else ""


def assigned(table: LabelledTable, settings: SplitSettings, seed: int) -> Assignment:
    """Split a table by its settings, its own column, or a file.

    The same seed gives the same split whatever the order of the rows. What the file or else the table itself gives is
    used; of a test and a validation split that it lacks, the test split is parted off first.

    Args:
        table: the images.
        settings: shares, and by what.
        seed: of the random numbers.

    Raises:
        RequestError: for a split file of other data, groups that the file or the table itself has in several splits,
            and classes with too few groups to be in each split.
    """
    table = table if settings.file is None else with_splits_of(table, settings.file)
    splits = _parted(table, settings, seed)
    classes = [table.class_names[label] for label in table.labels]
    return Assignment(
        table.ids,
        tuple(splits),
        table.groups,
        tuple(map(int, table.labels)),
        table.class_names,
        digest_of(table.ids, classes),
        (*table.notes, *_notes(table, splits, settings)),
    )


def with_splits_of(table: LabelledTable, file: Path) -> LabelledTable:
    """A table with the splits of a file, and a note on those that the file lacks.

    Args:
        table: the images, all of which must be in the file; of the file, those that the table has left out may be more.
        file: as `write_assignment` writes it.

    Raises:
        RequestError: for a file of other data.
    """
    path = file.expanduser()
    given = read_assignment(path)
    splits = dict(zip(given.ids, given.splits, strict=True))
    classes = {id_: given.class_names[label] for id_, label in zip(given.ids, given.labels, strict=True)}
    other = f"split file '{path}' is of other data than '{table.name}'"
    for id_, label in zip(table.ids, table.labels, strict=True):
        name = table.class_names[label]
        if id_ not in splits:
            raise RequestError(f"{other}: image '{id_}' is not in it ({len(splits):,} are, {len(table):,} in the data)")
        if classes[id_] != name:
            raise RequestError(f"{other}: image '{id_}' is '{classes[id_]}' in it, but '{name}' in the data")
    absent = {id_ for id_ in {*splits} - {*table.ids} if not _is_left_out(id_, table)}
    if absent:
        raise RequestError(f"{other}: image '{min(absent)}' of the file is not in the data")
    if given.digest != digest_of(list(classes), list(classes.values())):
        raise RequestError(f"split file '{path}' is not whole: its digest is not that of its rows; write it again")
    own_splits = tuple(splits[id_] for id_ in table.ids)
    lacking = [split for split in ("val", "test") if split not in own_splits]
    notes = [f"split file '{path}' gives no {split} images: they are parted off its train images" for split in lacking]
    return replace(table, splits=own_splits, notes=(*table.notes, *notes))


def _is_left_out(id_: str, table: LabelledTable) -> bool:
    """Whether an image was skipped; tables may name one that does not exist without its extension."""
    return id_ in table.left_out or id_.rpartition(".")[0] in table.left_out


def _parted(table: LabelledTable, settings: SplitSettings, seed: int) -> list[str]:
    """The splits that the table has; those that it lacks are parted off its training images."""
    splits = np.array(table.splits or ("train",) * len(table), dtype="<U5")
    by_group = settings.by == "group" and table.groups is not None
    if by_group:
        _check_given(table, settings.file)
    if "train" not in splits:
        raise RequestError(f"data '{table.name}' has no training images")
    if settings.singles and table.groups is None:
        raise RequestError(f"data '{table.name}' has no groups; data.split.singles needs to know them")
    order = sorted(range(len(table)), key=table.ids.__getitem__)
    lacking = [split for split in ("test", "val") if split not in splits]
    if by_group:
        _check_enough_groups(table, splits == "train", lacking)
    left = 1.0
    for number, split in enumerate(lacking):
        share = getattr(settings, split) / left
        rows = np.array([row for row in order if splits[row] == "train"])
        labels = table.labels[rows]
        groups = [table.groups[row] for row in rows] if table.groups is not None else []
        if split == "test" and settings.singles:
            taken = _singles(table, labels, groups, share, seed)
        elif by_group:
            taken = part_by_group(labels, groups, share, seed + number, leave=len(lacking) - number)
        else:
            taken = part_by_class(labels, share, seed + number)
        splits[rows[taken]] = split
        left -= share if split == "test" else 0
    if by_group:
        _check_every_class(table, splits)
    return list(map(str, splits))


def part_by_class(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw ``share`` of each class, at least one sample of a class that has two.

    Args:
        labels: class indices, [N].
        share: of each class.
        seed: of the random numbers.

    Returns:
        Ascending positions of those drawn.

    Example:
        >>> len(part_by_class(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0))
        2
    """
    drawn: list[np.ndarray] = [np.empty(0, np.int64)]
    for index in np.unique(labels):
        order = numpy_generator(seed, "split", int(index)).permutation(np.flatnonzero(labels == index))
        drawn.append(order[: max(1, round(share * len(order))) if len(order) > 1 else 0])
    return np.sort(np.concatenate(drawn))


def part_by_group(labels: np.ndarray, groups: Sequence[str], share: float, seed: int, *, leave: int = 1) -> np.ndarray:
    """Draw whole groups, about ``share`` of the samples of each class, at least one group of each class.

    The samples are cut into folds by scikit-learn's ``StratifiedGroupKFold``; of these the one (for shares that are
    no unit fractions, the few) with the shares nearest to those wanted are drawn.

    Args:
        labels: class indices, [N].
        groups: of each sample, [N].
        share: of each class.
        seed: of the random numbers.
        leave: how many groups of each class are left at least, where there is more than that.

    Returns:
        Ascending positions of the samples drawn.
    """
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    classes, counts = np.unique(labels, return_counts=True)
    rest = 1 - share
    if min(share, rest) > 1 / _MOST_FOLDS:
        wanted = Fraction(share).limit_denominator(_MOST_FOLDS).denominator
    else:
        wanted = round(1 / share) if share < rest else min(_MOST_FOLDS**2, round(1 / rest))
    parts = max(2, min(wanted, int(counts.max()), int(codes.max()) + 1))
    number = _folds(labels, codes, parts, derive_seed(seed, "groups") % 2**32)
    table = np.stack([np.bincount(number[labels == index], minlength=parts) for index in classes], axis=1)
    several = list(itertools.combinations(range(parts), max(1, min(parts - 1, round(share * parts)))))
    distance = [np.abs(table[list(each)].sum(0) / counts - share).sum() for each in several]
    drawn = np.isin(number, several[int(np.argmin(distance))])
    group_drawn = np.bincount(codes, drawn) > 0
    sizes = np.bincount(codes)
    for index in classes:  # one with few groups may be in no fold drawn, or in too few others
        members = sorted(np.unique(codes[labels == index]), key=lambda group: (sizes[group], group))
        inside = [group for group in members if group_drawn[group]]
        lacking = leave - (len(members) - len(inside))
        if not inside and len(members) > leave:
            group_drawn[members[0]] = True
        elif lacking > 0:
            group_drawn[inside[: min(lacking, len(inside) - 1)]] = False
    return np.flatnonzero(group_drawn[codes])


def _folds(labels: np.ndarray, codes: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Which fold each sample is in; kept for many groups, for which it takes seconds."""
    check_installed("sklearn", "tables", "a split by group")
    from sklearn import __version__
    from sklearn.model_selection import StratifiedGroupKFold

    key = hashlib.sha256(f"{__version__} {parts} {seed} ".encode() + np.stack([labels, codes]).astype("<i8").tobytes())
    file = cache_folder("splits") / f"{key.hexdigest()[:32]}.npy"
    first = np.unique(codes, return_index=True)[1][codes]
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept: np.ndarray = np.load(file, allow_pickle=False)
        if kept.shape == codes.shape and {*kept} <= {*range(parts)} and np.array_equal(kept, kept[first]):
            return kept
    number = np.empty(len(codes), np.int64)
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings(), task("splitting by group", parts) as work:
        warnings.simplefilter("ignore", UserWarning)  # of classes with few samples, which callers see to
        for fold, (_, tested) in enumerate(folds.split(np.zeros(len(codes)), labels, codes)):
            number[tested] = fold
            work.advance()
    if len({*codes}) > _KEPT:
        with contextlib.suppress(SecateurError), atomic_path(file) as part, part.open("wb") as opened:
            np.save(opened, number)  # a cache that cannot be written is done without
    return number


def _singles(table: LabelledTable, labels: np.ndarray, groups: list[str], share: float, seed: int) -> np.ndarray:
    """Test images as published for HAM10000: drawn class by class from the groups of one image."""
    sizes = Counter(groups)
    alone = np.array([position for position, group in enumerate(groups) if sizes[group] == 1], np.int64)
    for index in np.unique(labels):
        count = int(np.sum(labels[alone] == index))
        if count < 2:
            raise RequestError(
                f"class '{table.class_names[index]}' has {count} group(s) of one image, too few to draw test images "
                "from; leave data.split.singles out"
            )
    drawn: np.ndarray = alone[part_by_class(labels[alone], share, seed)]
    return drawn


def _check_given(table: LabelledTable, file: Path | None) -> None:
    """No group in several of the splits that a file or the table itself gives."""
    of, remedy = "", "correct the split, split again (data.table.split='')"
    if file is not None:
        of, remedy = f"split file '{file}': ", "correct it, split again (without data.split.file)"
    first: dict[str, int] = {}
    for row, (group, split) in enumerate(zip(table.groups or (), table.splits or (), strict=False)):
        other = first.setdefault(group, row)
        if table.splits is not None and table.splits[other] != split:
            raise RequestError(
                f"{of}{table.where[row]}: group '{group}' is in {split}, but in {table.splits[other]} in "
                f"{table.where[other]}; {remedy}, or accept that with data.split.by=image"
            )


def _check_enough_groups(table: LabelledTable, train: np.ndarray, lacking: list[str]) -> None:
    needed = len(lacking) + 1
    few = []
    for index, name in enumerate(table.class_names):
        rows = np.flatnonzero(train & (table.labels == index))
        count = len({(table.groups or table.ids)[row] for row in rows})
        if 0 < count < needed:
            few.append(f"'{name}' has {count} ({len(rows)} images)")
    if few:
        raise RequestError(
            f"data '{table.name}' has too few groups of a class to split into {', '.join(('train', *lacking))}: "
            f"{', '.join(few)}, at least {needed} are needed; leave the class out of the table or give its split there"
        )


def _check_every_class(table: LabelledTable, splits: np.ndarray) -> None:
    """Each class in each split, however its groups lie together with those of others."""
    for index in np.unique(table.labels):
        rows = table.labels == index
        absent = [split for split in SPLITS if not (rows & (splits == split)).any()]
        if absent and table.splits is None:
            count = len({(table.groups or table.ids)[row] for row in np.flatnonzero(rows)})
            raise RequestError(
                f"class '{table.class_names[index]}' has {count} group(s) ({rows.sum()} images), too few to be in "
                f"{absent[0]} with the other classes of these groups; give a split in the table or another seed"
            )


def _notes(table: LabelledTable, splits: Sequence[str], settings: SplitSettings) -> list[str]:
    notes = []
    present = {*zip(splits, table.labels.tolist(), strict=True)}
    for split in SPLITS:
        absent = [table.class_names[index] for index in np.unique(table.labels) if (split, int(index)) not in present]
        if absent:
            notes.append(f"there are no {split} images of {', '.join(absent)}")
    if table.groups is None:
        return notes
    parts: dict[str, set[str]] = {}
    for group, split in zip(table.groups, splits, strict=True):
        parts.setdefault(group, set()).add(split)
    leaking = {group for group, found in parts.items() if len(found) > 1}
    if leaking:
        images = sum(group in leaking for group in table.groups)
        notes.append(
            f"{len(leaking):,} of {len(parts):,} groups ({images:,} images) are in several splits: images of the same "
            "lesion or patient are trained and tested on, and test figures are too high"
        )
    if settings.singles and table.splits is None:
        notes.append("test images are drawn only from groups of one image, as published for HAM10000")
    return notes
