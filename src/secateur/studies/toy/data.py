"""The 2-D data sets: two moons, two circles, and a spiral with an arm for each class.

Source: the study in Yeom et al., "Pruning by explaining" (2021); scikit-learn draws moons and circles.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.core.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

SETS = ("moon", "circle", "mult")


@dataclass(frozen=True, eq=False)
class Points:
    """Labelled points in the plane.

    Attributes:
        x: [N, 2] float32.
        labels: [N] int64 class indices.
    """

    x: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of coordinates and labels."""
        return hashlib.sha256(self.x.tobytes() + self.labels.tobytes()).hexdigest()


def classes_of(name: str) -> int:
    """How many classes a data set has: 2 for ``moon`` and ``circle``, 4 for ``mult``, K for ``mult-K``.

    Raises:
        RequestError: for an unknown name.

    Example:
        >>> [classes_of(name) for name in ("moon", "mult", "mult-6")]
        [2, 4, 6]
    """
    if name in ("moon", "circle"):
        return 2
    if name == "mult":
        return 4
    arms = re.fullmatch(r"mult-([2-9]|1\d|20)", name)
    if arms is None:
        raise RequestError(
            f"unknown toy data set '{name}'; known: {', '.join(SETS)} (4 spiral arms), mult-K with K from 2 to 20"
        )
    return int(arms[1])


def draw(name: str, per_class: int, seed: int) -> Points:
    """Points as in the published study, the same for the same seed.

    ``moon``: two half circles, normal noise 0.1. ``circle``: radii 1 and 0.3, normal noise 0.1. ``mult``: arm j of K
    with radius r from 0 to 1 and angle θ from 4j to 4(j + 1), both in equal steps, plus 0.2 times a normal number on
    θ; the point is (r sin θ, r cos θ). So the first sample of each arm is the origin.

    Args:
        name: see `classes_of`.
        per_class: points of each class.
        seed: of the draw, 0 to 2³² - 1.

    Raises:
        RequestError: for an unknown name, fewer than one point per class, or a negative seed.

    Example:
        >>> import numpy as np
        >>> points = draw("moon", 5, seed=0)
        >>> points.x.shape, np.bincount(points.labels).tolist()
        ((10, 2), [5, 5])
    """
    import numpy as np

    classes = classes_of(name)
    if per_class < 1:
        raise RequestError(f"samples per class must be at least 1, got {per_class}")
    if not 0 <= seed < 2**32:
        raise RequestError(f"a toy seed must lie between 0 and 2^32 - 1, got {seed}")
    if name in ("moon", "circle"):
        x, labels = _scikit(name, 2 * per_class, seed)
    else:
        x, labels = _spiral(classes, per_class, seed)
    return Points(x.astype(np.float32), labels.astype(np.int64))


def draw_noisy(name: str, sigma: float, seed: int, total: int = 500) -> Points:
    """Unseen points for a run: ``total`` drawn with the next seed, plus normal noise on both coordinates.

    The noise comes from a stream of its own; for the same seed, other σ move the same points by the same directions.

    Raises:
        RequestError: for a negative σ.
    """
    import numpy as np

    from secateur.core.randomness import numpy_generator

    if not sigma >= 0:
        raise RequestError(f"the noise's standard deviation must be at least 0, got {sigma:g}")
    points = draw(name, total // classes_of(name), seed + 1)
    noise = numpy_generator(seed, "toy noise", name).normal(size=points.x.shape)
    return Points((points.x + sigma * noise).astype(np.float32), points.labels)


def _scikit(name: str, total: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import make_circles, make_moons
    except ImportError as error:
        raise RequestError("the toy study needs scikit-learn: pip install 'secateur[toy]'") from error
    if name == "moon":
        return make_moons(total, noise=0.1, random_state=seed)  # type: ignore[no-any-return]
    return make_circles(total, noise=0.1, factor=0.3, random_state=seed)  # type: ignore[no-any-return]


def _spiral(classes: int, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    normal = np.random.RandomState(seed)
    arms = []
    for arm in range(classes):
        radius = np.linspace(0, 1, per_class)
        angle = np.linspace(4 * arm, 4 * (arm + 1), per_class) + 0.2 * normal.standard_normal(per_class)
        arms.append(np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1))
    return np.concatenate(arms), np.repeat(np.arange(classes), per_class)
