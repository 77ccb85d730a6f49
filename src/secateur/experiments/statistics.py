"""Statistics of any study's table: means over repetitions, paired comparisons, ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from secateur.core.comparisons import (
    BONFERRONI,
    CORRECTIONS,
    FEWEST_BLOCKS,
    AverageRanks,
    Comparison,
    compare_pairs,
    friedman_ranks,
)
from secateur.core.errors import RequestError
from secateur.core.statistics import MeanInterval, mean_interval
from secateur.experiments.question import MISSING, Question
from secateur.experiments.study import Tables

if TYPE_CHECKING:
    import pandas as pd

CANDIDATE = "candidate"
"""Column of the candidates' names in the tables that are made here."""


@dataclass(frozen=True)
class Statistics:
    """What a table says of candidates; see `study_statistics`.

    Attributes:
        question: that was asked, its columns those that the table has.
        means: of every candidate, in every block and for every averaged value, with 95 % intervals over pairs, each by
            itself.
        overall: mean of every candidate over all of them, with its interval over pairs.
        comparisons: of pairs, the mean over blocks and averaged values first.
        ranks: over blocks; None where they cannot be told, and ``notes`` say why.
        notes: what is not claimed, and why, a line each.
        correction: of the comparisons for their number, a name of `secateur.core.comparisons.CORRECTIONS`.
    """

    question: Question
    means: pd.DataFrame
    overall: pd.DataFrame
    comparisons: Sequence[Comparison]
    ranks: AverageRanks | None
    notes: Sequence[str]
    correction: str = BONFERRONI

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All of it by name, for files."""
        import pandas as pd

        found = {"means": self.means, "overall": self.overall, "comparisons": _comparison_frame(self)}
        if self.ranks is not None:
            rows = list(self.ranks.average.items())
            frame = pd.DataFrame(rows, columns=[CANDIDATE, "average_rank"])
            for name in ("blocks", "statistic", "p_value", "iman_davenport", "critical_difference"):
                frame[name] = getattr(self.ranks, name)
            found["ranks"] = frame
        return found


def study_statistics(
    tables: Tables, question: Question, against: str | None = None, correction: str = BONFERRONI
) -> Statistics:
    """Answer a question from the tables of a study.

    - Means: of each candidate in each block and for each averaged value, over the pairs (seeds), with their intervals.
    - Comparisons: for each pair label, the mean of a candidate over blocks and averaged values; then the paired t-test
      over labels, corrected for the number of comparisons, see `secateur.core.comparisons.compare_pairs`.
    - Ranks: for each block, the mean of a candidate over pairs and averaged values; then Friedman's test over blocks.

    Nothing is claimed of incomplete or too few values: a note says so.

    Args:
        tables: as the study assembles them.
        question: what is asked.
        against: a candidate that the others are compared with; None: all pairs.
        correction: for the number of comparisons, ``bonferroni`` or ``holm``.

    Raises:
        RequestError: for an unknown correction, columns that the table does not have, values that are no numbers, or
            several rows for the same candidate, pair, block and averaged value.
    """
    if correction not in CORRECTIONS:
        raise RequestError(f"unknown correction '{correction}'; known: {', '.join(CORRECTIONS)}")
    frame = _rows(tables, question)
    candidates, frame = _named(frame, question)
    if len(candidates) < 2:
        raise RequestError(
            f"there is only one candidate, '{candidates[0]}'; name other columns to compare (--compare), or fewer "
            "conditions (--where)"
        )
    if against is not None and against not in candidates:
        raise RequestError(f"there is no candidate '{against}'; there are: {', '.join(candidates)}")
    _check_single(frame, question)
    pairs, blocks, average = list(question.pairs), list(question.blocks), list(question.average)
    groups = [CANDIDATE, *blocks, *average]
    wide = frame.pivot(index=[*pairs, *blocks, *average], columns=CANDIDATE, values=question.measure)[candidates]
    over_pairs = _mean_of_complete(wide, pairs)
    notes = _missing(wide, candidates)
    comparisons = compare_pairs(over_pairs, against, correction)
    notes += _untold(comparisons)
    ranks, why = _ranks(wide, blocks, candidates, not question.lower_is_better)
    means = _means(frame, groups, question.measure)
    overall = over_pairs.melt(ignore_index=False, var_name=CANDIDATE, value_name=question.measure)
    whole = _means(overall, [CANDIDATE], question.measure)
    return Statistics(question, means, whole, comparisons, ranks, [*notes, *why], correction)


def _rows(tables: Tables, question: Question) -> pd.DataFrame:
    """Of the table, those that are meant, with a number each."""
    if question.table not in tables:
        raise RequestError(f"the study has no table '{question.table}'; it has: {', '.join(tables)}")
    frame = tables[question.table]
    asked = [question.measure, *question.columns, *(each.column for each in question.conditions)]
    for name in asked:
        if name not in frame.columns:
            raise RequestError(
                f"table '{question.table}' has no column '{name}'; it has: {', '.join(map(str, frame.columns))}"
            )
    twice = [name for name in question.columns if question.columns.count(name) > 1 or name == question.measure]
    if twice:
        raise RequestError(f"column '{twice[0]}' is named twice; it can be compared, paired, ranked over or averaged")
    for condition in question.conditions:
        frame = frame[[condition.holds(value) for value in frame[condition.column]]]
    if frame.empty:
        raise RequestError(
            f"no row of table '{question.table}' is left "
            f"({', '.join(map(str, question.conditions)) or 'it is empty'}); choose others by --where"
        )
    try:
        numbers = frame[question.measure].astype("Float64").astype(float)
    except (TypeError, ValueError) as error:
        raise RequestError(f"column '{question.measure}' holds no numbers; measure another one (--measure)") from error
    # pandas would leave out rows without a value in these
    gaps = [name for name in (*question.pairs, *question.blocks, *question.average) if frame[name].isna().any()]
    labels = {name: frame[name].astype(object).where(frame[name].notna(), MISSING) for name in gaps}
    return frame.assign(**labels, **{question.measure: numbers})


def _named(frame: pd.DataFrame, question: Question) -> tuple[list[str], pd.DataFrame]:
    """Candidates in their order, by those columns in which they differ."""
    differ = [name for name in question.compare if frame[name].nunique(dropna=False) > 1] or [question.compare[0]]
    names = frame[differ].astype(str).agg(", ".join, axis=1)
    return list(dict.fromkeys(names)), frame.assign(**{CANDIDATE: names})


def _check_single(frame: pd.DataFrame, question: Question) -> None:
    """That there is one row for each value of the columns together."""
    keys = [CANDIDATE, *question.pairs, *question.blocks, *question.average]
    twice = frame[frame.duplicated(keys, keep=False)]
    if twice.empty:
        return
    first = twice[(twice[keys] == twice[keys].iloc[0]).all(axis=1)]
    others = [name for name in frame.columns if name not in (*keys, *question.compare, question.measure)]
    plain = [name for name in others if not frame[name].map(lambda value: isinstance(value, (bytes, float))).any()]
    varied = [name for name in plain if first[name].astype(str).nunique() > 1]
    varied = varied or [name for name in others if first[name].astype(str).nunique() > 1]
    where = ", ".join(f"{key}={first[key].iloc[0]}" for key in keys)
    raise RequestError(
        f"there are {len(first)} rows for {where}"
        + (f"; they differ in {', '.join(varied[:4])}" if varied else "")
        + ": choose by --where, or name a column in --compare, --pairs, --blocks or --average"
    )


def _mean_of_complete(wide: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over all other levels of the index; NaN where one is missing, so that no mean is of other things."""
    rest = [name for name in wide.index.names if name not in by]
    if not rest:
        return wide
    if not by:
        return wide.mean(skipna=False).to_frame().T
    grid = wide
    if len(wide.index.names) > 1:
        labels = wide.index.to_frame(index=False)
        left, right = labels[list(by)].drop_duplicates(), labels[rest].drop_duplicates()
        grid = wide.reindex(left.merge(right, how="cross").set_index(list(wide.index.names)).index)
    groups = grid.groupby(level=list(by), sort=False)
    return groups.mean().where(groups.count().eq(groups.size(), axis=0))


def _means(frame: pd.DataFrame, groups: Sequence[str], measure: str) -> pd.DataFrame:
    """A row for each group."""
    import pandas as pd

    rows = []
    for key, part in frame.groupby(list(groups), sort=False):
        values = part[measure].dropna()
        if len(values):
            found = mean_interval(values.to_numpy(float))
            rows.append([*key, found.mean, found.low, found.high, found.count])
    return pd.DataFrame(rows, columns=[*groups, measure, "low", "high", "count"])


def _missing(wide: pd.DataFrame, candidates: Sequence[str]) -> list[str]:
    lacking = wide.isna().sum()
    return [
        f"{name}: {lacking[name]} of {len(wide)} values are missing; nothing is claimed that needs them"
        for name in candidates
        if lacking[name]
    ]


def _untold(comparisons: Sequence[Comparison]) -> list[str]:
    """Reasons, each in one line with the number of comparisons."""
    reasons: dict[str, int] = {}
    for each in comparisons:
        if each.reason:
            reasons[each.reason] = reasons.get(each.reason, 0) + 1
    return [f"{count} of {len(comparisons)} comparisons have no p-value: {why}" for why, count in reasons.items()]


def _ranks(
    wide: pd.DataFrame, blocks: Sequence[str], candidates: Sequence[str], higher: bool
) -> tuple[AverageRanks | None, list[str]]:
    """Ranks, or why there are none."""
    if not blocks:
        return None, ["no ranks: name the columns of data sets, networks or subsets to rank over (--blocks)"]
    values = _mean_of_complete(wide, blocks)
    if len(candidates) < 3:
        return None, ["no ranks: they need three candidates, there are two"]
    what = f"{'blocks' if len(values) > 1 else 'block'} ({', '.join(blocks)})"
    gaps = int(values.isna().any(axis=1).sum())
    if gaps:
        return None, [f"no ranks: {gaps} of {len(values)} {what} are incomplete"]
    if len(values) < FEWEST_BLOCKS:
        return None, [
            f"no ranks: {len(values)} {what} {'are' if len(values) > 1 else 'is'} too few (at least {FEWEST_BLOCKS})"
        ]
    return friedman_ranks(values, higher), []


def _comparison_frame(found: Statistics) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for each in found.comparisons:
        difference = each.difference or MeanInterval(float("nan"), None, None, 0)
        together = each.simultaneous or MeanInterval(float("nan"), None, None, 0)
        ends = [difference.mean, difference.low, difference.high, together.low, together.high, difference.count]
        rows.append([each.one, each.other, *ends, each.p_value, each.corrected, found.correction, each.reason])
    columns = [
        "one", "other", "difference", "low", "high", "simultaneous_low", "simultaneous_high", "pairs", "p_value",
        "p_corrected", "correction", "reason",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
