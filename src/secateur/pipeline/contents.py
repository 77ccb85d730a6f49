"""What a network and a data set hold, as a hash: results that are kept depend on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch
from torch import nn

from secateur.data import ImageData
from secateur.surgery.head import head_mask

_FEW = 16
"""Images of each split that are looked at."""


def weights_digest(model: nn.Module) -> str:
    """Hash of weights and structure."""
    digest = hashlib.sha256(f"{model!r} {head_mask(model)}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_digest(data: ImageData) -> str:
    """Hash of labels, classes, normalisation, augmentation, and the first images of each split."""
    about = [asdict(data.normalisation), data.name, data.class_names, repr(data.train.augmentation)]
    digest = hashlib.sha256(json.dumps(about).encode())
    for split in (data.train, data.val, data.test):
        digest.update(len(split).to_bytes(8, "little") + split.labels.tobytes())
        if len(split):
            few = split.replace(augmentation=None).batch(range(min(_FEW, len(split))))[0]
            digest.update(few.numpy().tobytes())
    return digest.hexdigest()
