"""Where a network looks, before and after pruning, and which units speak for a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from secateur.attribution import attribute
from secateur.attribution.composites import Composite
from secateur.core.errors import RequestError
from secateur.data import LabelledImages


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heatmaps of one image by one or more networks.

    Attributes:
        index: position in the split.
        label: true class; predicted: by each network.
        pixels: uint8 [H, W, C].
        relevance: [H, W] for each network: relevance of the true class, summed over channels.
        cosine: of the first network's heatmap with each one's.
    """

    index: int
    label: str
    predicted: tuple[str, ...]
    pixels: np.ndarray
    relevance: tuple[np.ndarray, ...]
    cosine: tuple[float, ...]


def explain(
    models: list[nn.Module],
    images: LabelledImages,
    indices: list[int],
    composite: str | Composite = "epsilon-plus-flat",
) -> list[Explanation]:
    """Explain the true class of some images with several networks.

    Args:
        models: e.g. before and after pruning.
        images: the split.
        indices: which of its images.
        composite: rules; the default gives the clearest heatmaps.

    Raises:
        RequestError: for an index beyond the split.
    """
    if not indices:
        raise RequestError("choose at least one image to explain")
    if min(indices) < 0 or max(indices) >= len(images):
        raise RequestError(f"image {max(indices)} is beyond the {len(images)} images of the split")
    inputs, targets = images.batch(indices)
    found = [attribute(model, inputs, targets, composite, bounds=images.normalisation.bounds()) for model in models]
    raw = images.raw(indices).permute(0, 2, 3, 1).numpy()
    names = images.class_names
    result = []
    for position, index in enumerate(indices):
        heat = tuple(f.input[position].sum(0).cpu().numpy() for f in found)
        result.append(
            Explanation(
                index,
                names[int(targets[position])],
                tuple(names[int(f.logits[position].argmax())] for f in found),
                raw[position],
                heat,
                tuple(_cosine(heat[0], h) for h in heat),
            )
        )
    return result


def strongest_units(
    model: nn.Module, images: LabelledImages, indices: list[int], top: int = 5, composite: str | Composite = "epsilon"
) -> list[dict[str, object]]:
    """The units with the largest mean relevance for each class, per layer: rows class, layer, unit, relevance."""
    inputs, targets = images.batch(indices)
    found = attribute(model, inputs, targets, composite, bounds=images.normalisation.bounds())
    rows: list[dict[str, object]] = []
    for label in sorted(set(targets.tolist())):
        here = targets == label
        for layer, units in found.units.items():
            mean = units[here.to(units.device)].mean(0)
            values, order = torch.topk(mean, min(top, len(mean)))
            rows += [
                {"class": images.class_names[label], "layer": layer, "unit": int(u), "relevance": float(v)}
                for v, u in zip(values, order, strict=True)
            ]
    return rows


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum() / size) if size else 0.0
