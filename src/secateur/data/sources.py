"""Opens labelled images: folders, tables, MedMNIST-layout files, torchvision, fetched data sets."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.files import cache_folder
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import numpy_generator
from secateur.data.archive import Split, Splits, read_splits
from secateur.data.birds import find_birds, read_birds
from secateur.data.catalogue import NAMED, fetched_file
from secateur.data.checks import check_several, check_source, is_table
from secateur.data.classes import class_indices
from secateur.data.dataset import Augmentation, ImageData, LabelledImages, Normalisation, samples_of
from secateur.data.decoded import Decoded, decoded_images
from secateur.data.digits import read_mnist5k
from secateur.data.folders import read_folder
from secateur.data.hugging_face import read_hugging_face
from secateur.data.images import read_image
from secateur.data.lesions import find_lesions, read_lesions
from secateur.data.manifest import read_manifest
from secateur.data.mapped import MappedImages, picked_images
from secateur.data.settings import DataSettings
from secateur.data.splits import Assignment, assigned, part_by_class, read_assignment
from secateur.data.table import SPLITS, LabelledTable

_CACHED = 8 << 30
"""Bytes of resized images that ``cache: auto`` keeps at most."""


@dataclass(frozen=True)
class _Opened:
    """What a source gave."""

    splits: Splits
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    assignment: Assignment | None = None


@reported("opening the data")
def open_data(settings: DataSettings | str | Path, *, progress: ProgressOption = True) -> ImageData:
    """Open a data set with its splits.

    With ``classes``, normalisation is the same as without them (networks were trained on all), and ``limit`` counts the
    images of these classes.

    Args:
        settings: the settings, or only the source.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Returns:
        The splits, with class names and normalisation.

    Raises:
        RequestError: see `check_source`; for a broken file, an empty split, fewer than two classes, or a
            chosen class without images in a split.

    Example:
        >>> open_data("cifar01.npz")
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: data file 'cifar01.npz' does not exist...
    """
    settings = _settings(settings)
    check_source(settings)
    transform = _augmentation(settings)
    opened = _open(settings)
    splits, class_names = opened.splits, opened.class_names
    if opened.assignment is None and not len(splits["val"][1]) and len(splits["train"][1]):
        splits["train"], splits["val"] = _split_two(splits["train"], 0.1, settings.seed)
    limited = _limited(splits, settings)
    _check_enough(limited, settings.source)
    normalisation = _normalisation(_counts(*limited["train"], settings))
    if settings.classes is not None:
        limited = _limited(_only(splits, class_names, settings), settings)
        _check_enough(limited, settings.source)
    made = {
        name: LabelledImages(
            images,
            labels,
            class_names,
            normalisation,
            settings.resize,
            transform if name == "train" else None,
            settings.window,
        )
        for name, (images, labels) in limited.items()
    }
    name = Path(settings.source.removeprefix("hf:")).expanduser().resolve().stem
    return ImageData(name, made["train"], made["val"], made["test"], opened.skipped, opened.assignment)


def read_table(settings: DataSettings) -> LabelledTable:
    """The images of a folder, a table, HAM10000, or a data set of the package datasets, with their labels.

    No image is opened, and nothing is split.

    Args:
        settings: ``source``, ``table``, ``on_bad_sample`` and ``split.by`` count.

    Raises:
        RequestError: for what is no such source, and the first row that cannot be used, unless such are skipped.
    """
    check_source(settings, sized=True)
    path = Path(settings.source).expanduser()
    if settings.source.startswith("hf:"):
        return read_hugging_face(settings)
    if not is_table(settings.source):
        raise RequestError(f"data '{settings.source}' is no table or folder of image files")
    lesions, birds = find_lesions(path), find_birds(path)
    if lesions is not None:
        return read_lesions(lesions, settings)
    if birds is not None:
        return read_birds(birds, settings)
    return read_folder(path) if path.is_dir() else read_manifest(path, settings)


def _settings(given: object) -> DataSettings:
    if isinstance(given, DataSettings):
        return given
    if isinstance(given, str | Path):
        return DataSettings(source=str(given))
    raise RequestError(
        f"open_data takes a source ('cifar10', 'file.npz', a folder) or DataSettings, got {type(given).__name__}; data "
        "sets of PyTorch need no opening: give them to ReferenceSet.sample, loader or fit"
    )


def _augmentation(settings: DataSettings) -> Augmentation | None:
    if settings.augmentation == "none":
        return None
    from secateur.data.augmentation import augmentation  # loads torchvision

    return augmentation(settings.augmentation, settings.resize)


def _open(settings: DataSettings) -> _Opened:
    source = settings.source
    if is_table(source):
        return _tabled(settings)
    if source in NAMED:
        return _Opened(*_named(source, settings.seed))
    if source.startswith("torchvision/"):
        return _Opened(*_torchvision(source.removeprefix("torchvision/"), settings))
    return _Opened(*read_splits(Path(source).expanduser()))


def _named(name: str, seed: int) -> tuple[Splits, tuple[str, ...]]:
    file = fetched_file(name)
    try:
        if name == "mnist5k":
            return read_mnist5k(file, seed), NAMED[name].class_names
        return read_splits(file)
    except RequestError as error:
        raise RequestError(f"{error}; fetch it again: secateur data fetch {name}") from error


def _tabled(settings: DataSettings) -> _Opened:
    table = read_table(settings)
    # what cannot be split is refused before hours of work; a file may lack images that an earlier run could not read
    file = settings.split.file if settings.on_bad_sample == "skip" else None
    planned = assigned(table, settings.split, settings.seed) if file is None else read_assignment(file.expanduser())
    decoded = _decoded(table, settings)
    good, skipped = (decoded.good, decoded.skipped) if decoded is not None else _readable(table, settings)
    if skipped:
        table = table.subset(np.flatnonzero(good), skipped)
    assignment = assigned(table, settings.split, settings.seed) if file is not None or skipped else planned
    emptied = _trained(planned) - _trained(assignment)
    if emptied:
        named = ", ".join(sorted(emptied))
        raise RequestError(f"data '{settings.source}' has no usable training images of class(es) {named}")
    images = list(table.paths) if decoded is None else MappedImages(decoded.images, resized=settings.resize)
    whole_split = (images, table.labels)
    given = np.array(assignment.splits)
    splits = {split: _pick(whole_split, np.flatnonzero(given == split)) for split in SPLITS}
    return _Opened(splits, table.class_names, table.skipped, assignment)


def _trained(assignment: Assignment) -> set[str]:
    """Classes that there are training images of."""
    labelled = zip(assignment.labels, assignment.splits, strict=True)
    return {assignment.class_names[label] for label, split in labelled if split == "train"}


def _decoded(table: LabelledTable, settings: DataSettings) -> Decoded | None:
    """The images, decoded and resized once and for all; None where they are read when they are asked for."""
    resize, channels = settings.resize, settings.channels or 3
    reason = None
    if settings.cache == "never":
        reason = "data.cache=never"
    elif resize is None:
        reason = "images of files have no common size; give one, e.g. --set data.resize=224"
    elif settings.augmentation == "resized-crop-flip":
        reason = "augmentation 'resized-crop-flip' takes its windows from whole images"
    setting = "data.table.crop=true" if table.boxes is not None else "data.cache=always"
    if reason is not None and (settings.cache == "always" or table.boxes is not None):
        raise RequestError(f"{setting} cannot be met: {reason}")
    if resize is None or reason is not None:
        return None
    # for image folders the paths are kept, which people read
    if settings.cache == "auto" and not (_where(table) and _fits(len(table), resize.side, channels)):
        if table.boxes is not None:
            raise RequestError(f"{setting} cannot be met: resized images do not fit in '{cache_folder('images')}'")
        return None
    return decoded_images(
        table.paths,
        resize,
        channels,
        on_bad=settings.on_bad_sample,
        where=_where(table),
        window=settings.window,
        boxes=table.boxes,
        workers=settings.workers,
    )


def _fits(count: int, side: int, channels: int) -> bool:
    """Whether resized images are few enough to be kept, in a folder that can be written."""
    folder = cache_folder("images")
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    size = count * side * side * channels
    return size <= _CACHED and 2 * size <= shutil.disk_usage(folder).free and os.access(folder, os.W_OK)


def _where(table: LabelledTable) -> Sequence[str]:
    """Where rows are, for messages; empty for image folders: that is the name of the file, which they have anyway."""
    return () if table.where == table.ids else table.where


def _readable(table: LabelledTable, settings: DataSettings) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which images can be read, and what is wrong with the others."""
    good = np.ones(len(table), bool)
    skipped = []
    for row, path in enumerate(track(table.paths, "checking images")):
        try:
            read_image(path, settings.channels or 3, window=settings.window)
        except RequestError as error:
            line = f"{table.where[row]}: {error}" if _where(table) else str(error)
            if settings.on_bad_sample == "fail":
                raise RequestError(line) from error
            good[row] = False
            skipped.append(line)
    return good, tuple(skipped)


def _torchvision(name: str, settings: DataSettings) -> tuple[Splits, tuple[str, ...]]:
    from secateur.data.torchvision_sets import read_torchvision

    root = (settings.root or Path()).expanduser()
    parts, class_names = read_torchvision(name, root, settings.download)
    return {**parts, "val": _pick(parts["train"], np.empty(0, np.int64))}, class_names


def _pick(split: Split, indices: np.ndarray) -> Split:
    images, labels = split
    return picked_images(images, indices), labels[indices]


def _split_two(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Part off ``share`` of each class, at least one sample of a class that has two."""
    parted = part_by_class(split[1], share, seed)
    rest = np.setdiff1d(np.arange(len(split[1])), parted)
    return _pick(split, rest), _pick(split, parted)


def _limited(splits: Splits, settings: DataSettings) -> Splits:
    limit = settings.limit
    if limit is None:
        return splits
    limited = {}
    for name, split in splits.items():
        order = numpy_generator(settings.seed, "limit").permutation(len(split[1]))
        limited[name] = split if len(order) <= limit else _pick(split, np.sort(order[:limit]))
    return limited


def _only(splits: Splits, class_names: tuple[str, ...], settings: DataSettings) -> Splits:
    """The images of the chosen classes; a split that has none of any class stays empty."""
    indices = class_indices(settings.classes or (), class_names)
    check_several(indices, class_names)
    restricted = {}
    for name, split in splits.items():
        where = f"the {name} split of '{settings.source}'"
        restricted[name] = _pick(split, samples_of(split[1], indices, class_names, where)) if len(split[1]) else split
    return restricted


def _check_enough(splits: Splits, source: str) -> None:
    for name in ("train", "test"):
        if len(splits[name][1]) == 0:
            raise RequestError(f"data '{source}' has no {name} images")
    if len(np.unique(splits["train"][1])) < 2:
        raise RequestError(f"data '{source}' has training images of one class only; at least two are needed")


def _counts(images: Any, labels: np.ndarray, settings: DataSettings) -> np.ndarray:
    """How often each value occurs per channel, [C, 256], in 5,000 random training images, or 500 files.

    Files that were decoded before count as files: whether they are kept must not change results.
    """
    most = 5000 if isinstance(images, np.ndarray) else 500
    sample = np.sort(numpy_generator(0, "normalisation").permutation(len(labels))[:most])
    channels = settings.channels
    counts = np.zeros((), np.int64)
    if isinstance(images, np.ndarray | MappedImages):
        stored = images.shape[-1]
        if channels is not None and channels != stored and not (channels == 3 and stored == 1):
            raise RequestError(
                f"data '{settings.source}' has {stored} channel(s), cannot be read with {channels}; "
                "leave data.channels out"
            )
        for start in range(0, len(sample), 64):
            counts = counts + _histogram(images[sample[start : start + 64]].reshape(-1, stored).T)
        return np.repeat(counts, 3, axis=0) if channels == 3 and stored == 1 else counts
    for i in sample:
        image = read_image(images[i], channels or 3, settings.resize, settings.window)
        counts = counts + _histogram(image.flatten(1).numpy())
    return counts


def _normalisation(counts: np.ndarray) -> Normalisation:
    """Mean and standard deviation per channel, in [0, 1]."""
    levels = np.arange(256) / 255
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    mean = shares @ levels
    std = np.maximum(np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0)), 1e-3)
    return Normalisation(tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs per channel, uint8 [C, pixels] to [C, 256]: exact, small at any size."""
    return np.stack([np.bincount(channel, minlength=256) for channel in pixels])
