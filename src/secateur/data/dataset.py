"""Labelled images in memory or on disk, with their classes, normalisation and size.

Axes: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, get_worker_info

from secateur.core.errors import RequestError
from secateur.core.layouts import laid_out
from secateur.core.randomness import torch_generator
from secateur.data.batches import Batch, collated_batch, worker_errors
from secateur.data.classes import class_indices, label_of
from secateur.data.display import classes_text, page, shape_text, spread
from secateur.data.images import read_image, resized_arrays
from secateur.data.labels import class_labels
from secateur.data.mapped import MappedImages, has_size, picked_images, stored_images
from secateur.data.samples import check_dataset
from secateur.data.settings import Resize
from secateur.data.splits import Assignment


@dataclass(frozen=True)
class Normalisation:
    """Per-channel affine map from [0, 1] to the network's inputs: (x - mean) / std.

    Example:
        >>> Normalisation((0.5,), (0.25,)).bounds()
        (-2.0, 2.0)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        # lists come from JSON
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != len(self.std) or not self.mean or not finite or min(self.std) <= 0:
            raise RequestError(
                f"normalisation needs one mean and one std > 0 per channel, got {self.mean} and {self.std}"
            )

    def __repr__(self) -> str:
        """One line, however many channels."""
        if len(self.mean) > 4:
            ranges = (f"{min(v):.4g} to {max(v):.4g}" for v in (self.mean, self.std))
            return f"Normalisation({len(self.mean)} channels, mean {next(ranges)}, std {next(ranges)})"
        return f"Normalisation(mean={_rounded(self.mean)}, std={_rounded(self.std)})"

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value any channel can take; the box of the z^B-rule."""
        low = min((0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        high = max((1 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return low, high

    def undo(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Map inputs back to [0, 1], for display."""
        mean, std = (torch.tensor(v, device=images_NCHW.device)[:, None, None] for v in (self.mean, self.std))
        return (images_NCHW * std + mean).clamp(0, 1)


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


@dataclass(frozen=True)
class ResizingAugmentation:
    """An augmentation that also resizes images, and gets them as stored.

    Attributes:
        transform: transform of one uint8 CHW image, for example ``v2.RandomResizedCrop(224)``.
    """

    transform: Callable[[torch.Tensor], torch.Tensor]


Augmentation = Callable[[torch.Tensor], torch.Tensor] | ResizingAugmentation
"""A transform of one uint8 CHW image."""


class LabelledImages(Dataset[tuple[torch.Tensor, int]]):
    """One split: images with integer labels, delivered normalised.

    Args:
        images: uint8 array [N, H, W, C], or paths of files; an array mapped for reading only stays in its file.
        labels: class index of each sample, [N].
        class_names: name of each class index.
        normalisation: map from [0, 1] to the network's input.
        resize: size to which images are resized; None: they have one size already.
        augmentation: transform of one uint8 CHW image, for example one of torchvision's v2, between resizing and
            normalisation; within `ResizingAugmentation`, instead of resizing.
        window: window of DICOM files, see `secateur.data.images.read_pixels`.

    Indexing returns ``(image CHW float32, label)``; `batch` reads many at once, and data loaders use it.
    """

    def __init__(
        self,
        images: np.ndarray | MappedImages | Sequence[Path],
        labels: np.ndarray,
        class_names: Sequence[str],
        normalisation: Normalisation,
        resize: Resize | None = None,
        augmentation: Augmentation | None = None,
        window: tuple[float, float] | None = None,
    ) -> None:
        self.images = stored_images(images, len(normalisation.mean))
        self.labels = class_labels(labels)
        if len(images) != len(self.labels):
            raise RequestError(f"{len(images)} images but {len(self.labels)} labels")
        self.class_names = tuple(class_names)
        self.normalisation = normalisation
        self.resize = resize
        self.augmentation = augmentation
        self.window = window
        if len(self.labels) and self.labels.max() >= len(self.class_names):
            raise RequestError(
                f"labels run from {self.labels.min()} to {self.labels.max()} but there are "
                f"{len(self.class_names)} class names"
            )

    @property
    def shape_text(self) -> str:
        """Shape of one image, as far as it is known without opening one."""
        sides = ("H", "W") if isinstance(self.images, list) else self.images.shape[1:3]
        sides = sides if self.resize is None else (self.resize.side, self.resize.side)
        return shape_text((len(self.normalisation.mean), *sides))

    def __repr__(self) -> str:
        """One line."""
        return f"LabelledImages({len(self):,} images of {self.shape_text}, {classes_text(self.labels)})"

    def _repr_html_(self) -> str:
        """For notebooks: images per class, and some of them."""
        some = spread(len(self))
        # files have sizes of their own
        resize = self.resize or (Resize(size=64) if isinstance(self.images, list) else None)
        plain = self.replace(augmentation=None, resize=resize)
        try:
            pictures = plain.raw(some).float() / 255 if some else None
        except RequestError:  # a file that cannot be read is shown by those who need it
            pictures = None
        return page(repr(self), self.labels, self.class_names, pictures)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        images, labels = self.batch([index])
        return images[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Many samples at once, for PyTorch's loaders and subsets."""
        with worker_errors():
            return Batch(*self.batch(indices))

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, C, H, W] float32 normalised, labels [N] int64."""
        if self.augmentation is None:
            raw = self.raw(indices)
        elif isinstance(self.augmentation, ResizingAugmentation):
            raw = torch.stack([self.augmentation.transform(self._stored(index)) for index in indices])
        else:
            raw = torch.stack([self.augmentation(image) for image in self.raw(indices)])
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.normalisation.mean, self.normalisation.std))
        images_NCHW = torch.empty(raw.shape, dtype=torch.float32)
        if get_worker_info() is not None:
            images_NCHW.share_memory_()  # made where the loader's process reads it, or it would be copied once more
        images_NCHW.copy_(raw).div_(255).sub_(mean).div_(std)
        return images_NCHW, torch.from_numpy(self.labels[np.asarray(indices)])

    def raw(self, indices: Sequence[int]) -> torch.Tensor:
        """The images as stored and resized, uint8 [N, C, H, W]."""
        if isinstance(self.images, list):
            return torch.stack([self._read(self.images[index], self.resize) for index in indices])
        pixels = self.images[np.asarray(indices)]
        if self.resize is not None and not has_size(self.images, self.resize):
            pixels = resized_arrays(pixels, self.resize)
        return laid_out(self._channels(pixels))

    def _stored(self, index: int) -> torch.Tensor:
        """One image of the size that it is stored with, uint8 [C, H, W]."""
        if isinstance(self.images, list):
            return self._read(self.images[index], None)
        return self._channels(self.images[[index]])[0]

    def _read(self, path: Path, resize: Resize | None) -> torch.Tensor:
        return read_image(path, len(self.normalisation.mean), resize, self.window)

    def _channels(self, images_NHWC: np.ndarray) -> torch.Tensor:
        """[N, C, H, W] in as many channels as the network takes."""
        images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
        grey = len(self.normalisation.mean) == 3 and images_NCHW.shape[1] == 1
        return images_NCHW.expand(-1, 3, -1, -1) if grey else images_NCHW

    def subset(self, indices: Sequence[int] | np.ndarray) -> LabelledImages:
        """The same split with only the samples at ``indices`` (or where a boolean mask is true)."""
        picked = np.arange(len(self))[np.asarray(indices) if len(indices) else slice(0)]
        return self.replace(images=picked_images(self.images, picked), labels=self.labels[picked])

    def only(self, classes: Sequence[int | str], renumber: bool = False) -> LabelledImages:
        """The images of some classes.

        Args:
            classes: indices or names.
            renumber: let labels run from 0 to k-1 and keep only the names of these classes, both in ascending order of
                the old indices, which is the order of logits in a network cut to these classes. Otherwise labels and
                names stay.

        Raises:
            RequestError: for an unknown class, one named twice, or one without images.

        Example:
            >>> pixels = np.zeros((4, 8, 8, 1), np.uint8)
            >>> split = LabelledImages(pixels, np.array([0, 1, 2, 2]), ("a", "b", "c"), Normalisation((0.5,), (0.5,)))
            >>> split.only(["c", "a"]).labels.tolist(), split.only(["c", "a"], renumber=True).labels.tolist()
            ([0, 2, 2], [0, 1, 1])
        """
        indices = class_indices(classes, self.class_names)
        left = self.subset(samples_of(self.labels, indices, self.class_names, "these images"))
        if not renumber:
            return left
        return left.replace(
            labels=np.searchsorted(indices, left.labels), class_names=[self.class_names[index] for index in indices]
        )

    def replace(self, **changes: Any) -> LabelledImages:
        """A copy with some constructor arguments changed."""
        names = ("images", "labels", "class_names", "normalisation", "resize", "augmentation", "window")
        return LabelledImages(**{name: changes.get(name, getattr(self, name)) for name in names})


@dataclass(frozen=True)
class ImageData:
    """A data set: three splits that share class names and normalisation.

    Attributes:
        name: name of the data set.
        train: images for training.
        val: images for decisions during training.
        test: images for the final figures.
        skipped: why images were left out, one line each.
        assignment: the split of all images, before ``limit`` and ``classes``; None: the source itself has only splits.
    """

    name: str
    train: LabelledImages
    val: LabelledImages
    test: LabelledImages
    skipped: tuple[str, ...] = ()
    assignment: Assignment | None = None

    def __repr__(self) -> str:
        """One line."""
        counts = ", ".join(f"{len(getattr(self, split)):,} {split}" for split in ("train", "val", "test"))
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        classes = f"{len(self.class_names)} classes"
        return f"ImageData('{self.name}': {counts} images of {self.train.shape_text}, {classes}{skipped})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class index."""
        return self.train.class_names

    @property
    def normalisation(self) -> Normalisation:
        """How [0, 1] becomes the network's input."""
        return self.train.normalisation

    @property
    def resize(self) -> Resize | None:
        """Size that images are given; None: as stored."""
        return self.train.resize

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one sample."""
        image, _ = self.test[0]
        channels, height, width = image.shape
        return channels, height, width

    def with_normalisation(self, normalisation: Normalisation) -> ImageData:
        """The same images with the normalisation of a network's training."""
        if len(normalisation.mean) != len(self.normalisation.mean):
            raise RequestError(
                f"the network expects {len(normalisation.mean)} channel(s), data '{self.name}' has "
                f"{len(self.normalisation.mean)}; open it with channels={len(normalisation.mean)}"
            )
        splits = {s: getattr(self, s).replace(normalisation=normalisation) for s in ("train", "val", "test")}
        return dataclasses.replace(self, **splits)

    def renumbered(self, labels: Sequence[int | None], class_names: Sequence[str]) -> ImageData:
        """The same images with the class indices of a network that numbers classes differently.

        Args:
            labels: new index of each class; None: of a class that has no images.
            class_names: by new index.

        Raises:
            RequestError: for images of a class without new index.
        """
        table = np.array([-1 if label is None else label for label in labels], np.int64)
        splits = {
            name: getattr(self, name).replace(labels=table[getattr(self, name).labels], class_names=class_names)
            for name in ("train", "val", "test")
        }
        return dataclasses.replace(self, **splits)

    def only(self, classes: Sequence[int | str], renumber: bool = False) -> ImageData:
        """The images of some classes in every split; see `LabelledImages.only`. An empty split stays empty.

        Normalisation stays that of the whole data set, which networks trained on it expect.

        Raises:
            RequestError: for an unknown class, one named twice, or one without images in a split.
        """
        indices = class_indices(classes, self.class_names)
        parts: dict[str, Any] = {}
        for name in ("train", "val", "test"):
            split: LabelledImages = getattr(self, name)
            if len(split):
                samples_of(split.labels, indices, self.class_names, f"the {name} split of '{self.name}'")
                split = split.only(indices, renumber)
            elif renumber:
                split = split.replace(class_names=[self.class_names[index] for index in indices])
            parts[name] = split
        return dataclasses.replace(self, **parts)


def samples_of(labels: np.ndarray, chosen: Sequence[int], class_names: Sequence[str], where: str) -> np.ndarray:
    """Positions of the samples of some classes, each of which must have one.

    Args:
        labels: class indices, [N].
        chosen: class indices.
        class_names: for the message.
        where: what the message calls the samples.

    Raises:
        RequestError: for a class without samples.
    """
    missing = [label_of(index, class_names) for index in chosen if not (labels == index).any()]
    if missing:
        raise RequestError(f"class {missing[0]} has no images in {where}; leave it out")
    return np.flatnonzero(np.isin(labels, chosen))


def loader(
    dataset: Dataset[Any],
    batch_size: int = 256,
    *,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    pin_memory: bool | None = None,
) -> DataLoader[Any]:
    """Batches of a data set, in order or shuffled by ``seed``.

    Args:
        dataset: data set of (input tensor, class index) pairs by number.
        batch_size: samples in each batch but the last.
        shuffle: whether to shuffle the samples, in another order in each pass.
        seed: seed of the orders.
        workers: number of processes that read samples.
        pin_memory: whether batches are in pinned memory, from which a GPU copies faster; None: where there is CUDA.

    Returns:
        A loader of batches (inputs, labels); samples that do not fit into a batch are refused when they are read.

    Raises:
        RequestError: for anything but a data set with a length and samples by number, or a batch size below 1.

    Example:
        >>> pixels = np.zeros((4, 8, 8, 1), np.uint8)
        >>> split = LabelledImages(pixels, np.array([0, 1, 0, 1]), ("a", "b"), Normalisation((0.5,), (0.5,)))
        >>> [tuple(images.shape) for images, labels in loader(split, 3)]
        [(3, 1, 8, 8), (1, 1, 8, 8)]
    """
    check_dataset(dataset, "loader")
    if batch_size < 1:
        raise RequestError(f"batch size must be at least 1, got {batch_size}")
    order: Any = SequentialSampler(dataset)  # type: ignore[arg-type]
    if shuffle:
        order = RandomSampler(dataset, generator=torch_generator(seed, "order"))  # type: ignore[arg-type]
    batches = BatchSampler(order, batch_size, drop_last=False)
    pin = torch.cuda.is_available() if pin_memory is None else pin_memory
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collated_batch, pin_memory=pin)
