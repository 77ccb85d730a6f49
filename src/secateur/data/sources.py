"""Where labelled images come from: folders, MedMNIST-layout files, torchvision, data sets that were fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import numpy_generator
from secateur.data.archive import Split, Splits, read_splits
from secateur.data.catalogue import NAMED, fetched_file
from secateur.data.checks import check_several, check_source
from secateur.data.classes import class_indices
from secateur.data.dataset import Augmentation, ImageData, LabelledImages, Normalisation, samples_of
from secateur.data.digits import read_mnist5k
from secateur.data.folders import image_files, layout_of
from secateur.data.images import read_image
from secateur.data.settings import DataSettings


@reported("opening the data")
def open_data(settings: DataSettings | str | Path, *, progress: ProgressOption = True) -> ImageData:
    """Open a data set with its splits.

    With ``classes``, normalisation is what it is without them (networks were trained on all), and ``limit`` counts the
    images of these classes.

    Args:
        settings: or the source alone.
        progress: who is told of it, see `secateur.core.progress.ProgressOption`.

    Returns:
        The splits, with class names and normalisation.

    Raises:
        RequestError: for all that `check_source` refuses, a broken file, an empty split, fewer than two classes, or a
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
    splits, class_names, skipped = _read(settings)
    if not len(splits["val"][1]) and len(splits["train"][1]):
        splits["train"], splits["val"] = _split_two(splits["train"], 0.1, settings.seed)
    limited = _limited(splits, settings)
    _check_enough(limited, settings.source)
    normalisation = _measure(*limited["train"], settings)
    if settings.classes is not None:
        limited = _limited(_only(splits, class_names, settings), settings)
        _check_enough(limited, settings.source)
    made = {
        name: LabelledImages(
            images, labels, class_names, normalisation, settings.resize, transform if name == "train" else None
        )
        for name, (images, labels) in limited.items()
    }
    name = Path(settings.source).expanduser().resolve().stem
    return ImageData(name, made["train"], made["val"], made["test"], tuple(skipped))


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


def _read(settings: DataSettings) -> tuple[Splits, tuple[str, ...], list[str]]:
    source = settings.source
    path = Path(source).expanduser()
    if source in NAMED:
        return *_named(source, settings.seed), []
    if source.startswith("torchvision/"):
        return *_torchvision(source.removeprefix("torchvision/"), settings), []
    return _folder(path, settings) if path.is_dir() else (*read_splits(path), [])


def _named(name: str, seed: int) -> tuple[Splits, tuple[str, ...]]:
    file = fetched_file(name)
    try:
        if name == "mnist5k":
            return read_mnist5k(file, seed), NAMED[name].class_names
        return read_splits(file)
    except RequestError as error:
        raise RequestError(f"{error}; fetch it again: secateur data fetch {name}") from error


def _folder(root: Path, settings: DataSettings) -> tuple[Splits, tuple[str, ...], list[str]]:
    layout = layout_of(root)
    names = layout.class_names
    skipped: list[str] = []
    train = _list_images(layout.train, names, settings, skipped)
    empty = [name for i, name in enumerate(names) if not (train[1] == i).any()]
    if empty:
        raise RequestError(
            f"'{layout.train}' has no usable images in class folder(s) {', '.join(empty)}; fill or remove them"
        )
    val, test = (
        ([], np.empty(0, np.int64)) if folder is None else _list_images(folder, names, settings, skipped)
        for folder in (layout.val, layout.test)
    )
    if not len(test[1]):
        # the images kept out of training are for the final figure; choosing the best epoch takes others
        test, val = val, ([], np.empty(0, np.int64))
    if not len(test[1]):
        train, test = _split_two(train, 0.2, settings.seed)
        train, val = _split_two(train, 0.125, settings.seed + 1)
    return {"train": train, "val": val, "test": test}, names, skipped


def _list_images(folder: Path, class_names: tuple[str, ...], settings: DataSettings, skipped: list[str]) -> Split:
    """Paths and labels of the readable images; what is wrong with the others is added to ``skipped``."""
    files = [(path, index) for index, name in enumerate(class_names) for path in sorted(image_files(folder / name))]
    kept = []
    for path, index in track(files, f"checking {folder.name}"):
        try:
            read_image(path, settings.channels or 3)
            kept.append((path, index))
        except RequestError as error:
            if settings.on_bad_sample == "fail":
                raise
            skipped.append(str(error))
    return [path for path, _ in kept], np.array([index for _, index in kept], np.int64)


def _torchvision(name: str, settings: DataSettings) -> tuple[Splits, tuple[str, ...]]:
    from secateur.data.torchvision_sets import read_torchvision

    root = (settings.root or Path()).expanduser()
    parts, class_names = read_torchvision(name, root, settings.download)
    return {**parts, "val": _pick(parts["train"], np.empty(0, np.int64))}, class_names


def _pick(split: Split, indices: np.ndarray) -> Split:
    images, labels = split
    chosen = images[indices] if isinstance(images, np.ndarray) else [images[i] for i in indices]
    return chosen, labels[indices]


def _split_two(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Part off ``share`` of each class, at least one sample of a class that has two."""
    rest: list[np.ndarray] = []
    parted: list[np.ndarray] = []
    for index in np.unique(split[1]):
        order = numpy_generator(seed, "split", int(index)).permutation(np.flatnonzero(split[1] == index))
        cut = max(1, round(share * len(order))) if len(order) > 1 else 0
        parted.append(order[:cut])
        rest.append(order[cut:])
    return _pick(split, np.sort(np.concatenate(rest))), _pick(split, np.sort(np.concatenate(parted)))


def _limited(splits: Splits, settings: DataSettings) -> Splits:
    limit = settings.limit
    if limit is None:
        return splits
    found = {}
    for name, split in splits.items():
        order = numpy_generator(settings.seed, "limit").permutation(len(split[1]))
        found[name] = split if len(order) <= limit else _pick(split, np.sort(order[:limit]))
    return found


def _only(splits: Splits, class_names: tuple[str, ...], settings: DataSettings) -> Splits:
    """The images of the chosen classes; a split that has none of any class stays empty."""
    chosen = class_indices(settings.classes or (), class_names)
    check_several(chosen, class_names)
    found = {}
    for name, split in splits.items():
        where = f"the {name} split of '{settings.source}'"
        found[name] = _pick(split, samples_of(split[1], chosen, class_names, where)) if len(split[1]) else split
    return found


def _check_enough(splits: Splits, source: str) -> None:
    for name in ("train", "test"):
        if len(splits[name][1]) == 0:
            raise RequestError(f"data '{source}' has no {name} images")
    if len(np.unique(splits["train"][1])) < 2:
        raise RequestError(f"data '{source}' has training images of one class only; at least two are needed")


def _measure(images: Any, labels: np.ndarray, settings: DataSettings) -> Normalisation:
    """Mean and standard deviation per channel of at most 5,000 training images, in [0, 1]."""
    sample = np.sort(numpy_generator(0, "normalisation").permutation(len(labels))[:5000])
    channels = settings.channels
    counts: np.ndarray | int = 0
    if isinstance(images, np.ndarray):
        stored = images.shape[-1]
        if channels is not None and channels != stored and not (channels == 3 and stored == 1):
            raise RequestError(
                f"data '{settings.source}' has {stored} channel(s), cannot be read with {channels}; "
                "leave data.channels out"
            )
        for start in range(0, len(sample), 64):
            counts = counts + _histogram(images[sample[start : start + 64]].reshape(-1, stored).T)
        counts = np.repeat(counts, 3, axis=0) if channels == 3 and stored == 1 else counts
    else:
        for i in sample[:500]:
            counts = counts + _histogram(read_image(images[i], channels or 3, settings.resize).flatten(1).numpy())
    levels = np.arange(256) / 255
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    mean = shares @ levels
    std = np.maximum(np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0)), 1e-3)
    return Normalisation(tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs per channel, uint8 [C, pixels] to [C, 256]: exact, small at any size."""
    return np.stack([np.bincount(channel, minlength=256) for channel in pixels])
