"""Similarity of two networks' heatmaps of the same images. Axes: N images, H rows, W columns, P pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Agreement:
    """Similarity of two networks' heatmaps of the same images, in the order of ``indices``.

    Attributes:
        class_names: name of each class index.
        indices: positions in the split, [N].
        labels: true class indices, [N].
        before: class indices that the first network predicts, [N].
        after: class indices that the second network predicts, [N].
        cosine: cosine of the two heatmaps, [N], -1..1.
        rank: Spearman's rank correlation of the two heatmaps over all pixels, [N], -1..1.
        chance_cosine: between the first network's heatmaps of neighbouring images, [N - 1]: the level of
            ``cosine`` by chance.
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
                "predicted_before": class_name(self.class_names, self.before[i]),
                "predicted_after": class_name(self.class_names, self.after[i]),
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


def class_name(names: tuple[str, ...], index: int) -> str:
    """A class by its index."""
    # a network may have more outputs than the data has classes
    return names[index] if index < len(names) else f"output {index}"


def _spread(name: str, values: np.ndarray) -> dict[str, float | None]:
    keys = [f"{name}_{figure}" for figure in ("mean", "q1", "median", "q3")]
    if not len(values):
        return dict.fromkeys(keys)
    return dict(zip(keys, [float(values.mean()), *map(float, np.quantile(values, [0.25, 0.5, 0.75]))], strict=True))
