"""Reference samples: the few labelled inputs on which criteria score a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from secateur.core.errors import RequestError, check_count
from secateur.core.files import read_json, write_json
from secateur.core.layouts import laid_out
from secateur.core.randomness import numpy_generator
from secateur.data.classes import indices_in_order
from secateur.data.dataset import LabelledImages, Normalisation
from secateur.data.display import classes_text, page, shape_text, spread
from secateur.data.labels import class_labels
from secateur.data.samples import ONE_TENSOR, check_dataset, checked_pair, collated


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """A small balanced batch of labelled inputs.

    Attributes:
        inputs: [N, ...] float tensor of inputs of the network, or token ids of one length, [N, length]. Networks with
            several inputs, or padding masks, are wrapped in a module whose forward takes one tensor.
        targets: [N] class indices.
        indices: [N] positions in their data set.
        bounds: lowest and highest value of inputs, for the z^B-rule; None: those of the inputs.
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
            dataset: a data set of (input, class index) pairs; labels are read from ``labels`` or ``targets`` when it
                has them, else from the samples. Augmentation of a `LabelledImages` is switched off.
            per_class: number of samples of each class.
            seed: seed of the draw; the samples of a class do not depend on the other classes.
            classes: indices, or names where the data set has ``class_names`` or ``classes``, in the order of
                their samples; None: all that occur.

        Raises:
            RequestError: for anything but a data set of pairs (input tensor, class index), an empty one, an unknown
                class, or a class with too few samples.

        Example:
            >>> from torch.utils.data import TensorDataset
            >>> data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 2)
            >>> ReferenceSet.sample(data, per_class=3).targets.tolist()
            [0, 0, 0, 1, 1, 1]
        """
        check_count("per_class", per_class)
        check_dataset(dataset, "ReferenceSet.sample")
        dataset = _unwrapped(dataset)
        labels = _labels(dataset)
        if len(labels) == 0:
            raise RequestError("cannot draw reference samples from an empty data set")
        names = tuple(getattr(dataset, "class_names", None) or getattr(dataset, "classes", None) or ())
        present = sorted({int(v) for v in labels})
        wanted = present if classes is None else indices_in_order(classes, names, present)
        positions: list[int] = []
        for index in wanted:
            where = np.flatnonzero(labels == index)
            if len(where) < per_class:
                label = f"{index} ('{names[index]}')" if index < len(names) else str(index)
                raise RequestError(
                    f"class {label} has {len(where)} sample(s), fewer than the {per_class} per class "
                    "asked for; lower per_class or leave the class out"
                )
            draw = numpy_generator(seed, "reference", index).permutation(len(where))[:per_class]
            positions.extend(int(i) for i in where[np.sort(draw)])
        return cls._at(dataset, positions)

    @classmethod
    def drawn(cls, dataset: Dataset[Any], count: int, seed: int = 0) -> ReferenceSet:
        """Draw ``count`` random samples of any classes without replacement; all where there are fewer.

        Args:
            dataset: see `sample`.
            count: number of samples.
            seed: seed of the draw.

        Raises:
            RequestError: for anything but a data set of pairs, or an empty one.

        Example:
            >>> from torch.utils.data import TensorDataset
            >>> data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 2)
            >>> len(ReferenceSet.drawn(data, 5))
            5
        """
        check_count("count", count)
        check_dataset(dataset, "ReferenceSet.drawn")
        dataset = _unwrapped(dataset)
        size = len(_labels(dataset))
        if size == 0:
            raise RequestError("cannot draw reference samples from an empty data set")
        positions = [int(i) for i in np.sort(numpy_generator(seed, "unlabelled").permutation(size)[:count])]
        return cls._at(dataset, positions)

    @classmethod
    def read(cls, path: str | Path, dataset: Dataset[Any]) -> ReferenceSet:
        """The samples in a list that `save` wrote, from the same data set.

        Args:
            path: path of the list.
            dataset: see `sample`.

        Raises:
            RequestError: for a file that is no such list, positions that the data set does not have, or samples of
                other classes: then the list is for other data.
        """
        check_dataset(dataset, "ReferenceSet.read")
        dataset, value = _unwrapped(dataset), read_json(path)
        listed = value.get("samples") if isinstance(value, dict) else None
        if not isinstance(listed, list) or not listed or not all(_is_listed(pair) for pair in listed):
            raise RequestError(
                f"'{path}' is no list of reference samples; ReferenceSet.save and `secateur prune` write them: "
                '{"samples": [[position, class index], ...]}'
            )
        labels = _labels(dataset)
        for position, label in listed:
            actual = int(labels[position]) if position < len(labels) else None
            if actual != label:
                said = "does not exist" if actual is None else f"is of class {actual}, not {label}"
                raise RequestError(
                    f"'{path}' is a list of other data: sample {position} here {said}; give the data that it was drawn "
                    "from, in the same order"
                )
        return cls._at(dataset, [position for position, _ in listed])

    @classmethod
    def _at(cls, dataset: Dataset[Any], chosen: list[int]) -> ReferenceSet:
        inputs, targets = _stacked(dataset, chosen)
        normalisation = getattr(dataset, "normalisation", None)
        bounds = normalisation.bounds() if isinstance(normalisation, Normalisation) else None
        return cls(inputs, targets, tuple(chosen), bounds)

    def save(self, path: str | Path) -> Path:
        """Write the positions of the samples in their data set, and their classes, as JSON, without the samples.

        Args:
            path: of the file.

        Example:
            >>> import tempfile
            >>> from torch.utils.data import TensorDataset
            >>> data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 2)
            >>> reference = ReferenceSet.sample(data, per_class=3)
            >>> file = reference.save(Path(tempfile.mkdtemp()) / "reference.json")
            >>> ReferenceSet.read(file, data).indices == reference.indices
            True
        """
        pairs = [[int(i), int(label)] for i, label in zip(self.indices, self.targets.tolist(), strict=True)]
        return write_json(path, {"samples": pairs})

    def __post_init__(self) -> None:
        for what, value in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(value, torch.Tensor):
                raise RequestError(_no_tensor(what, value))
            if value.ndim == 0:
                raise RequestError(f"reference {what} have no dimensions; samples must be the first one")
        if len(self.inputs) != len(self.targets):
            raise RequestError(f"{len(self.inputs)} reference inputs but {len(self.targets)} targets")
        if self.targets.ndim != 1 or self.targets.is_floating_point() or self.targets.dtype == torch.bool:
            remedy = "; argmax them: targets.argmax(1)" if self.targets.ndim == 2 and self.targets.shape[1] > 1 else ""
            raise RequestError(
                f"reference targets must be one class index per sample, [N] integers, got {self.targets.dtype} of "
                f"shape {list(self.targets.shape)}{remedy}"
            )
        least = int(self.targets.min()) if len(self.targets) else 0
        if least < 0:
            raise RequestError(f"reference targets run from {least}; class indices begin at 0, leave other samples out")
        if self.inputs.dtype == torch.uint8:
            raise RequestError(
                f"reference inputs are torch.uint8 of shape {list(self.inputs.shape)}; give what the network takes, "
                "e.g. inputs.float() / 255, normalised"
            )
        if self.inputs.is_contiguous():  # those that were laid out on purpose stay
            object.__setattr__(self, "inputs", laid_out(self.inputs))

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        """One line; ``inputs`` and ``targets`` hold the values."""
        labels = self.targets.cpu().numpy()
        return f"ReferenceSet({len(self)} samples of {shape_text(self.inputs.shape[1:])}, {classes_text(labels)})"

    def _repr_html_(self) -> str:
        """Samples per class, and some of them where they are images, as HTML for notebooks."""
        return page(repr(self), self.targets.cpu().numpy(), (), self._pictures())

    def _pictures(self) -> torch.Tensor | None:
        """Some inputs as grey levels in [0, 1]; None where they are no images or their range is not known."""
        inputs = self.inputs.detach()
        if inputs.ndim != 4 or inputs.shape[1] not in (1, 3) or not inputs.is_floating_point():
            return None
        some = inputs[spread(len(inputs))].cpu()
        if self.bounds is not None:
            low, high = self.bounds
            return (some - low) / (high - low)
        return some if len(some) and float(some.min()) >= 0 and float(some.max()) <= 1 else None

    def part(self, which: range) -> ReferenceSet:
        """Some consecutive samples.

        Args:
            which: their places among these.
        """
        some = slice(which.start, which.stop)
        return ReferenceSet(self.inputs[some], self.targets[some], self.indices[some], self.bounds)

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


def _is_listed(pair: object) -> bool:
    """Whether this is a position and a class index."""
    return isinstance(pair, list) and len(pair) == 2 and all(type(number) is int and number >= 0 for number in pair)


def _unwrapped(dataset: Dataset[Any]) -> Dataset[Any]:
    """Our own images without augmentation, also from inside a `torch.utils.data.Subset`."""
    if isinstance(dataset, Subset):
        inner = _unwrapped(dataset.dataset)
        return inner.subset(dataset.indices) if isinstance(inner, LabelledImages) else dataset
    return dataset.replace(augmentation=None) if isinstance(dataset, LabelledImages) else dataset


def _no_tensor(what: str, value: object) -> str:
    """What is said of inputs or targets that are no tensor."""
    said = f"reference {what} must be one tensor, samples first, got {type(value).__name__}"
    if what == "inputs" and isinstance(value, Mapping | list | tuple):
        return f"{said}; {ONE_TENSOR}"
    if isinstance(value, str):
        return f"{said}; ReferenceSet.sample draws from a data set"
    return f"{said}; torch.as_tensor({what}) makes one of arrays and numbers"


def _labels(dataset: Dataset[Any]) -> np.ndarray:
    """Class index of each sample: from the data set's own list of them if it has one, else from the samples."""
    if isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices, np.int64)
        labels = _labels(dataset.dataset)
        if len(indices) and not -len(labels) <= indices.min() <= indices.max() < len(labels):
            raise RequestError(
                f"the subset asks for sample {indices.max()} of {len(labels)}; give it indices that exist"
            )
        return labels[indices]
    count = len(dataset)  # type: ignore[arg-type]
    for name in ("labels", "targets", "_labels"):
        values = getattr(dataset, name, None)
        if not hasattr(values, "__len__") or len(values) != count:  # type: ignore[arg-type]
            continue
        try:
            return class_labels(values, f"the data set's {name}")
        except RequestError:
            # what a data set calls so may be anything, and the samples are what counts; they are wrong too as a rule
            if not count:
                raise
            checked_pair(dataset[0], "sample 0")
    return np.array([checked_pair(dataset[i], f"sample {i}")[1] for i in range(count)], np.int64)


def _stacked(dataset: Dataset[Any], chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(dataset, LabelledImages):
        return dataset.batch(chosen)
    pairs = [checked_pair(dataset[i], f"sample {i}") for i in chosen]
    inputs, targets = collated(pairs)
    return inputs, torch.as_tensor(targets).reshape(-1).long()
