"""Images and labels in one ``.npz`` file in the MedMNIST layout, with a manifest of their origin.

The arrays are ``train_images``, ``train_labels`` and the same for ``val`` and ``test`` (images uint8 [N, H, W] or
[N, H, W, 3], labels one class index per image), optionally ``class_names``. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.core.progress import track
from secateur.data.catalogue import NAMED
from secateur.data.checks import UNREADABLE, check_archive
from secateur.data.labels import class_labels
from secateur.data.lesions import DIAGNOSES

Split = tuple[Any, np.ndarray]
"""Images (uint8 [N, H, W, C], or a list of paths) and labels [N]."""
Splits = dict[str, Split]

MANIFEST = "manifest"
"""Name of an array of one text, the manifest as JSON; other readers see one more array."""
MAX_CLASSES = 100_000


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Hex SHA-256 of arrays: their names, types, shapes and values, independent of the file.

    Example:
        >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros((2, 1))})
        False
    """
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hashed.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        hashed.update(array.data if array.dtype.kind != "U" else " ".join(map(repr, array.tolist())).encode())
    return hashed.hexdigest()


def write_archive(path: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Write a ``.npz`` whole or not at all; the same arrays give the same bytes.

    It is not compressed: that saves a twelfth of a set of photographs, and opening takes ten times as long.

    Args:
        path: path of the file.
        arrays: arrays by their names in MedMNIST.
        manifest: description of the file; the ``sha256`` of the arrays is added.
    """
    manifest = {**manifest, "sha256": digest(arrays)}
    every = {**arrays, MANIFEST: np.array(json.dumps(manifest, ensure_ascii=False))}
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in track(list(every.items()), f"writing {path.name}"):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz``.

    Raises:
        RequestError: for a missing or broken file, or one that is not in MedMNIST layout.
    """
    check_archive(path)
    try:
        # opened here, because np.load leaves a broken archive open
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            return {name: arrays[name] for name in arrays.files if name != MANIFEST}
    except UNREADABLE as error:
        raise RequestError(f"'{path}' cannot be read as .npz without pickle ({error})") from error


def manifest_of(path: Path) -> dict[str, Any] | None:
    """The manifest of a file; None for a file that `write_archive` did not write, or a broken one."""
    try:
        with path.open("rb") as file:
            manifest = json.loads(str(np.load(file, allow_pickle=False)[MANIFEST]))
    except (*UNREADABLE, KeyError, IndexError):
        return None
    return manifest if isinstance(manifest, dict) else None


def is_whole(path: Path) -> bool:
    """Whether a file is unchanged since `write_archive` wrote it, by the checksum of its arrays."""
    manifest = manifest_of(path)
    if manifest is None:
        return False
    try:
        return bool(digest(read_arrays(path)) == manifest.get("sha256"))
    except RequestError:
        return False


def read_splits(path: Path) -> tuple[Splits, tuple[str, ...]]:
    """The three splits of a ``.npz`` and the names of its classes.

    Raises:
        RequestError: for a file that cannot be read, or images and labels of other kinds.
    """
    arrays = read_arrays(path)
    splits: Splits = {}
    for split in ("train", "val", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        splits[split] = _checked(images, labels, f"'{split}_images' in '{path}'", f"'{split}_labels' in '{path}'")
    count = 1 + max((int(labels.max()) for _, labels in splits.values() if len(labels)), default=0)
    if count > MAX_CLASSES:
        raise RequestError(f"'{path}' has labels up to {count - 1}, more than {MAX_CLASSES:,} classes")
    names = tuple(str(n) for n in arrays["class_names"]) if "class_names" in arrays else ()
    if not names and path.stem == "cifar10" and count == 10:
        names = NAMED["cifar10"].class_names
    if not names and path.stem.lower().startswith("dermamnist") and count == len(DIAGNOSES):
        names = tuple(DIAGNOSES)
    return splits, names or tuple(map(str, range(count)))


def _checked(images: np.ndarray, labels: np.ndarray, where: str, where_labels: str) -> Split:
    """One split in our shapes: images [N, H, W, C] and labels [N]."""
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise RequestError(
            f"{where} is {images.dtype} of shape {images.shape}; expected uint8 [N, H, W] or [N, H, W, 3]"
        )
    classes = class_labels(labels, where_labels)
    if len(images) != len(classes):
        raise RequestError(f"{where} has {len(images)} images but {len(classes)} labels")
    return images, classes
