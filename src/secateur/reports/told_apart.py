"""Whether the accuracies of two criteria can be told apart, and which values of a column may be marked as best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

CONFIDENCE = 0.95
FEWEST_SAMPLES = 6
"""Test samples by which two networks must differ at least. Of k samples that one network alone gets right and none
that the other alone gets right, the sign test says p = 2 · 0.5^k, which is below 0.05 from k = 6 on: whatever the two
have in common, a smaller difference may be chance."""

Run = tuple[str, float | None, str]  # subset of classes (or class), budget, seed
Accuracies = Mapping[Run, float]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Difference:
    """Accuracy of one criterion minus that of another, with its 95 % interval.

    Attributes:
        mean: over what both were measured at.
        low: of the interval.
        high: likewise.
        source: what the interval is of: differences over ``seeds``, or the number of test ``samples``.
    """

    mean: float
    low: float
    high: float
    source: Literal["seeds", "samples"]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Marks:
    """Values of a column, or of several, that are marked as best.

    Attributes:
        keys: those marked.
        compared: whether there was anything to compare.
        sources: what intervals were of, see `Difference`.
    """

    keys: frozenset[Hashable] = frozenset()
    compared: bool = False
    sources: frozenset[str] = field(default_factory=frozenset)

    def __or__(self, other: Marks) -> Marks:
        return Marks(self.keys | other.keys, self.compared or other.compared, self.sources | other.sources)

    def __str__(self) -> str:
        """What is marked and why, as a sentence; "" where there was nothing to compare."""
        if not self.compared:
            return ""
        if not self.sources:
            return (
                "No best is marked: that takes several seeds, or the number of test samples, and neither is recorded."
            )
        words = {"seeds": "paired over seeds", "samples": "from the number of test samples (binomial)"}
        how = f"95 % intervals {' or, where seeds do not differ, '.join(words[s] for s in words if s in self.sources)}"
        if not self.keys:
            return f"No best is marked: {how} do not tell the values apart."
        return (
            f"Bold: no other value of its column is measurably higher, by {how}; "
            "several bold values, or none, cannot be told apart."
        )


def best(columns: Iterable[Mapping[Key, Accuracies]], samples: Mapping[str, int] | None = None) -> Marks:
    """Mark the best of each column: those than which no other is measurably better.

    Where this would mark all, it marks none.

    Args:
        columns: of each value of a column the accuracies that it is the mean of.
        samples: test samples of each subset, where known.

    Example:
        >>> runs = {name: {("all", 0.5, "0"): value} for name, value in (("lrp", 0.90), ("weight", 0.88))}
        >>> sorted(best([runs], {"all": 10_000}).keys), sorted(best([runs], {"all": 500}).keys)
        (['lrp'], [])
    """
    found = Marks()
    for column in columns:
        found |= _marks({key: runs for key, runs in column.items() if runs}, samples or {})
    return found


def _marks(column: Mapping[Key, Accuracies], samples: Mapping[str, int]) -> Marks:
    beaten: set[Key] = set()
    sources: set[str] = set()
    keys = list(column)
    for place, one in enumerate(keys):
        for other in keys[place + 1 :]:
            found = difference(column[one], column[other], samples)
            if found is None:
                continue
            sources.add(found.source)
            if found.clear:
                beaten.add(other if found.low > 0 else one)
    top = frozenset[Hashable](set(keys) - beaten) if beaten else frozenset[Hashable]()
    return Marks(top, len(keys) > 1, frozenset(sources))


def difference(one: Accuracies, other: Accuracies, samples: Mapping[str, int]) -> Difference | None:
    """Accuracy of ``one`` minus that of ``other``, at what both were measured at.

    Where both were measured with the same two or more seeds, the interval is Student's t over the seeds' differences,
    each the mean over the subsets and budgets that both have; a difference of fewer than `FEWEST_SAMPLES` test samples
    stays unclear all the same. With one seed, or where seeds change nothing, it is that of two binomial shares of
    the number of test samples (Agresti and Caffo 2000). Both networks see the same samples, so that the true interval
    is narrower as a rule; of a mean over subsets, which may share samples, it is that of fully dependent ones.

    Args:
        one: accuracies, 0..1, by subset, budget and seed.
        other: likewise.
        samples: test samples of each subset, where known.

    Returns:
        ``None`` where nothing can be said: nothing in common, or one seed and an unknown number of samples.
    """
    pairs = one.keys() & other.keys()
    by_seed: dict[str, list[float]] = {}
    for run in pairs:
        by_seed.setdefault(run[2], []).append(one[run] - other[run])
    means = [statistics.fmean(found) for found in by_seed.values()]
    if len(means) > 1 and max(means) - min(means) > 1e-9:
        return _over_seeds(means, sum(samples.get(subset, 0) for subset in {run[0] for run in pairs}))
    return _over_samples(_cells(one), _cells(other), samples)


def accuracy_change(before: float, after: float, samples: int) -> Difference:
    """Accuracy of one network minus that of another on the same samples.

    Example:
        >>> accuracy_change(0.90, 0.88, 1000).clear, accuracy_change(0.90, 0.80, 1000).clear
        (False, True)
    """
    mean, half = _agresti_caffo(after, before, samples)
    return Difference(after - before, mean - half, mean + half, "samples")


def _over_seeds(differences: list[float], samples: int) -> Difference:
    from scipy import special  # slow to load

    count = len(differences)
    mean = statistics.fmean(differences)
    quantile = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    if samples and abs(mean) * samples < FEWEST_SAMPLES - 1e-6:
        half = max(half, abs(mean))
    return Difference(mean, mean - half, mean + half, "seeds")


def _over_samples(
    one: Mapping[tuple[str, float | None], float],
    other: Mapping[tuple[str, float | None], float],
    samples: Mapping[str, int],
) -> Difference | None:
    cells = one.keys() & other.keys()
    if not cells or any(subset not in samples for subset, _ in cells):
        return None
    found = [_agresti_caffo(one[cell], other[cell], samples[cell[0]]) for cell in cells]
    mean, half = (statistics.fmean(values) for values in zip(*found, strict=True))
    return Difference(statistics.fmean(one[c] - other[c] for c in cells), mean - half, mean + half, "samples")


def _cells(runs: Accuracies) -> dict[tuple[str, float | None], float]:
    """Means over seeds."""
    groups: dict[tuple[str, float | None], list[float]] = {}
    for (subset, budget, _), accuracy in runs.items():
        groups.setdefault((subset, budget), []).append(accuracy)
    return {cell: statistics.fmean(values) for cell, values in groups.items()}


def _agresti_caffo(one: float, other: float, samples: int) -> tuple[float, float]:
    """Middle and half width of the interval for the difference of two shares."""
    shares = [(share * samples + 1) / (samples + 2) for share in (one, other)]
    variance = sum(share * (1 - share) for share in shares) / (samples + 2)
    return shares[0] - shares[1], statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(variance)
