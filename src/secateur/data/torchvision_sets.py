"""Reads data sets with torchvision, which downloads them; torchvision is loaded when one is opened."""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import zipfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError, SecateurError
from secateur.core.progress import task
from secateur.data.archive import Split
from secateur.data.checks import absent

_PATIENCE = 60.0  # seconds without a byte
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
            with _quiet_download(f"downloading {name} by torchvision" if more.get("download") else None):
                dataset = factory(root=str(root), **own, **more)
        except (RuntimeError, OSError, HTTPException, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if more.get("download"):
                raise SecateurError(
                    f"torchvision could not download {name} ({reason[:200]}); look at the network connection and try "
                    "again"
                ) from error
            raise RequestError(absent(name, root, reason[:200])) from error
        parts[split] = _split_of(dataset)
        class_names = _unique(getattr(dataset, "classes", None) or ())
    count = 1 + int(parts["train"][1].max())
    return parts, class_names or tuple(str(i) for i in range(count))


@contextlib.contextmanager
def _quiet_download(description: str | None) -> Iterator[None]:
    """Progress shown as everywhere, not by torchvision's own bars; a server that says nothing for a minute is left."""
    if description is None:
        yield
        return
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        with task(description), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


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
