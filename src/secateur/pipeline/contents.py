"""Hashes of the content of networks and data sets, on which stored results depend."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.data import ImageData
from secateur.surgery.head import head_mask

_LARGEST = 4 * 2**30
"""Largest number of pixel bytes that are hashed; of larger splits, only every n-th image is."""


def weights_digest(model: nn.Module) -> str:
    """Hash of a network's weights and structure."""
    digest = hashlib.sha256(f"{model!r} {head_mask(model)}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_digest(data: ImageData) -> str:
    """Hash of labels, classes, normalisation, augmentation, size, the split, and images.

    Images in memory and decoded ones are hashed by their pixels; files by their sizes and the first one's pixels.
    """
    assignment = None if data.assignment is None else [data.assignment.digest, data.assignment.splits]
    resize = None if data.resize is None else data.resize.model_dump()
    about = [asdict(data.normalisation), data.name, data.class_names, repr(data.train.augmentation), resize, assignment]
    digest = hashlib.sha256(json.dumps(about).encode())
    for split in (data.train, data.val, data.test):
        digest.update(len(split).to_bytes(8, "little") + split.labels.tobytes())
        if len(split):
            digest.update(split.replace(augmentation=None).batch([0])[0].numpy().tobytes())
            _add_images(digest, split.images)
    return digest.hexdigest()


def _add_images(digest: Any, images: Any) -> None:
    if isinstance(images[0], Path):
        digest.update(np.array([path.stat().st_size for path in images], np.int64).tobytes())
        return
    step = max(1, len(images) * np.asarray(images[0]).nbytes // _LARGEST)
    for row in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images[row]).data)
