"""Networks for some classes, and random subsets of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from secateur.core.randomness import numpy_generator
from secateur.pipeline.compare_settings import Head
from secateur.surgery import mask_head, slice_head


def with_head(model: nn.Module, classes: Sequence[int], head: Head, example: torch.Tensor) -> nn.Module:
    """The network for some classes: itself, or a copy whose head is sliced or masked."""
    if head == "slice":
        return slice_head(model, classes, example)
    return mask_head(model, classes) if head == "mask" else model


def drawn(split_size: int, limit: int | None, *purpose: object) -> np.ndarray:
    """Positions of at most ``limit`` randomly drawn samples, in order."""
    if limit is None or limit >= split_size:
        return np.arange(split_size)
    return np.sort(numpy_generator(0, *purpose).permutation(split_size)[:limit])
