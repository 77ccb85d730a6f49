"""Where networks look at the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from secateur.data import LabelledImages
from secateur.pipeline.explanation import explain, first_of_classes
from secateur.reports import heatmap_png, image_png


def picture_rows(
    before: nn.Module,
    after: nn.Module,
    images: LabelledImages,
    positions: Sequence[int],
    count: int,
    keys: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Relevance of the true class, image by image.

    Args:
        before: the unpruned network.
        after: the network that rows are about; the unpruned one itself has the images in its rows.
        images: some of a split.
        positions: of these in the split.
        count: how many of them, spread over the classes.
        keys: columns of all rows.
    """
    if not count:
        return []
    same = before is after
    found = explain([before] if same else [before, after], images, first_of_classes(images, count))
    return [
        {
            **keys,
            "image": positions[item.index],
            "label": item.label,
            "predicted": item.predicted[-1],
            "pixels": image_png(item.pixels) if same else "",
            "relevance": heatmap_png(item.relevance[-1]),
            "cosine": item.cosine[-1],
        }
        for item in found
    ]
