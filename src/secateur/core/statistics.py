"""Means with intervals, and paired differences: the one place where figures measured under noise are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
"""Of all intervals."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its 95 % interval of Student's t.

    Attributes:
        mean: over the values.
        low, high: ends of the interval; None: of fewer than two values there is none.
        count: of values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def verdict(self) -> bool | None:
        """Whether the true mean is above 0; None: the interval holds 0, or there is none."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return self.low > 0

    def interval_text(self, scale: float = 1.0) -> str:
        """As `` [+0.1, +0.5]``; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f" [{scale * self.low:+.1f}, {scale * self.high:+.1f}]"


def mean_interval(values: Sequence[float] | np.ndarray) -> MeanInterval:
    """Mean of values and its interval.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0])
        >>> found.mean, round(found.low, 3), found.verdict
        (2.0, -0.484, None)
    """
    from scipy import special  # here: nearly two seconds of every command otherwise

    numbers = np.asarray(values, float)
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return MeanInterval(mean, None, None, len(numbers))
    half = special.stdtrit(len(numbers) - 1, (1 + CONFIDENCE) / 2) * np.std(numbers, ddof=1) / np.sqrt(len(numbers))
    return MeanInterval(mean, float(mean - half), float(mean + half), len(numbers))


def paired_difference(one: pd.Series, other: pd.Series) -> MeanInterval:
    """Mean of one minus other over the labels that both have, with its interval.

    Args:
        one: values by label, such as (subset, seed).
        other: likewise.
    """
    both = one.index.intersection(other.index)
    return mean_interval((one.loc[both] - other.loc[both]).to_numpy(float))
