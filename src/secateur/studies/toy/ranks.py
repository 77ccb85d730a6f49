"""How alike pruning orders are: between seeds, criteria and numbers of reference samples.

Legend of axes: N orders, U units, W words of 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.core.errors import RequestError
from secateur.core.progress import track

MEASURES = (
    "spearman",
    "kendall",
    *(f"{end}-{count}" for count in (125, 250, 500, 1000) for end in ("first", "last")),
)

SAME_CRITERION_OTHER_SEEDS = "same criterion, other seeds"
CRITERIA_ACROSS_SEEDS = "criteria across seeds"
CRITERIA_AT_THE_SAME_SEED = "criteria at the same seed"
OTHER_COUNTS_ALL_SEEDS = "same criterion, other sample counts, all seeds"
OTHER_COUNTS_SAME_SEED = "same criterion, other sample counts, same seed"

CASES = (
    SAME_CRITERION_OTHER_SEEDS,
    CRITERIA_ACROSS_SEEDS,
    CRITERIA_AT_THE_SAME_SEED,
    OTHER_COUNTS_ALL_SEEDS,
    OTHER_COUNTS_SAME_SEED,
)

# sign bits of one order that are looked at together: 50 orders of this length fit in a core's cache
_BITS = 48_000


@dataclass(frozen=True, order=True)
class Run:
    """What a pruning order comes from.

    Attributes:
        dataset: whose network was pruned.
        criterion: that ranked the units.
        samples_per_class: reference samples of each class.
        seed: that drew the reference samples.
    """

    dataset: str
    criterion: str
    samples_per_class: int
    seed: int


def rank_rows(orders: Mapping[Run, NDArray[Any]], measures: Sequence[str] = MEASURES) -> list[dict[str, Any]]:
    """Compare pruning orders in the five published ways.

    Let r(u) be a unit's place in an order, 0 for the first to go. The measures of two orders r and s are

    - ``spearman``: Pearson's correlation of r and s, -1..1;
    - ``kendall``: τ, (concordant - discordant pairs of units) / all pairs of units, -1..1;
    - ``first-K``, ``last-K``: the share of units among the first (last) K of r that are among those of s, 0..1.

    The cases (`CASES`), each within a data set:

    1. a criterion against itself at one number of samples, seeds i < j;
    2. a criterion against another at one number of samples, *all* pairs of seeds, equal ones too, as published
       (the diagonal alone is case 3, so that the two can be told apart by their means);
    3. the same, equal seeds only;
    4. a criterion at one number of samples against itself at another, all pairs of seeds, equal ones too;
    5. the same, equal seeds only.

    A case without a pair has no row.

    Args:
        orders: unit indices [U] in pruning order, the first to go first; a permutation of 0..U-1, of the same units
            for all runs on a data set.
        measures: which to compute; Kendall's takes nearly all of the time.

    Returns:
        Rows with keys ``dataset``, ``case``, ``criterion`` (None in cases 2 and 3), ``samples_per_class`` (None in
        cases 4 and 5), ``measure``, ``a`` and ``b`` (what is compared: names of criteria, or numbers of samples as
        text), ``pairs`` of orders, ``mean`` and ``sd`` (population) over those pairs. Data sets and criteria come in
        the order of their first run, then go the cases, then numbers of samples, ascending.

    Raises:
        RequestError: for an unknown measure, or an order that is not such a permutation.

    Source:
        Yeom et al., "Pruning by explaining", Pattern Recognition 2021, rank analysis of the toy study.

    Example:
        >>> orders = {Run("moon", "lrp", 5, seed): order for seed, order in enumerate(([0, 1, 2, 3], [0, 2, 1, 3]))}
        >>> for row in rank_rows(orders, ("spearman", "kendall", "first-2")):
        ...     print(row["case"], row["measure"], round(row["mean"], 3), row["pairs"])
        same criterion, other seeds spearman 0.8 1
        same criterion, other seeds kendall 0.667 1
        same criterion, other seeds first-2 0.5 1
    """
    for measure in measures:
        _share_of(measure)
    rows: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(run.dataset for run in orders):
        mine = {run: np.asarray(order) for run, order in orders.items() if run.dataset == dataset}
        rows += _dataset_rows(dataset, mine, measures)
    return rows


@dataclass(frozen=True)
class _Cell:
    """The orders of one criterion at one number of samples; equal orders are kept once.

    Attributes:
        seeds: of the runs, ascending [S].
        which: distinct order of each run, counted from the cell's first [S].
        rows: where the distinct orders lie in the data set's matrix of ranks.
    """

    seeds: NDArray[np.int64]
    which: NDArray[np.int64]
    rows: slice


_CellKey = tuple[str, int]


@dataclass(frozen=True)
class _Comparison:
    """One line of the table, before it is measured."""

    case: str
    criterion: str | None
    samples_per_class: int | None
    a: str
    b: str
    cells: tuple[_CellKey, _CellKey]


def _dataset_rows(dataset: str, orders: Mapping[Run, NDArray[Any]], measures: Sequence[str]) -> list[dict[str, Any]]:
    cells, ranks = _cells(orders)
    for measure in measures:
        share = _share_of(measure)
        if share is not None and share[1] > ranks.shape[1]:
            raise RequestError(
                f"measure '{measure}' on '{dataset}': an order has only {ranks.shape[1]} units; choose a smaller number"
            )
    comparisons = sorted(_comparisons(cells), key=lambda comparison: CASES.index(comparison.case))
    pairs = list(dict.fromkeys(comparison.cells for comparison in comparisons))
    blocks = [(cells[a].rows, cells[b].rows) for a, b in pairs]
    found = {}
    for measure in measures:
        values = (
            _kendall(ranks, blocks, f"Kendall's tau, {dataset}")
            if measure == "kendall"
            else _products(ranks, blocks, measure)
        )
        found[measure] = dict(zip(pairs, values, strict=True))
    rows = []
    for comparison in comparisons:
        a, b = (cells[key] for key in comparison.cells)
        for measure in measures:
            values_SS = found[measure][comparison.cells][np.ix_(a.which, b.which)]
            chosen = values_SS[_TAKEN[comparison.case](a.seeds, b.seeds)]
            if chosen.size:
                rows.append(
                    {
                        "dataset": dataset,
                        "case": comparison.case,
                        "criterion": comparison.criterion,
                        "samples_per_class": comparison.samples_per_class,
                        "measure": measure,
                        "a": comparison.a,
                        "b": comparison.b,
                        "pairs": int(chosen.size),
                        "mean": float(chosen.mean()),
                        "sd": float(chosen.std()),
                    }
                )
    return rows


def _cells(orders: Mapping[Run, NDArray[Any]]) -> tuple[dict[_CellKey, _Cell], NDArray[Any]]:
    """Runs by criterion and number of samples, and the ranks [N, U] of their distinct orders."""
    by_key: dict[_CellKey, list[Run]] = {}
    for run, order in orders.items():
        _check_permutation(run, order, len(next(iter(orders.values()))))
        by_key.setdefault((run.criterion, run.samples_per_class), []).append(run)
    distinct: list[NDArray[Any]] = []
    cells = {}
    for key, runs in by_key.items():
        runs.sort()
        # a criterion that does not look at the samples has one order for all seeds: it is compared once
        known: dict[bytes, int] = {}
        start = len(distinct)
        which = []
        for run in runs:
            order = orders[run]
            name = order.astype(np.uint32).tobytes()
            if name not in known:
                known[name] = len(known)
                distinct.append(_places(order))
            which.append(known[name])
        cells[key] = _Cell(np.array([run.seed for run in runs]), np.array(which), slice(start, len(distinct)))
    return cells, np.stack(distinct)


def _check_permutation(run: Run, order: NDArray[Any], units: int) -> None:
    whole = np.issubdtype(order.dtype, np.integer)
    if order.ndim != 1 or units < 2 or not whole or not np.array_equal(np.sort(order), np.arange(units)):
        raise RequestError(
            f"the order of {run} is not a permutation of 0..{units - 1}; give each unit's index once, at least two "
            "units, and the same units for all runs on a data set"
        )


def _places(order: NDArray[Any]) -> NDArray[Any]:
    places = np.empty(len(order), np.uint16 if len(order) <= 2**16 else np.uint32)
    places[order] = np.arange(len(order))
    return places


def _comparisons(cells: Mapping[_CellKey, _Cell]) -> Iterator[_Comparison]:
    criteria = list(dict.fromkeys(criterion for criterion, _ in cells))
    counts = sorted({count for _, count in cells})
    for count in counts:
        there = [criterion for criterion in criteria if (criterion, count) in cells]
        for name in there:
            pair = (name, count), (name, count)
            yield _Comparison(SAME_CRITERION_OTHER_SEEDS, name, count, name, name, pair)
        for case in (CRITERIA_ACROSS_SEEDS, CRITERIA_AT_THE_SAME_SEED):
            for i, a in enumerate(there):
                for b in there[i + 1 :]:
                    yield _Comparison(case, None, count, a, b, ((a, count), (b, count)))
    for criterion in criteria:
        at = [count for count in counts if (criterion, count) in cells]
        for case in (OTHER_COUNTS_ALL_SEEDS, OTHER_COUNTS_SAME_SEED):
            for i, few in enumerate(at):
                for many in at[i + 1 :]:
                    pair = (criterion, few), (criterion, many)
                    yield _Comparison(case, criterion, None, str(few), str(many), pair)


_Seeds = NDArray[np.int64]
_Taken = Callable[[_Seeds, _Seeds], NDArray[np.bool_]]
"""Which pairs of runs count: seeds of both cells in, [S, S] out."""


def _earlier(a: _Seeds, b: _Seeds) -> NDArray[np.bool_]:
    return np.less.outer(a, b)


def _all(a: _Seeds, b: _Seeds) -> NDArray[np.bool_]:
    return np.ones((len(a), len(b)), bool)


def _equal(a: _Seeds, b: _Seeds) -> NDArray[np.bool_]:
    return np.equal.outer(a, b)


_TAKEN: dict[str, _Taken] = {
    SAME_CRITERION_OTHER_SEEDS: _earlier,
    CRITERIA_ACROSS_SEEDS: _all,
    CRITERIA_AT_THE_SAME_SEED: _equal,
    OTHER_COUNTS_ALL_SEEDS: _all,
    OTHER_COUNTS_SAME_SEED: _equal,
}


def _share_of(measure: str) -> tuple[str, int] | None:
    """``("first", 125)`` for ``first-125``; None for a correlation."""
    end, dash, count = measure.partition("-")
    if end in ("first", "last") and count.isdecimal() and int(count) > 0:
        return end, int(count)
    if measure not in ("spearman", "kendall"):
        raise RequestError(
            f"unknown measure '{measure}'; choose from spearman, kendall, first-K, last-K with a number K"
        )
    return None


_Block = tuple[slice, slice]


def _products(ranks: NDArray[Any], blocks: Sequence[_Block], measure: str) -> list[NDArray[np.float64]]:
    """Measures that are scalar products of one vector per order; the sums are exact in float64."""
    units = ranks.shape[1]
    share = _share_of(measure)
    if share is None:
        # twice the distance from the middle is whole, and its squares sum to U(U² - 1)/3
        vectors = 2.0 * ranks - (units - 1)
        whole = units * (units**2 - 1) / 3
    else:
        end, count = share
        vectors = (ranks < count if end == "first" else ranks >= units - count).astype(np.float64)
        whole = float(count)
    return [vectors[a] @ vectors[b].T / whole for a, b in blocks]


def _kendall(ranks: NDArray[Any], blocks: Sequence[_Block], what: str) -> list[NDArray[np.float64]]:
    """Kendall's τ of each block, exact: pairs of units (i, i + d mod U) whose order differs are counted."""
    units = ranks.shape[1]
    discordant = [np.zeros((a.stop - a.start, b.stop - b.start), np.int64) for a, b in blocks]
    step = max(1, _BITS // units)
    furthest = units // 2
    for first in track(range(1, furthest + 1, step), what):
        signs_NW = _sign_bits(ranks, range(first, min(first + step, furthest + 1)))
        for (a, b), counts in zip(blocks, discordant, strict=True):
            if counts.shape[0] <= counts.shape[1]:
                _count(signs_NW[a], signs_NW[b], counts, twin=a == b)
            else:
                _count(signs_NW[b], signs_NW[a], counts.T, twin=False)
    for (a, b), counts in zip(blocks, discordant, strict=True):
        if a == b:
            counts += counts.T
    return [1 - 4 * counts / (units * (units - 1)) for counts in discordant]


def _sign_bits(ranks: NDArray[Any], distances: range) -> NDArray[np.uint64]:
    """Whether unit i goes before unit i + d (mod U), for all i and the given d: bits [N, W · 64]."""
    orders, units = ranks.shape
    around = np.concatenate([ranks, ranks[:, : distances.stop]], axis=1)
    before = np.zeros((orders, -(-len(distances) * units // 64) * 64), bool)
    for place, d in enumerate(distances):
        # at half the way round, i and i + d are the same pair as i + d and i: it is looked at once
        pairs = units // 2 if 2 * d == units else units
        start = place * units
        np.less(ranks[:, :pairs], around[:, d : d + pairs], out=before[:, start : start + pairs])
    return np.packbits(before, axis=1).view(np.uint64)


def _count(few: NDArray[np.uint64], many: NDArray[np.uint64], counts: NDArray[np.int64], twin: bool) -> None:
    """Add the number of differing bits of each pair; of twins (the same orders), only above the diagonal."""
    for i, signs_W in enumerate(few):
        start = i + 1 if twin else 0
        counts[i, start:] += np.bitwise_count(signs_W ^ many[start:]).sum(1, dtype=np.uint32)
