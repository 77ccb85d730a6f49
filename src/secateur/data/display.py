"""Shows data sets in one line, and in notebooks: classes with their numbers of samples, a row of images."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch

from secateur.core.html import image_html, table_html

SHOWN = 16
"""Largest number of images in a row."""

_SIDE, _GAP = 64, 2  # pixels


def shape_text(shape: Sequence[object]) -> str:
    """A shape as PyTorch writes it.

    Example:
        >>> shape_text((3, 32, 32))
        '[3, 32, 32]'
    """
    return f"[{', '.join(map(str, shape))}]"


def classes_text(labels: np.ndarray) -> str:
    """The number of classes, and of samples in them, in words.

    Example:
        >>> classes_text(np.array([0, 0, 4, 4])), classes_text(np.array([0, 1, 1]))
        ('2 classes × 2', '2 classes with 1 to 2')
        >>> classes_text(np.array([3, 3]))
        '1 class × 2'
    """
    counts = np.unique(labels, return_counts=True)[1]
    if not len(counts):
        return "no classes"
    kinds = "1 class" if len(counts) == 1 else f"{len(counts)} classes"
    if counts.min() == counts.max():
        return f"{kinds} × {counts[0]}"
    return f"{kinds} with {counts.min()} to {counts.max()}"


def page(title: str, labels: np.ndarray, names: Sequence[str], pictures: torch.Tensor | None) -> str:
    """HTML for a notebook.

    Args:
        title: one line.
        labels: class indices, [N].
        names: names of the classes by index; empty where they have none.
        pictures: [N, C, H, W] in [0, 1], of which at most `SHOWN` are drawn; None: no images.
    """
    counts = zip(*np.unique(labels, return_counts=True), strict=True)
    rows = [(names[index] if index < len(names) else int(index), int(count)) for index, count in counts]
    row = "" if pictures is None or not len(pictures) else f"<div>{image_html(_row(pictures), title)}</div>"
    return row + table_html(("class", "samples"), rows, title)


def spread(count: int) -> list[int]:
    """At most `SHOWN` positions of ``count``, evenly spaced.

    Example:
        >>> spread(3), len(spread(100))
        ([0, 1, 2], 16)
    """
    return sorted({int(i) for i in np.linspace(0, count - 1, min(SHOWN, count))}) if count else []


def _row(pictures: torch.Tensor) -> bytes:
    """A PNG of images side by side, with small ones enlarged without smoothing."""
    from PIL import Image

    levels = (pictures[:SHOWN].float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    height, width = levels.shape[1:3]
    high, wide = (max(1, round(side * _SIDE / max(height, width))) for side in (height, width))
    kind = Image.Resampling.NEAREST if max(height, width) <= _SIDE else Image.Resampling.BILINEAR
    strip = Image.new("RGB", (len(levels) * (wide + _GAP) - _GAP, high), "white")
    for position, image in enumerate(levels):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
        strip.paste(picture.resize((wide, high), kind), (position * (wide + _GAP), 0))
    file = io.BytesIO()
    strip.save(file, "PNG")
    return file.getvalue()
