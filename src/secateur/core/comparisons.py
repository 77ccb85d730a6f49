"""Many candidates compared: paired tests corrected for their number, average ranks by Friedman and Nemenyi."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from secateur.core.statistics import CONFIDENCE, MeanInterval, paired_difference

if TYPE_CHECKING:
    import pandas as pd

FEWEST_PAIRS = 3
"""Of a paired test; of fewer nothing is claimed."""

FEWEST_BLOCKS = 5
"""Of a test on ranks; of fewer nothing is claimed, as its distribution is an approximation for many."""


@dataclass(frozen=True)
class Comparison:
    """Two candidates, compared where both were measured; see `compare_pairs`.

    Attributes:
        one, other: their names.
        difference: mean of one minus other, with the 95 % interval of this pair by itself; None: they have no label in
            common.
        p_value: of the paired t-test, two-sided; None: it cannot be told, see ``reason``.
        corrected: p-value for all comparisons that were made with it.
        simultaneous: the difference with its interval among all of them; None: there is no p-value, or the correction
            has no such intervals.
        reason: why there is no p-value; "" where there is one.
    """

    one: str
    other: str
    difference: MeanInterval | None
    p_value: float | None = None
    corrected: float | None = None
    simultaneous: MeanInterval | None = None
    reason: str = ""

    @property
    def verdict(self) -> bool | None:
        """Whether the first is higher; None: the corrected p-value is not below 0.05, or there is none."""
        if self.difference is None or self.corrected is None or self.corrected >= 1 - CONFIDENCE:
            return None
        return self.difference.mean > 0


@dataclass(frozen=True)
class AverageRanks:
    """Candidates ranked in every block, rank 1 the best, equal values sharing their mean rank.

    Source: Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 2006.

    Attributes:
        average: rank of each candidate, the best first.
        blocks: how many.
        statistic: Friedman's χ², corrected for ties.
        p_value: of it, with candidates - 1 degrees of freedom.
        iman_davenport: p-value of the F statistic of Iman and Davenport, which is less conservative.
        critical_difference: of two average ranks by Nemenyi, 5 %.
    """

    average: dict[str, float]
    blocks: int
    statistic: float
    p_value: float
    iman_davenport: float
    critical_difference: float

    @property
    def differ(self) -> bool:
        """Whether candidates differ at all at 5 %, which pairs are only looked at after."""
        return self.p_value < 1 - CONFIDENCE

    def groups(self) -> list[tuple[str, ...]]:
        """Candidates that are not told apart: the longest runs within a critical difference, of two or more.

        Example:
            >>> ranks = AverageRanks({"a": 1.0, "b": 1.9, "c": 3.1}, 10, 9.0, 0.01, 0.01, 1.05)
            >>> ranks.groups()
            [('a', 'b')]
        """
        names, found = list(self.average), list[tuple[str, ...]]()
        limit, reached = self.critical_difference if self.differ else np.inf, 0
        for first, name in enumerate(names):
            end = sum(self.average[other] <= self.average[name] + limit for other in names)
            if end > max(first + 1, reached):
                found.append(tuple(names[first:end]))
                reached = end
        return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method, in the same order.

    With p(1) ≤ ... ≤ p(m): the largest of (m - i + 1) · p(i) over i ≤ j, at most 1.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 1979.

    Example:
        >>> [round(each, 3) for each in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    numbers = np.asarray(p_values, float)
    order = np.argsort(numbers, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(numbers[order] * np.arange(len(numbers), 0, -1)))
    found = np.empty(len(numbers))
    found[order] = stepped
    return found.tolist()


def bonferroni(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: each times m, at most 1.

    Source: Dunn, "Multiple comparisons among means", J. Am. Stat. Assoc. 1961.

    Example:
        >>> [round(each, 3) for each in bonferroni([0.01, 0.04, 0.03])]
        [0.03, 0.12, 0.09]
    """
    return [min(1.0, len(p_values) * each) for each in p_values]


BONFERRONI = "bonferroni"

CORRECTIONS: Mapping[str, Callable[[Sequence[float]], list[float]]] = {BONFERRONI: bonferroni, "holm": holm}
"""For the number of comparisons, by name."""


def compare_pairs(values: pd.DataFrame, against: str | None = None, correction: str = BONFERRONI) -> list[Comparison]:
    """Compare all candidates with each other, or with one, by paired t-tests corrected for their number m.

    - ``bonferroni``: the p-value times m, and simultaneous intervals of level 1 - 0.05 / m (see
      `secateur.core.statistics.mean_interval`). One leaves out 0 exactly where its p-value is below 0.05, which is
      where the pair is told apart.
    - ``holm``: smaller p-values, so that more pairs may be told apart. There are no simultaneous intervals that agree
      with them, so there are none.

    Both make a wrong claim about any of the pairs in 5 % of the cases at most. Pairs without a p-value do not count.

    Args:
        values: a column for each candidate, a row for each label that pairs them, such as a seed; NaN: not measured.
        against: the candidate that the others are compared with; None: all pairs.
        correction: a name of `CORRECTIONS`.

    Example:
        >>> import pandas as pd
        >>> found, = compare_pairs(pd.DataFrame({"lrp": [0.9, 0.8, 0.9], "weight": [0.6, 0.6, 0.5]}))
        >>> round(found.difference.mean, 2), round(found.p_value, 3), found.verdict
        (0.3, 0.035, True)
    """
    names = [str(name) for name in values.columns]
    pairs = itertools.combinations(names, 2) if against is None else ((against, n) for n in names if n != against)
    found = [_compared(values, one, other) for one, other in pairs]
    tested = [each.p_value for each in found if each.p_value is not None]
    corrected = iter(CORRECTIONS[correction](tested))
    many = len(tested) if correction == BONFERRONI else None
    return [each if each.p_value is None else _among(values, each, next(corrected), many) for each in found]


def _among(values: pd.DataFrame, found: Comparison, corrected: float, comparisons: int | None) -> Comparison:
    """A comparison among others; their number where there are simultaneous intervals."""
    if comparisons is None:
        return replace(found, corrected=corrected)
    simultaneous = paired_difference(values[found.one].dropna(), values[found.other].dropna(), comparisons)
    return replace(found, corrected=corrected, simultaneous=simultaneous)


def _compared(values: pd.DataFrame, one: str, other: str) -> Comparison:
    from scipy import special

    a, b = values[one].dropna(), values[other].dropna()
    both = a.index.intersection(b.index)
    if both.empty:
        return Comparison(one, other, None, reason="nothing was measured for both")
    difference = paired_difference(a, b)
    if len(both) < len(values):
        reason = f"{len(values) - len(both)} of {len(values)} pairs are incomplete"
        return Comparison(one, other, difference, reason=reason)
    if len(both) < FEWEST_PAIRS:
        return Comparison(one, other, difference, reason=f"{len(both)} pairs are too few (at least {FEWEST_PAIRS})")
    numbers = (a.loc[both] - b.loc[both]).to_numpy(float)
    if np.ptp(numbers) <= 1e-12 * max(1.0, float(np.abs(numbers).max())):
        if np.abs(numbers).max() <= 1e-12:
            return Comparison(one, other, difference, 1.0)
        return Comparison(one, other, difference, reason="all pairs differ by the same: they are no repetitions")
    error = np.std(numbers, ddof=1) / np.sqrt(len(numbers))
    p_value = 2 * special.stdtr(len(numbers) - 1, -abs(np.mean(numbers) / error))
    return Comparison(one, other, difference, float(p_value))


def friedman_ranks(values: pd.DataFrame, higher_is_better: bool = True) -> AverageRanks:
    """Rank candidates in every block, and test whether they differ.

    Args:
        values: a column for each candidate (three or more), a row for each block (two or more), such as a data set;
            none missing.
        higher_is_better: else the lowest has rank 1.

    Raises:
        ValueError: for fewer, or missing values.

    Example:
        >>> import pandas as pd
        >>> found = friedman_ranks(pd.DataFrame({"a": [3, 3, 3, 3, 2], "b": [2, 2, 2, 2, 3], "c": [1, 1, 1, 1, 1]}))
        >>> {name: round(rank, 1) for name, rank in found.average.items()}, round(found.p_value, 3)
        ({'a': 1.2, 'b': 1.8, 'c': 3.0}, 0.015)
        >>> round(found.critical_difference, 2), found.groups()
        (1.48, [('a', 'b'), ('b', 'c')])
    """
    from scipy import stats

    blocks, candidates = values.shape
    if candidates < 3 or blocks < 2 or values.isna().any(axis=None):
        raise ValueError(f"ranks need three candidates and two blocks without gaps, got {candidates} and {blocks}")
    numbers = values.to_numpy(float)
    ranked = stats.rankdata(-numbers if higher_is_better else numbers, axis=1)
    means = ranked.mean(axis=0)
    if (ranked == ranked[:, :1]).all():  # all equal in all blocks
        statistic, p_value = 0.0, 1.0
    else:
        statistic, p_value = map(float, stats.friedmanchisquare(*numbers.T))
    rest = blocks * (candidates - 1) - statistic
    f_value = (blocks - 1) * statistic / rest if rest > 1e-12 else np.inf
    iman = float(stats.f.sf(f_value, candidates - 1, (candidates - 1) * (blocks - 1)))
    quantile = stats.studentized_range.ppf(CONFIDENCE, candidates, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(candidates * (candidates + 1) / (6 * blocks)))
    order = np.argsort(means, kind="stable")
    average = {str(values.columns[index]): float(means[index]) for index in order}
    return AverageRanks(average, blocks, statistic, p_value, iman, critical)
