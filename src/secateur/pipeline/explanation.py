"""Heatmaps of networks before and after pruning, and the units with the largest relevance for a class.

Axes: N images, H rows, W columns, P pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.attribution import Relevance, attribute
from secateur.attribution.composites import Composite
from secateur.core.errors import RequestError
from secateur.core.progress import ProgressOption, reported, track
from secateur.core.randomness import numpy_generator
from secateur.data import LabelledImages
from secateur.pipeline.agreement import Agreement, class_name, cosine_similarity, rank_correlation
from secateur.pipeline.requests import HEATMAP_COMPOSITE, Start

Images = LabelledImages | Sequence[LabelledImages]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heatmaps of one image by one or more networks.

    Attributes:
        index: position in the split.
        label: true class; predicted: the class that each network predicts.
        pixels: uint8 [H, W, C].
        relevance: [H, W] for each network: relevance of the true class, summed over channels.
        cosine: cosine of the first network's heatmap with that of each network.
        rank: Spearman's rank correlation of the same pairs.
    """

    index: int
    label: str
    predicted: tuple[str, ...]
    pixels: np.ndarray
    relevance: tuple[np.ndarray, ...]
    cosine: tuple[float, ...]
    rank: tuple[float, ...]


@reported("explaining")
def explain(
    models: Sequence[nn.Module],
    images: Images,
    indices: Sequence[int],
    composite: str | Composite = HEATMAP_COMPOSITE,
    *,
    start: Start = "logit",
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> list[Explanation]:
    """Explain the true class of some images with several networks.

    Args:
        models: networks, e.g. before and after pruning.
        images: the split, or one for each network where they normalise differently.
        indices: positions of its images.
        composite: composite of rules; the default gives the clearest heatmaps.
        start: relevance at the true class's logit: ``logit``, its value, so that positive relevance is evidence for the
            class also where the logit is negative and confident images count more; ``one``, shares of the logit; or
            ``contrast``, the logit less the mean of the other classes'.
        batch_size: images per pass; it affects ``smoothgrad`` only, whose noise is drawn pass by pass.
        progress: how progress is reported, see `secateur.core.progress.ProgressOption`.

    Raises:
        RequestError: for no image, an index beyond the split, or networks with different outputs.
    """
    positions = _checked(indices, images)
    check_outputs(models, images, composite)
    splits = _splits(models, images)
    names = splits[0].class_names
    explanations = []
    for part in track(list(_batches(positions, batch_size)), "heatmaps"):
        results = _heatmaps(models, splits, part, composite, start)
        first = results[0].heat_NHW
        cosine = [cosine_similarity(first, one.heat_NHW) for one in results]
        rank = [rank_correlation(first, one.heat_NHW) for one in results]
        raw = splits[0].raw(part).permute(0, 2, 3, 1).numpy()
        for position, index in enumerate(part):
            explanations.append(
                Explanation(
                    index,
                    names[splits[0].labels[index]],
                    tuple(class_name(names, one.predicted[position]) for one in results),
                    raw[position],
                    tuple(one.heat_NHW[position] for one in results),
                    tuple(float(values[position]) for values in cosine),
                    tuple(float(values[position]) for values in rank),
                )
            )
    return explanations


@reported("comparing heatmaps")
def agreement(
    before: nn.Module,
    after: nn.Module,
    images: Images,
    indices: Sequence[int],
    composite: str | Composite = HEATMAP_COMPOSITE,
    *,
    start: Start = "logit",
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> Agreement:
    """Agreement of two networks' heatmaps of the true class, image by image.

    Heatmaps [H, W] are summed over colour channels. Pairs of neighbours in ``indices`` give the chance level, so their
    order should be random, as that of `draw`.

    Args:
        before: the network before pruning.
        after: the network after pruning.
        images: the split, or one for each network where they normalise differently.
        indices: positions of its images.
        composite: see `explain`.
        start: see `explain`.
        batch_size: see `explain`.
        progress: see `explain`.

    Raises:
        RequestError: for no image, an index beyond the split, or networks with different outputs.
    """
    positions = _checked(indices, images)
    models = (before, after)
    check_outputs(models, images, composite)
    splits = _splits(models, images)
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("before", "after", "cosine", "rank", "chance_cosine", "chance_rank")
    }
    last: np.ndarray | None = None
    for part in track(list(_batches(positions, batch_size)), "agreement of heatmaps"):
        old, new = _heatmaps(models, splits, part, composite, start)
        found["before"].append(old.predicted)
        found["after"].append(new.predicted)
        found["cosine"].append(cosine_similarity(old.heat_NHW, new.heat_NHW))
        found["rank"].append(rank_correlation(old.heat_NHW, new.heat_NHW))
        # only one heatmap of the previous batch is kept: those of a test set would not fit into memory
        chain = old.heat_NHW if last is None else np.concatenate([last, old.heat_NHW])
        found["chance_cosine"].append(cosine_similarity(chain[:-1], chain[1:]))
        found["chance_rank"].append(rank_correlation(chain[:-1], chain[1:]))
        last = old.heat_NHW[-1:]
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    return Agreement(splits[0].class_names, np.array(positions), splits[0].labels[positions], **values)


@reported("looking for the strongest units")
def strongest_units(
    model: nn.Module,
    images: LabelledImages,
    indices: Sequence[int],
    top: int = 5,
    composite: str | Composite = HEATMAP_COMPOSITE,
    *,
    start: Start = "logit",
    batch_size: int = 64,
    progress: ProgressOption = True,
) -> list[dict[str, Any]]:
    """The units with the largest mean relevance for each class, per layer.

    Args:
        model: one network.
        images: the split.
        indices: positions of its images; `draw_per_class` draws the same number of each class.
        top: units per class and layer.
        composite: see `explain`.
        start: see `explain`.
        batch_size: see `explain`.
        progress: see `explain`.

    Returns:
        Rows class, layer, unit, relevance (mean over the images of the class), rank (1 is the strongest); layers in
        order of execution, without the output layer, whose units are the classes themselves.

    Raises:
        RequestError: for no image, or an index beyond the split.
    """
    positions = _checked(indices, images)
    if top < 1:
        raise RequestError(f"the number of units per layer must be at least 1, got {top}")
    (split,) = _splits([model], images)
    counts = np.bincount(split.labels[positions], minlength=len(split.class_names))
    sums: dict[str, np.ndarray] = {}
    for part in track(list(_batches(positions, batch_size)), "units"):
        relevance = _relevance(model, split, split.batch(part), composite, start)
        for layer, units in _inner(relevance).items():
            values = units.detach().cpu().double().numpy()
            np.add.at(sums.setdefault(layer, np.zeros((len(counts), values.shape[1]))), split.labels[part], values)
    rows: list[dict[str, Any]] = []
    for label in np.flatnonzero(counts):
        for layer, total in sums.items():
            mean = total[label] / counts[label]
            rows += [
                {"class": split.class_names[label], "layer": layer, "unit": int(unit)}
                | {"relevance": float(mean[unit]), "rank": rank}
                for rank, unit in enumerate(np.argsort(-mean, kind="stable")[:top], start=1)
            ]
    return rows


def check_outputs(
    models: Sequence[nn.Module],
    images: Images,
    composite: str | Composite = HEATMAP_COMPOSITE,
    names: Sequence[str] = (),
) -> None:
    """Check that networks accept the images and have the same number of outputs, one for each class.

    Args:
        models: networks to be compared.
        images: see `explain`.
        composite: the composite that will be used.
        names: names of the networks, for messages.

    Raises:
        RequestError: for a network that does not fit, naming it.
    """
    splits = _splits(models, images)
    names = names or [f"network {number + 1}" for number in range(len(models))]
    counts = [_outputs(m, s, composite, n) for m, s, n in zip(models, splits, names, strict=True)]
    for name, count in zip(names, counts, strict=True):
        if count != counts[0]:
            raise RequestError(
                f"'{name}' gives {count} outputs, '{names[0]}' {counts[0]}: heatmaps are compared class by class; "
                "give networks for the same classes"
            )
    if counts[0] < len(splits[0].class_names):
        raise RequestError(
            f"'{names[0]}' gives {counts[0]} outputs, the data has {len(splits[0].class_names)} classes; "
            "give the data it was trained for"
        )


def draw(images: LabelledImages, count: int, seed: int = 0) -> list[int]:
    """Indices of ``count`` images (all if there are fewer) in an order that depends on the seed."""
    if count < 0:
        raise RequestError(f"the number of images must not be negative, got {count}")
    order: list[int] = numpy_generator(seed, "agreement").permutation(len(images))[:count].tolist()
    return order


def draw_per_class(images: LabelledImages, per_class: int, seed: int = 0) -> list[int]:
    """Indices of ``per_class`` images of each class (all of a class with fewer), drawn by the seed."""
    if per_class < 0:
        raise RequestError(f"the number of images per class must not be negative, got {per_class}")
    drawn: list[int] = []
    for label in np.unique(images.labels):
        where = np.flatnonzero(images.labels == label)
        drawn += sorted(numpy_generator(seed, "units", int(label)).permutation(where)[:per_class].tolist())
    return drawn


def first_of_classes(images: LabelledImages, count: int) -> list[int]:
    """Indices of ``count`` images in order: the first of each class, then the second of each, and so on."""
    import pandas as pd

    labels = pd.Series(images.labels)
    turn = labels.groupby(labels).cumcount().to_numpy()
    return sorted(np.argsort(turn, kind="stable")[:count].tolist())


@dataclass(frozen=True, eq=False)
class _Heatmaps:
    """Results of one network: heatmaps [N, H, W] in float64, predicted classes [N]."""

    heat_NHW: np.ndarray
    predicted: np.ndarray


def _heatmaps(
    models: Sequence[nn.Module],
    splits: Sequence[LabelledImages],
    indices: list[int],
    composite: str | Composite,
    start: Start,
) -> list[_Heatmaps]:
    # networks with the same split share its images, which may be read from disk
    loaded = {id(split): split.batch(indices) for split in splits}
    results = []
    for model, split in zip(models, splits, strict=True):
        relevance = _relevance(model, split, loaded[id(split)], composite, start)
        heat = relevance.input.detach().cpu().double().sum(1).numpy()
        results.append(_Heatmaps(heat, relevance.logits.argmax(1).cpu().numpy()))
    return results


def _relevance(
    model: nn.Module,
    split: LabelledImages,
    batch: tuple[torch.Tensor, torch.Tensor],
    composite: str | Composite,
    start: Start,
) -> Relevance:
    bounds = split.normalisation.bounds()
    return attribute(model, *batch, composite, start=start, bounds=bounds, batch_size=len(batch[0]))


def _inner(found: Relevance) -> dict[str, torch.Tensor]:
    """Units by layer in order of execution, without the last layer where its units are the classes."""
    units = dict(found.units)
    if units and units[last := next(reversed(units))].shape[1] == found.logits.shape[1]:
        del units[last]
    return units


def _outputs(model: nn.Module, images: LabelledImages, composite: str | Composite, name: str) -> int:
    inputs = images.batch([0])[0]
    try:
        # class 0 is in range for any head, and the state of the network is restored
        return _relevance(model, images, (inputs, torch.tensor([0])), composite, "logit").logits.shape[1]
    except (RuntimeError, RequestError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        remedy = "" if isinstance(error, RequestError) else "; give the data for which it was made"
        raise RequestError(
            f"'{name}' cannot be explained on images of shape {list(inputs.shape[1:])}: {reason}{remedy}"
        ) from error


def _splits(models: Sequence[nn.Module], images: Images) -> list[LabelledImages]:
    """One split for each network, without augmentation, so that all see the same pixels."""
    given = [images] * len(models) if isinstance(images, LabelledImages) else images
    plain = {id(split): split.replace(augmentation=None) for split in given}
    return [plain[id(split)] for split in given]


def _checked(indices: Sequence[int], images: Images) -> list[int]:
    count = len(images) if isinstance(images, LabelledImages) else min(len(split) for split in images)
    positions = [int(index) for index in indices]
    if not positions:
        raise RequestError("choose at least one image to explain")
    for index in positions:
        if not 0 <= index < count:
            raise RequestError(f"image {index} is not among the {count} of the split; choose from 0 to {count - 1}")
    return positions


def _batches(indices: list[int], size: int) -> Iterator[list[int]]:
    for begin in range(0, len(indices), size):
        yield indices[begin : begin + size]
