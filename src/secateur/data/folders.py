"""Reads the layout of an image folder from its names only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from secateur.core.errors import RequestError
from secateur.data.table import LabelledTable

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".dcm", ".dicom"}
)
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Layout:
    """Folders of the splits, each with a folder per class.

    Attributes:
        train: holds the class folders; the root itself where there are no splits.
        val: None where there is none.
        test: None where there is none.
        class_names: of the training images, sorted.
    """

    train: Path
    val: Path | None
    test: Path | None
    class_names: tuple[str, ...]


def layout_of(root: Path) -> Layout:
    """Read the folder names of ``root``; no image is opened.

    Raises:
        RequestError: without training images, without class folders, for a class folder without image files, or for
            classes that only the other splits have.
    """
    folders = {k: next((root / n for n in v if (root / n).is_dir()), None) for k, v in _SPLITS.items()}
    if folders["train"] is None and (folders["val"] or folders["test"]):
        raise RequestError(f"'{root}' has {(folders['val'] or folders['test'])!s} but no train folder")
    base = folders["train"] or root
    names = _class_folders(base)
    if not names:
        raise RequestError(f"'{base}' has no class folders; expected {root}/class/*.jpg or {root}/train/class/*.jpg")
    empty = [name for name in names if next(image_files(base / name), None) is None]
    if empty:
        raise RequestError(f"'{base}' has no usable images in class folder(s) {', '.join(empty)}; fill or remove them")
    for folder in filter(None, (folders["val"], folders["test"])):
        untrained = sorted({*_class_folders(folder)} - {*names})
        if untrained:
            raise RequestError(f"'{folder}' has classes that the training images lack: {', '.join(untrained)}")
    return Layout(base, folders["val"], folders["test"], names)


def image_files(folder: Path) -> Iterator[Path]:
    """Files with names of images, in any order."""
    return (p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def read_folder(root: Path) -> LabelledTable:
    """The images of a folder and their labels, by their names only.

    Where there are no test images, those for validation are used as such: images kept out of training are for the final
    figures, and others are used for selecting the best epoch.

    Raises:
        RequestError: for what `layout_of` refuses.
    """
    import numpy as np

    layout = layout_of(root)
    parts = [("train", layout.train), ("val", layout.val), ("test", layout.test)]
    files = [
        (split, index, path)
        for split, folder in parts
        if folder is not None
        for index, name in enumerate(layout.class_names)
        for path in sorted(image_files(folder / name))
    ]
    notes = []
    given = {split for split, _, _ in files}
    if given == {"train", "val"}:
        notes.append(f"'{root}' has no test images: those of '{layout.val}' are taken, and others for validation")
        files = [("test" if split == "val" else split, index, path) for split, index, path in files]
    ids = tuple(path.relative_to(root).as_posix() for _, _, path in files)
    return LabelledTable(
        root.resolve().name,
        ids,
        tuple(path for _, _, path in files),
        np.array([index for _, index, _ in files], np.int64),
        layout.class_names,
        splits=tuple(split for split, _, _ in files) if len(given) > 1 else None,
        where=ids,
        notes=tuple(notes),
    )


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
