"""Batches that are made at once, for loaders that ask for many samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch.utils.data import get_worker_info

from secateur.core.errors import RequestError
from secateur.data.samples import collated

Pair = tuple[torch.Tensor, int]


class Batch(Sequence[Pair]):
    """Samples that lie together in memory: a sequence of pairs for those who want them, whole for `collated_batch`.

    Args:
        images: [N, C, H, W].
        labels: int64 [N].

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 4, 4), torch.tensor([3, 5]))
        >>> [(tuple(image.shape), label) for image, label in batch]
        [((1, 4, 4), 3), ((1, 4, 4), 5)]
        >>> collated_batch(batch)[0] is batch.images
        True
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return list(self)[index]
        return self.images[index], int(self.labels[index])

    def __iter__(self) -> Iterator[Pair]:
        return zip(self.images, self.labels.tolist(), strict=True)


def collated_batch(samples: Sequence[Any]) -> Any:
    """A batch [inputs, labels] of what a data set gave: as it is where it was made at once, else stacked.

    Args:
        samples: a `Batch`, or pairs of input and class index.

    Raises:
        RequestError: for samples that are no pairs of tensor and class index, or make no batch.
    """
    with worker_errors():
        return [samples.images, samples.labels] if isinstance(samples, Batch) else collated(samples)


class WorkerError(RequestError):
    """A refusal in a worker process of a loader: PyTorch puts a traceback before its text, which is taken off again."""

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip())


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Refusals within the context are one line also when they reach the process that reads the batches."""
    try:
        yield
    except RequestError as error:
        if get_worker_info() is None:
            raise
        raise WorkerError(str(error)) from None
