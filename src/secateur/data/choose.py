"""Small training sets that represent a large one."""

from __future__ import annotations

import numpy as np

from secateur.core.errors import RequestError
from secateur.core.randomness import numpy_generator

FLOOR = 1e-3
"""Least variance of a draw, as a share of its class's: that of one sample would be zero, its divergence infinite."""


def closest_subset(features: np.ndarray, labels: np.ndarray, size: int, seed: int = 0, trials: int = 200) -> np.ndarray:
    """Few samples, balanced over the classes, whose statistics are close to those of all.

    For every class, ``trials`` random sets of samples are drawn, and the one is kept whose diagonal Gaussian is closest
    to that of the whole class (means m, variances v, per feature f; d: draw, c: class):
    KL(d || c) = 1/2 Σ_f [log(v_c / v_d) + (v_d + (m_d - m_c)²) / v_c - 1].
    Features that do not vary within a class do not count there. One class's draw does not depend on the others.
    As in OCAP, which fine-tunes on 20 to 128 images that are selected this way.

    Args:
        features: of each sample, [N, F]; activations of a late layer, say.
        labels: class of each sample, [N].
        size: samples to choose in all; class sizes differ by one at most, the most frequent classes give one more.
        seed: of the draws.
        trials: draws per class.

    Returns:
        Sorted indices, [size].

    Raises:
        RequestError: for features that are not finite or do not fit the labels, fewer samples than classes, or more
            than there are of a class.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(60, 4))
        >>> chosen = closest_subset(features, np.arange(60) % 3, size=12)
        >>> np.bincount(chosen % 3).tolist()
        [4, 4, 4]
    """
    features = np.asarray(features, np.float64)
    labels = np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise RequestError(f"features must be [N, F] with one label each, got {features.shape} and {labels.shape}")
    if not np.isfinite(features).all():
        raise RequestError("features hold NaN or infinite values; look for them in the network or its inputs")
    if trials < 1:
        raise RequestError(f"trials must be at least 1, got {trials}")
    classes, counts = np.unique(labels, return_counts=True)
    positions = []
    for index, count in zip(classes, _shares(classes, counts, size), strict=True):
        where = np.flatnonzero(labels == index)
        generator = numpy_generator(seed, "closest", index)
        positions.append(where[_closest_draw(_standardised(features[where]), int(count), generator, trials)])
    return np.sort(np.concatenate(positions))


def _shares(classes: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """Samples to choose of each class."""
    if size > counts.sum():
        raise RequestError(f"{size} samples are asked for, there are {counts.sum()}; lower the size")
    if size < len(classes) or not len(classes):
        raise RequestError(f"{size} sample(s) cannot represent {len(classes)} classes; choose at least one of each")
    shares = np.full(len(classes), size // len(classes))
    shares[np.argsort(-counts, kind="stable")[: size % len(classes)]] += 1
    short = np.flatnonzero(shares > counts)
    if len(short):
        first = short[0]
        raise RequestError(
            f"class {classes[first]} has {counts[first]} sample(s), a balanced choice of {size} takes {shares[first]}; "
            "lower the size or leave the class out"
        )
    return shares


def _standardised(features: np.ndarray) -> np.ndarray:
    """Features of one class with mean 0 and variance 1; those that do not vary but by rounding are left out."""
    mean, variance = features.mean(0), features.var(0)
    varied = variance > 1e-12 * mean**2
    return np.asarray((features[:, varied] - mean[varied]) / np.sqrt(variance[varied]))


def _closest_draw(standard: np.ndarray, count: int, generator: np.random.Generator, trials: int) -> np.ndarray:
    """Of several random draws, the one whose Gaussian is closest to the standard one: KL = 1/2 Σ (v - log v + m² - 1).

    Args:
        standard: features of the class's samples, standardised.
        count: samples in a draw.
        generator: of the draws.
        trials: how many.
    """
    best, least = np.arange(count), np.inf
    for _ in range(trials):
        draw = generator.permutation(len(standard))[:count]
        variance = np.maximum(standard[draw].var(0), FLOOR)
        divergence = 0.5 * float(np.sum(variance - np.log(variance) + standard[draw].mean(0) ** 2 - 1))
        if divergence < least:
            best, least = draw, divergence
    return best
