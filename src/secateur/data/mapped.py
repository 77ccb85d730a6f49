"""Storage of images: an array, a memory-mapped file without a copy in memory, or separate files.

Axes: N samples, H rows, W columns, C channels.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from secateur.core.errors import RequestError
from secateur.data.settings import Resize

_RELEASED = 64 << 20
"""Bytes of the file in this process's memory, before they are handed back to the system."""

_AROUND = 64 << 10
"""Bytes that the system reads into memory with each image, in addition to its own (Linux)."""


class MappedImages:
    """Rows of a mapped array, in any order; indexing copies the requested ones.

    Behaves as an array uint8 [N, H, W, C] that can be read. Other processes are sent the file's name and the rows, not
    the pixels. Pages that were read stay in the system's cache, but do not count as this process's memory for long.

    Args:
        images: opened from a file, [M, H, W, C]; see `stored_images`.
        rows: of ``images``, [N]; None: all of them.
        resized: how they were made from the images as stored; None: they are as stored.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "images.npy"
        >>> np.save(file, np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1))
        >>> images = MappedImages(np.load(file, mmap_mode="r")).pick([4, 0, 5])
        >>> images.shape, images[1:].ravel().tolist()
        ((3, 1, 1, 1), [0, 5])
    """

    def __init__(self, images: np.memmap, rows: Any = None, resized: Resize | None = None) -> None:
        self._images = images
        self.resized = resized
        self.rows = np.arange(len(images)) if rows is None else np.asarray(rows, np.int64)
        self._read = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self.rows), *self._images.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._images.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self._images.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """The images at an index, a slice, several indices or where a mask is true: a copy in memory."""
        rows = self.rows[index]
        images: np.ndarray = np.take(np.asarray(self._images), rows, axis=0)
        self._read += images.nbytes + rows.size * _AROUND
        if self._read > _RELEASED:
            self._read = 0
            release(self._images)
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All images, in memory."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def pick(self, indices: Any) -> MappedImages:
        """Some of the images, still in the file."""
        return MappedImages(self._images, self.rows[indices], self.resized)

    def __reduce__(self) -> tuple[Any, ...]:
        """Name of the file, where the array lies in it, and the rows."""
        root = _root(self._images)
        offset = root.offset + self._images.ctypes.data - root.ctypes.data
        return _opened, (root.filename, self._images.dtype, offset, self._images.shape, self.rows, self.resized)


def _root(images: np.memmap) -> np.memmap:
    """The array that was opened; slices of it have its offset."""
    while isinstance(images.base, np.memmap):
        images = images.base
    return images


def _opened(
    file: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], rows: np.ndarray, resized: Resize | None
) -> MappedImages:
    """As another process gets them."""
    return MappedImages(np.memmap(file, dtype, "r", offset, shape), rows, resized)


def has_size(images: np.ndarray | MappedImages, resize: Resize | None) -> bool:
    """Whether resizing would leave images as they are.

    Args:
        images: [N, H, W, C].
        resize: size that they are to be given.

    Raises:
        RequestError: for images that were given another size when they were decoded.
    """
    resized = images.resized if isinstance(images, MappedImages) else None
    if resized is not None and resize not in (None, resized):
        raise RequestError(f"images were decoded with {resized} and cannot be given {resize}; open the data with that")
    if resize is None or resized is not None:
        return True
    return resize.crop in (None, resize.size) and images.shape[1:3] == (resize.size, resize.size)


StoredImages = np.ndarray[Any, Any] | MappedImages | list[Path]
"""Result of `stored_images`."""


def stored_images(images: Any, channels: int) -> StoredImages:
    """Images in the form that `LabelledImages` reads.

    Args:
        images: a uint8 array [N, H, W, C], which stays in its file where it is all that lies in one piece of one that
            is opened for reading only; such images already; or paths, also as text.
        channels: of the network; images of one channel serve three.

    Raises:
        RequestError: for anything else.
    """
    if not isinstance(images, np.ndarray | MappedImages):
        return _paths(images)
    stored = images.shape[-1] if images.ndim == 4 else None
    if images.dtype != np.uint8 or (stored != channels and (stored, channels) != (1, 3)):
        raise RequestError(
            f"images are {images.dtype} of shape {images.shape}; "
            f"expected uint8 [N, H, W, {channels}] for a normalisation of {channels} channel(s)"
        )
    return MappedImages(images) if isinstance(images, np.memmap) and _is_mapped(images) else images


def picked_images(images: StoredImages, rows: np.ndarray) -> StoredImages:
    """Some images, in the form that they are in; those in a mapped file stay there.

    Args:
        images: what `stored_images` gave.
        rows: of them, in the order wanted.
    """
    if isinstance(images, list):
        return [images[row] for row in rows]
    return images.pick(rows) if isinstance(images, MappedImages) else images[rows]


def _is_mapped(images: np.memmap) -> bool:
    """Whether another process can open the same array by name."""
    if images.flags.writeable or not images.flags.c_contiguous:
        return False
    root = _root(images)
    return root.filename is not None and isinstance(root.base, mmap.mmap)


def _paths(images: Any) -> list[Path]:
    """Paths, also when they are given as text."""
    if isinstance(images, str) or hasattr(images, "detach") or not hasattr(images, "__len__"):
        raise RequestError(
            f"images are a {type(images).__name__}; expected a uint8 array [N, H, W, C] or the paths of files"
        )
    wrong = next((image for image in images if not isinstance(image, str | Path)), None)
    if wrong is not None:
        raise RequestError(
            f"images hold a {type(wrong).__name__}; expected a uint8 array [N, H, W, C] or the paths of files"
        )
    return [Path(image) for image in images]


def release(images: np.memmap) -> None:
    """Let go of the pages of a mapped file that were read; they are read again when they are needed.

    Args:
        images: opened for reading only.
    """
    base: Any = _root(images).base
    if hasattr(base, "madvise"):  # not on Windows
        base.madvise(mmap.MADV_DONTNEED)
