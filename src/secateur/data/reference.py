"""Reference samples: the few labelled inputs on which a criterion looks at a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, default_collate

from secateur.core.errors import RequestError, check_count
from secateur.core.randomness import numpy_generator
from secateur.data.classes import indices_in_order
from secateur.data.dataset import LabelledImages, Normalisation


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """A small balanced batch of labelled inputs.

    Attributes:
        inputs: [N, ...] float tensor, as the network takes it, or token ids.
        targets: [N] class indices.
        indices: [N] positions in the data set they came from.
        bounds: lowest and highest value an input can take, for the z^B-rule; None: read off the inputs.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    indices: tuple[int, ...]
    bounds: tuple[float, float] | None = None

    @classmethod
    def sample(
        cls,
        dataset: Dataset[Any],
        per_class: int = 10,
        seed: int = 0,
        classes: Sequence[int | str] | None = None,
    ) -> ReferenceSet:
        """Draw ``per_class`` samples of each class without replacement, the same for the same seed.

        Args:
            dataset: gives (input, class index) pairs; labels are read from ``labels`` or ``targets`` when it
                has them, else from the samples. Augmentation of a `LabelledImages` is switched off.
            per_class: samples of each class.
            seed: of the draw; one class's draw does not depend on which other classes are asked for.
            classes: indices, or names where the data set has ``class_names`` or ``classes``, in the order in
                which their samples are wanted; None: all that occur.

        Raises:
            RequestError: for an empty data set, an unknown class, or a class with too few samples.

        Example:
            >>> from torch.utils.data import TensorDataset
            >>> data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 2)
            >>> ReferenceSet.sample(data, per_class=3).targets.tolist()
            [0, 0, 0, 1, 1, 1]
        """
        check_count("per_class", per_class)
        dataset = _unwrapped(dataset)
        labels = _labels(dataset)
        if len(labels) == 0:
            raise RequestError("cannot draw reference samples from an empty data set")
        names = tuple(getattr(dataset, "class_names", None) or getattr(dataset, "classes", None) or ())
        present = sorted({int(v) for v in labels})
        wanted = present if classes is None else indices_in_order(classes, names, present)
        chosen: list[int] = []
        for index in wanted:
            where = np.flatnonzero(labels == index)
            if len(where) < per_class:
                label = f"{index} ('{names[index]}')" if index < len(names) else str(index)
                raise RequestError(
                    f"class {label} has {len(where)} sample(s), fewer than the {per_class} per class "
                    "asked for; lower per_class or leave the class out"
                )
            draw = numpy_generator(seed, "reference", index).permutation(len(where))[:per_class]
            chosen.extend(int(i) for i in where[np.sort(draw)])
        inputs, targets = _stacked(dataset, chosen)
        normalisation = getattr(dataset, "normalisation", None)
        bounds = normalisation.bounds() if isinstance(normalisation, Normalisation) else None
        return cls(inputs, targets, tuple(chosen), bounds)

    def __post_init__(self) -> None:
        for what, value in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(value, torch.Tensor):
                raise RequestError(
                    f"reference {what} must be one tensor, samples first, got {type(value).__name__}; wrap a network "
                    "with several inputs in a module whose forward takes one tensor and makes the rest of them"
                )
            if value.ndim == 0:
                raise RequestError(f"reference {what} have no dimensions; samples must be the first one")
        if len(self.inputs) != len(self.targets):
            raise RequestError(f"{len(self.inputs)} reference inputs but {len(self.targets)} targets")
        if self.targets.ndim != 1 or self.targets.is_floating_point() or self.targets.dtype == torch.bool:
            raise RequestError(
                f"reference targets must be one class index per sample, [N] integers, got {self.targets.dtype} of "
                f"shape {list(self.targets.shape)}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int = 128) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The samples in order, at most ``size`` at a time.

        Raises:
            RequestError: for a size that is no positive integer.
        """
        check_count("batch_size", size)
        for start in range(0, len(self), size):
            inputs, targets = self.inputs[start : start + size], self.targets[start : start + size]
            # what `torch.inference_mode` made takes part in no gradient, a copy does
            yield inputs.clone() if inputs.is_inference() else inputs, targets.clone()


def _unwrapped(dataset: Dataset[Any]) -> Dataset[Any]:
    """Our own images without augmentation, also from inside a `torch.utils.data.Subset`."""
    if isinstance(dataset, Subset):
        inner = _unwrapped(dataset.dataset)
        return inner.subset(dataset.indices) if isinstance(inner, LabelledImages) else dataset
    return dataset.replace(augmentation=None) if isinstance(dataset, LabelledImages) else dataset


def _labels(dataset: Dataset[Any]) -> np.ndarray:
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset)[np.asarray(dataset.indices, np.int64)]
    for name in ("labels", "targets", "_labels"):
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):  # type: ignore[arg-type]
            labels = np.asarray(found, np.int64)
            if labels.size != len(labels):
                raise RequestError(f"labels have shape {labels.shape}; one class index per sample is needed")
            return labels.reshape(-1)
    return np.array([int(dataset[i][1]) for i in range(len(dataset))], np.int64)  # type: ignore[arg-type]


def _stacked(dataset: Dataset[Any], chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(dataset, LabelledImages):
        return dataset.batch(chosen)
    try:
        inputs, targets = default_collate([tuple(dataset[i][:2]) for i in chosen])
    except (TypeError, RuntimeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise RequestError(
            f"reference samples do not make a batch ({reason}); give the data set a transform to tensors of one shape"
        ) from error
    return inputs, torch.as_tensor(targets).reshape(-1).long()
