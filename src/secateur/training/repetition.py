"""How often the training images of each class are seen in an epoch; validation and test images are never repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset, Subset

from secateur.core.errors import RequestError
from secateur.core.names import did_you_mean
from secateur.core.randomness import numpy_generator

Repeat = Literal["none", "balanced", "weighted"] | Mapping[str, int]
"""See `TrainSettings.repeat`."""


def repeated(dataset: Dataset[Any], repeat: Repeat, seed: int, epoch: int) -> Dataset[Any]:
    """The samples of one epoch, in order.

    Args:
        dataset: with ``labels`` and, where classes are named, ``class_names``.
        repeat: ``none``: each sample once; ``balanced``: those of a class round(n_max / n_class) times, n_max the
            largest class; a mapping of class to times, 1 for those it does not name; ``weighted``: as many samples as
            there are, drawn with replacement, all classes equally likely, others in each epoch.
        seed: of the draw.
        epoch: likewise.

    Raises:
        RequestError: for a data set without labels, an unknown class, or times below 1.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.zeros(4, 1), torch.tensor([0, 0, 0, 1]))
        >>> data.labels = data.tensors[1]
        >>> repeated(data, "balanced", seed=0, epoch=0).indices
        [0, 1, 2, 3, 3, 3]
    """
    if repeat == "none":
        return dataset
    labels = _labels(dataset)
    counts = np.bincount(labels)
    if repeat == "weighted":
        shares = (1 / np.maximum(counts, 1) / (counts > 0).sum())[labels]
        drawn = numpy_generator(seed, "weighted", epoch).choice(len(labels), len(labels), p=shares)
        return Subset(dataset, drawn.tolist())
    if repeat == "balanced":
        times = np.maximum(1, np.round(counts.max() / np.maximum(counts, 1))).astype(int)
    else:
        assert isinstance(repeat, Mapping)
        times = _given(repeat, getattr(dataset, "class_names", ()), len(counts))
    return Subset(dataset, np.repeat(np.arange(len(labels)), times[labels]).tolist())


def _labels(dataset: Dataset[Any]) -> np.ndarray:
    found = getattr(dataset, "labels", getattr(dataset, "targets", None))
    if found is None:
        raise RequestError(
            f"repeating samples by class needs the labels of the training set, and a {type(dataset).__name__} has "
            "neither labels nor targets; set train.repeat=none"
        )
    return np.asarray(found, np.int64)


def _given(repeat: Mapping[str, int], names: Sequence[str], count: int) -> np.ndarray:
    """Times of each class, by name or index."""
    times = np.ones(max(count, len(names)), int)
    known = {str(index): index for index in range(len(times))} | {name: index for index, name in enumerate(names)}
    for name, value in repeat.items():
        if name not in known:
            raise RequestError(
                f"train.repeat names an unknown class '{name}'{did_you_mean(name, list(names))}; known: "
                f"{', '.join(names) or f'0 to {count - 1}'}"
            )
        if value < 1:
            raise RequestError(f"train.repeat of class '{name}' is {value}; give 1 or more, or leave it out")
        times[known[name]] = value
    return times
