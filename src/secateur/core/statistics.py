"""Means with intervals, and paired differences: the one place where figures measured under noise are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
"""Of all intervals; of simultaneous ones, that all of them hold together."""


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its interval of Student's t, see `mean_interval`.

    Attributes:
        mean: over the values.
        low, high: ends of the interval; None: of fewer than two values there is none.
        count: of values.
        comparisons: how many such intervals hold together in 95 % of the cases.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    comparisons: int = 1

    @property
    def verdict(self) -> bool | None:
        """Whether the true mean is above 0; None: the interval holds 0, or there is none."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return self.low > 0

    def interval_text(self, scale: float = 1.0) -> str:
        """As `` [+0.1, +0.5]``, and of how many simultaneous ones; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f" [{scale * self.low:+.1f}, {scale * self.high:+.1f}]{self.together}"

    @property
    def together(self) -> str:
        """Of how many simultaneous intervals it is one; empty where it is by itself."""
        return f" (simultaneous, {self.comparisons} comparisons)" if self.comparisons > 1 else ""


def mean_interval(values: Sequence[float] | np.ndarray, comparisons: int = 1) -> MeanInterval:
    """Mean of values and its interval: mean ± t(1 - 0.05 / 2m; n - 1) · s / √n.

    With m = 1 it is the 95 % interval of this mean by itself. With more, it is one of m simultaneous intervals of
    Bonferroni, each of level 1 - 0.05 / m: all of them hold their true means together in 95 % of the cases or more,
    whatever their dependence. So whoever claims something wherever one of them leaves out 0 makes a wrong claim in 5 %
    of the cases at most, also where the data themselves say which of the m are looked at.

    Source: Dunn, "Multiple comparisons among means", J. Am. Stat. Assoc. 1961.

    Args:
        values: n of them, with standard deviation s.
        comparisons: m, how many intervals are looked at together.

    Example:
        >>> found = mean_interval([1.0, 2.0, 3.0])
        >>> found.mean, round(found.low, 3), found.verdict
        (2.0, -0.484, None)
        >>> round(mean_interval([1.0, 2.0, 3.0], comparisons=3).low, 3)
        -2.416
    """
    from scipy import special  # here: nearly two seconds of every command otherwise

    numbers = np.asarray(values, float)
    mean = float(np.mean(numbers))
    if len(numbers) < 2:
        return MeanInterval(mean, None, None, len(numbers), comparisons)
    tail = (1 - CONFIDENCE) / (2 * comparisons)
    half = -special.stdtrit(len(numbers) - 1, tail) * np.std(numbers, ddof=1) / np.sqrt(len(numbers))
    return MeanInterval(mean, float(mean - half), float(mean + half), len(numbers), comparisons)


def paired_difference(one: pd.Series, other: pd.Series, comparisons: int = 1) -> MeanInterval:
    """Mean of one minus other over the labels that both have, with its interval.

    Args:
        one: values by label, such as (subset, seed).
        other: likewise.
        comparisons: how many differences are looked at together, see `mean_interval`.
    """
    both = one.index.intersection(other.index)
    return mean_interval((one.loc[both] - other.loc[both]).to_numpy(float), comparisons)


def all_pairs(candidates: int) -> int:
    """How many pairs candidates have: comparisons with the one that turned out best are some of all of them.

    Example:
        >>> all_pairs(4)
        6
    """
    return candidates * (candidates - 1) // 2
