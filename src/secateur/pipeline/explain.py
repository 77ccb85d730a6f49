"""Where a network looks, before and after pruning, and which units speak for a class.

Axes: N images, H rows, W columns, P pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from secateur.attribution import Relevance, attribute
from secateur.attribution.composites import Composite
from secateur.core.errors import RequestError
from secateur.core.progress import track
from secateur.core.randomness import numpy_generator
from secateur.data import LabelledImages

# "loss" is no start here: its relevance is of all classes at once
Start = Literal["logit", "one", "contrast"]
Images = LabelledImages | Sequence[LabelledImages]

HEATMAP_COMPOSITE = "epsilon-plus-flat"


@dataclass(frozen=True, eq=False)
class Explanation:
    """Heatmaps of one image by one or more networks.

    Attributes:
        index: position in the split.
        label: true class; predicted: by each network.
        pixels: uint8 [H, W, C].
        relevance: [H, W] for each network: relevance of the true class, summed over channels.
        cosine: of the first network's heatmap with each one's.
        rank: Spearman's rank correlation of the same pairs.
    """

    index: int
    label: str
    predicted: tuple[str, ...]
    pixels: np.ndarray
    relevance: tuple[np.ndarray, ...]
    cosine: tuple[float, ...]
    rank: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How alike two networks' heatmaps of the same images are, in the order of ``indices``.

    Attributes:
        class_names: name of each class index.
        indices: positions in the split, [N].
        labels: true class indices, [N].
        before: class indices that the first network predicts, [N].
        after: class indices that the second network predicts, [N].
        cosine: of the two heatmaps, [N], -1..1.
        rank: Spearman's rank correlation of the two heatmaps over all pixels, [N], -1..1.
        chance_cosine: between the first network's heatmaps of neighbouring images, [N - 1]: the level to read
            ``cosine`` against.
        chance_rank: the same for ``rank``.
    """

    class_names: tuple[str, ...]
    indices: np.ndarray
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    cosine: np.ndarray
    rank: np.ndarray
    chance_cosine: np.ndarray
    chance_rank: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """Tidy rows in the order of the split: image, class, predicted_before, predicted_after, cosine, rank."""
        return [
            {
                "image": int(self.indices[i]),
                "class": self.class_names[self.labels[i]],
                "predicted_before": _class_name(self.class_names, self.before[i]),
                "predicted_after": _class_name(self.class_names, self.after[i]),
                "cosine": float(self.cosine[i]),
                "rank": float(self.rank[i]),
            }
            for i in np.argsort(self.indices)
        ]

    def summary(self) -> list[dict[str, Any]]:
        """Mean and quartiles for groups of images.

        Returns:
            Rows kind, name, images, same_answer (share of equal predictions), and mean, q1, median, q3 of cosine and
            rank; figures of an empty group are None. The kinds are ``all``; ``chance``, pairs of different images;
            ``outcome``, by who is right; ``class``, lowest mean cosine first.
        """
        everything = np.ones(len(self.labels), bool)
        old, new = self.before == self.labels, self.after == self.labels
        outcomes = {
            "both right": old & new,
            "only before right": old & ~new,
            "only after right": ~old & new,
            "both wrong": ~old & ~new,
        }
        classes = [
            self._group("class", self.class_names[label], self.labels == label) for label in np.unique(self.labels)
        ]
        chance = {"kind": "chance", "name": "different images (chance)", "images": len(self.chance_cosine)}
        return [
            self._group("all", "all images", everything),
            {
                **chance,
                "same_answer": None,
                **_spread("cosine", self.chance_cosine),
                **_spread("rank", self.chance_rank),
            },
            *(self._group("outcome", name, where) for name, where in outcomes.items()),
            *sorted(classes, key=lambda row: float(row["cosine_mean"])),
        ]

    def _group(self, kind: str, name: str, where: np.ndarray) -> dict[str, Any]:
        same = (self.before == self.after)[where]
        return {
            "kind": kind,
            "name": name,
            "images": int(where.sum()),
            "same_answer": float(same.mean()) if len(same) else None,
            **_spread("cosine", self.cosine[where]),
            **_spread("rank", self.rank[where]),
        }


def explain(
    models: Sequence[nn.Module],
    images: Images,
    indices: Sequence[int],
    composite: str | Composite = HEATMAP_COMPOSITE,
    *,
    start: Start = "logit",
    batch_size: int = 64,
) -> list[Explanation]:
    """Explain the true class of some images with several networks.

    Args:
        models: e.g. before and after pruning.
        images: the split, or one for each network where they normalise differently.
        indices: which of its images.
        composite: rules; the default gives the clearest heatmaps.
        start: relevance at the true class's logit: ``logit``, its value, so that positive relevance speaks for the
            class also where the logit is negative and confident images count more; ``one``, shares of the logit; or
            ``contrast``, the logit less the mean of the other classes'.
        batch_size: images per pass; matters to no rules but ``smoothgrad``, whose noise is drawn pass by pass.

    Raises:
        RequestError: for no image, an index beyond the split, or networks with different outputs.
    """
    chosen = _checked(indices, images)
    check_outputs(models, images, composite)
    splits = _splits(models, images)
    names = splits[0].class_names
    result = []
    for part in track(list(_batches(chosen, batch_size)), "heatmaps"):
        looks = _look(models, splits, part, composite, start)
        first = looks[0].heat_NHW
        cosine = [cosine_similarity(first, look.heat_NHW) for look in looks]
        rank = [rank_correlation(first, look.heat_NHW) for look in looks]
        raw = splits[0].raw(part).permute(0, 2, 3, 1).numpy()
        for place, index in enumerate(part):
            result.append(
                Explanation(
                    index,
                    names[splits[0].labels[index]],
                    tuple(_class_name(names, look.predicted[place]) for look in looks),
                    raw[place],
                    tuple(look.heat_NHW[place] for look in looks),
                    tuple(float(values[place]) for values in cosine),
                    tuple(float(values[place]) for values in rank),
                )
            )
    return result


def agreement(
    before: nn.Module,
    after: nn.Module,
    images: Images,
    indices: Sequence[int],
    composite: str | Composite = HEATMAP_COMPOSITE,
    *,
    start: Start = "logit",
    batch_size: int = 64,
) -> Agreement:
    """Whether a smaller network still looks at the same thing: heatmaps of the true class, image by image.

    Heatmaps [H, W] are summed over colour channels. Pairs of neighbours in ``indices`` give the chance level, so the
    order should be random; `draw` gives such a one.

    Args:
        before: the network as it came.
        after: the network as it goes.
        images: the split, or one for each network where they normalise differently.
        indices: which of its images.
        composite: see `explain`.
        start: see `explain`.
        batch_size: see `explain`.

    Raises:
        RequestError: for no image, an index beyond the split, or networks with different outputs.
    """
    chosen = _checked(indices, images)
    models = (before, after)
    check_outputs(models, images, composite)
    splits = _splits(models, images)
    found: dict[str, list[np.ndarray]] = {
        name: [] for name in ("before", "after", "cosine", "rank", "chance_cosine", "chance_rank")
    }
    last: np.ndarray | None = None
    for part in track(list(_batches(chosen, batch_size)), "agreement of heatmaps"):
        old, new = _look(models, splits, part, composite, start)
        found["before"].append(old.predicted)
        found["after"].append(new.predicted)
        found["cosine"].append(cosine_similarity(old.heat_NHW, new.heat_NHW))
        found["rank"].append(rank_correlation(old.heat_NHW, new.heat_NHW))
        # only one heatmap of the batch before is kept: a test set's would not fit into memory
        chain = old.heat_NHW if last is None else np.concatenate([last, old.heat_NHW])
        found["chance_cosine"].append(cosine_similarity(chain[:-1], chain[1:]))
        found["chance_rank"].append(rank_correlation(chain[:-1], chain[1:]))
        last = old.heat_NHW[-1:]
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    return Agreement(splits[0].class_names, np.array(chosen), splits[0].labels[chosen], **values)


def strongest_units(
    model: nn.Module,
    images: LabelledImages,
    indices: Sequence[int],
    top: int = 5,
    composite: str | Composite = HEATMAP_COMPOSITE,
    *,
    start: Start = "logit",
    batch_size: int = 64,
) -> list[dict[str, Any]]:
    """The units with the largest mean relevance for each class, per layer.

    Args:
        model: one network.
        images: the split.
        indices: which of its images; `draw_per_class` gives a balanced choice.
        top: units per class and layer.
        composite: see `explain`.
        start: see `explain`.
        batch_size: see `explain`.

    Returns:
        Rows class, layer, unit, relevance (mean over the images of the class), rank (1 is the strongest); layers in
        order of execution, without the output layer, whose units are the classes themselves.

    Raises:
        RequestError: for no image, or an index beyond the split.
    """
    chosen = _checked(indices, images)
    if top < 1:
        raise RequestError(f"the number of units per layer must be at least 1, got {top}")
    (split,) = _splits([model], images)
    counts = np.bincount(split.labels[chosen], minlength=len(split.class_names))
    sums: dict[str, np.ndarray] = {}
    for part in track(list(_batches(chosen, batch_size)), "units"):
        found = _relevance(model, split, split.batch(part), composite, start)
        for layer, units in _inner(found).items():
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
    """See that networks take the images, have an output for each class, and as many outputs as each other.

    Args:
        models: to be compared.
        images: see `explain`.
        composite: rules that will be used.
        names: of the networks, for messages.

    Raises:
        RequestError: for a network that does not fit, naming it.
    """
    splits = _splits(models, images)
    names = names or [f"network {place + 1}" for place in range(len(models))]
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
    """Indices of ``count`` images (all if there are fewer) in an order that follows from the seed."""
    if count < 0:
        raise RequestError(f"the number of images must not be negative, got {count}")
    order: list[int] = numpy_generator(seed, "agreement").permutation(len(images))[:count].tolist()
    return order


def draw_per_class(images: LabelledImages, per_class: int, seed: int = 0) -> list[int]:
    """Indices of ``per_class`` images of each class (all of a class with fewer), drawn by the seed."""
    if per_class < 0:
        raise RequestError(f"the number of images per class must not be negative, got {per_class}")
    chosen: list[int] = []
    for label in np.unique(images.labels):
        where = np.flatnonzero(images.labels == label)
        chosen += sorted(numpy_generator(seed, "units", int(label)).permutation(where)[:per_class].tolist())
    return chosen


def first_of_classes(images: LabelledImages, count: int) -> list[int]:
    """Indices of ``count`` images in order: the first of each class, then the second of each, and so on."""
    labels = pd.Series(images.labels)
    turn = labels.groupby(labels).cumcount().to_numpy()
    return sorted(np.argsort(turn, kind="stable")[:count].tolist())


def cosine_similarity(a_NHW: np.ndarray, b_NHW: np.ndarray) -> np.ndarray:
    """Cosine of each pair of maps, [N]; 0 where one of them is zero everywhere.

    Example:
        >>> cosine_similarity(np.array([[[3.0, 4.0]]]), np.array([[[4.0, 3.0]]])).tolist()
        [0.96]
    """
    return _cosine(a_NHW.reshape(len(a_NHW), -1), b_NHW.reshape(len(b_NHW), -1))


def rank_correlation(a_NHW: np.ndarray, b_NHW: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each pair of maps, [N], ties at their mean rank; 0 where one map is constant.

    Example:
        >>> rank_correlation(np.array([[[1, 2, 3, 4]]]), np.array([[[10, 20, 40, 30]]])).round(6).tolist()
        [0.8]
    """
    a, b = (mean_ranks(maps.reshape(len(maps), -1)) for maps in (a_NHW, b_NHW))
    # ranks have the same mean (P + 1) / 2 whatever the ties
    middle = (a.shape[1] + 1) / 2
    return _cosine(a - middle, b - middle)


def mean_ranks(values_NP: np.ndarray) -> np.ndarray:
    """Rank 1..P of each value in its row, [N, P]; equal values share the mean of their ranks.

    Example:
        >>> mean_ranks(np.array([[0.5, -1.0, 0.5, 7.0]])).tolist()
        [[2.5, 1.0, 2.5, 4.0]]
    """
    count, size = values_NP.shape
    if size == 0:
        return np.zeros((count, 0))
    order = np.argsort(values_NP, axis=1, kind="stable")
    ordered = np.take_along_axis(values_NP, order, axis=1)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((count, 1), bool)
    place = np.arange(size)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], 1), place, 0), axis=1)
    reverse = np.where(np.concatenate([differs, edge], 1), place, size - 1)[:, ::-1]
    last = np.minimum.accumulate(reverse, axis=1)[:, ::-1]
    ranks = np.empty((count, size))
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def _cosine(a_NP: np.ndarray, b_NP: np.ndarray) -> np.ndarray:
    # scaled first: squares of very small relevance would vanish
    a, b = (values / np.maximum(np.abs(values).max(1, keepdims=True, initial=0), _TINY) for values in (a_NP, b_NP))
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine: np.ndarray = np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 0)
    return cosine.clip(-1, 1)


_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False)
class _Look:
    """What one network sees and says: heatmaps [N, H, W] in float64, predicted classes [N]."""

    heat_NHW: np.ndarray
    predicted: np.ndarray


def _look(
    models: Sequence[nn.Module],
    splits: Sequence[LabelledImages],
    indices: list[int],
    composite: str | Composite,
    start: Start,
) -> list[_Look]:
    # networks that share a split share its images, which may come from disk
    loaded = {id(split): split.batch(indices) for split in splits}
    looks = []
    for model, split in zip(models, splits, strict=True):
        found = _relevance(model, split, loaded[id(split)], composite, start)
        heat = found.input.detach().cpu().double().sum(1).numpy()
        looks.append(_Look(heat, found.logits.argmax(1).cpu().numpy()))
    return looks


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
        # class 0 is in range for any head, and the network comes back as it was
        return _relevance(model, images, (inputs, torch.tensor([0])), composite, "logit").logits.shape[1]
    except (RuntimeError, RequestError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        remedy = "" if isinstance(error, RequestError) else "; give the data it was made for"
        raise RequestError(
            f"'{name}' cannot be explained on images of shape {list(inputs.shape[1:])}: {reason}{remedy}"
        ) from error


def _splits(models: Sequence[nn.Module], images: Images) -> list[LabelledImages]:
    """One split for each network, without augmentation: all are to see the same pixels."""
    given = [images] * len(models) if isinstance(images, LabelledImages) else images
    plain = {id(split): split.replace(augmentation=None) for split in given}
    return [plain[id(split)] for split in given]


def _checked(indices: Sequence[int], images: Images) -> list[int]:
    count = len(images) if isinstance(images, LabelledImages) else min(len(split) for split in images)
    chosen = [int(index) for index in indices]
    if not chosen:
        raise RequestError("choose at least one image to explain")
    for index in chosen:
        if not 0 <= index < count:
            raise RequestError(f"image {index} is not among the {count} of the split; choose from 0 to {count - 1}")
    return chosen


def _batches(indices: list[int], size: int) -> Iterator[list[int]]:
    for begin in range(0, len(indices), size):
        yield indices[begin : begin + size]


def _class_name(names: tuple[str, ...], index: int) -> str:
    # a network may have more outputs than the data has classes
    return names[index] if index < len(names) else f"output {index}"


def _spread(name: str, values: np.ndarray) -> dict[str, float | None]:
    keys = [f"{name}_{figure}" for figure in ("mean", "q1", "median", "q3")]
    if not len(values):
        return dict.fromkeys(keys)
    return dict(zip(keys, [float(values.mean()), *map(float, np.quantile(values, [0.25, 0.5, 0.75]))], strict=True))
