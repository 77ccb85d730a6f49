"""Data sets as torchvision reads and downloads them; torchvision is loaded when one is asked for."""

from __future__ import annotations

import tarfile
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError, SecateurError
from secateur.data.archive import Split
from secateur.data.checks import absent

_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
_BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
_BY_VAL = {"train": {"split": "train"}, "test": {"split": "val"}}

_CLASSES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "cifar10": ("CIFAR10", _BY_FLAG),
    "cifar100": ("CIFAR100", _BY_FLAG),
    "fashion-mnist": ("FashionMNIST", _BY_FLAG),
    "gtsrb": ("GTSRB", _BY_NAME),
    "imagenette": ("Imagenette", _BY_VAL),
    "imagenet": ("ImageNet", _BY_VAL),
}
"""Class in `torchvision.datasets`, and its arguments for the training and the test images."""


def read_torchvision(name: str, root: Path, download: bool = False) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Training and test images, and the names of the classes.

    Args:
        name: one of `secateur.data.settings.TORCHVISION_NAMES`.
        root: folder that torchvision keeps the data set in.
        download: let torchvision fetch what is missing.

    Raises:
        RequestError: when the data are not in ``root``, or not whole.
        SecateurError: when the download fails.
    """
    from torchvision import datasets

    factory_name, arguments = _CLASSES[name]
    factory = getattr(datasets, factory_name)
    more = {} if name == "imagenet" else {"download": download}
    parts: dict[str, Split] = {}
    class_names: tuple[str, ...] = ()
    for split, own in arguments.items():
        try:
            dataset = factory(root=str(root), **own, **more)
        except (RuntimeError, OSError, HTTPException, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if more.get("download"):
                raise SecateurError(
                    f"torchvision could not download {name} into '{root}' ({reason[:200]}); "
                    "look at the network connection, or put the files there"
                ) from error
            raise RequestError(absent(name, root, reason[:200])) from error
        parts[split] = _split_of(dataset)
        class_names = _unique(getattr(dataset, "classes", None) or ())
    count = 1 + int(parts["train"][1].max())
    return parts, class_names or tuple(str(i) for i in range(count))


def _split_of(dataset: Any) -> Split:
    if hasattr(dataset, "data"):
        pixels = np.asarray(dataset.data)
        return pixels[..., None] if pixels.ndim == 3 else pixels, np.asarray(dataset.targets, np.int64)
    samples = getattr(dataset, "samples", None) or dataset._samples
    return [Path(p) for p, _ in samples], np.array([label for _, label in samples], np.int64)


def _unique(classes: Any) -> tuple[str, ...]:
    """One name per class: ImageNet has several, and two cranes and two maillots."""
    plain = [c if isinstance(c, str) else c[0] for c in classes]
    return tuple(n if plain.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(plain))
