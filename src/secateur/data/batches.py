"""Batches that are read as a whole, for loaders that request many samples."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler, get_worker_info

from secateur.core.errors import RequestError
from secateur.core.ranks import Ranks
from secateur.data.samples import collated

Pair = tuple[torch.Tensor, int]


class Batch(Sequence[Pair]):
    """Samples in one block of memory: a sequence of pairs, and a whole batch for `collated_batch`.

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
    """A batch [inputs, labels] of samples of a data set: a `Batch` as it is, others stacked.

    Args:
        samples: a `Batch`, or pairs of input and class index.

    Raises:
        RequestError: for samples that are not pairs of tensor and class index, or do not fit into one batch.
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


class _Parts(Sampler[list[int]]):
    """A rank's part of each batch; the whole batch where it has fewer samples than there are ranks."""

    def __init__(self, batches: BatchSampler, of: Ranks) -> None:
        self._batches, self._of = batches, of

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            share = self._of.sharing(len(batch)).share(len(batch))
            yield batch[share.start : share.stop]


def parts_of_batches(loader: DataLoader[Any], of: Ranks) -> DataLoader[Any]:
    """A loader of one rank's part of each batch, which reads no other samples; with one rank, the loader itself.

    Args:
        loader: a loader with a batch sampler that returns the same batches on all ranks.
        of: the ranks.

    Example:
        >>> from torch.utils.data import BatchSampler, SequentialSampler
        >>> numbers = list(range(5))
        >>> loader = DataLoader(numbers, batch_sampler=BatchSampler(SequentialSampler(numbers), 3, drop_last=False))
        >>> [batch.tolist() for batch in parts_of_batches(loader, Ranks(1, 2))]
        [[1, 2], [4]]
    """
    if not of.several:
        return loader
    assert loader.batch_sampler is not None
    return _with_batches(loader, _Parts(loader.batch_sampler, of))  # type: ignore[arg-type]


def whole_batches(batches: Iterable[Any], of: Ranks) -> Iterable[Any]:
    """The batches of one rank, which are dealt out in turn; with one rank, all of them.

    Args:
        batches: the same on all ranks. A loader with a batch sampler reads no other rank's samples; of others, batches
            are passed over.
        of: the ranks.

    Example:
        >>> list(whole_batches("abcde", Ranks(1, 2)))
        ['b', 'd']
    """
    if not of.several:
        return batches
    if isinstance(batches, DataLoader) and batches.batch_sampler is not None:
        own = list(itertools.islice(batches.batch_sampler, of.rank, None, of.size))
        return _with_batches(batches, own)
    return itertools.islice(batches, of.rank, None, of.size)


def _with_batches(loader: DataLoader[Any], batches: Iterable[list[int]]) -> DataLoader[Any]:
    """The same loader with other batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
    )
