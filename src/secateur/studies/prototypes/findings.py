"""What the rows say: which way is ahead at the same MACs, and what prototype pruning changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.core.errors import SecateurError
from secateur.core.statistics import all_pairs, mean_interval, paired_difference
from secateur.experiments import Finding, Tables, TextTable
from secateur.reports import JointPruningLine, joint_cells
from secateur.studies.prototypes.cells import UNPRUNED
from secateur.studies.prototypes.tables import LAST, PRUNED, TUNED

if TYPE_CHECKING:
    import pandas as pd

HEAD = ("pruned", "MACs", "params", "prototypes", "cut", "last layer", "trained", "change", "purity")


def unpruned(tables: Tables) -> pd.DataFrame:
    """Rows of the unpruned networks by seed.

    Raises:
        SecateurError: where none is measured.
    """
    rows = tables["measured"][tables["measured"]["way"] == UNPRUNED]
    if not len(rows):
        raise SecateurError(
            "no unpruned network is measured: their cells failed or are not finished; `secateur study status` has the "
            "reason, `secateur study retry` repeats them"
        )
    return rows.set_index("seed")


def lines(tables: Tables) -> list[JointPruningLine]:
    """One line for each way and budget, means over seeds."""
    frame, whole, found = tables["measured"], unpruned(tables), []
    for (way, _), part in frame[frame["way"] != UNPRUNED].groupby(["way", "budget"], sort=False):
        stages = {stage: part[part["stage"] == stage].set_index("seed") for stage in (PRUNED, LAST, TUNED)}
        end = stages[TUNED]
        change = paired_difference(end["accuracy"], whole["accuracy"])
        known = change.low is not None and change.high is not None
        found.append(
            JointPruningLine(
                way=str(way),
                macs=_mean(end["macs"]),
                params=_mean(end["params"]),
                prototypes=_mean(end["prototypes"]),
                of=_mean(whole["prototypes"]),
                pruned=_mean(stages[PRUNED]["accuracy"]),
                last=_mean(stages[LAST]["accuracy"]),
                trained=_mean(end["accuracy"]),
                change=change.mean,
                interval=(float(change.low or 0), float(change.high or 0)) if known else None,
                purity=_mean(end["purity"]),
                runs=len(end),
            )
        )
    return found


def prototype_findings(tables: Tables) -> list[Finding]:
    """At each budget, after all training: whether the way with the best mean is ahead of each other one, by seed.

    Of ways without a budget: whether they are as good as the unpruned network. Intervals are simultaneous for all pairs
    of ways at a budget, and for all ways without one.
    """
    frame, found = tables["measured"], []
    ends = frame[(frame["way"] != UNPRUNED) & (frame["stage"] == TUNED)]
    for budget, part in ends[ends["backbone"] != UNPRUNED].groupby("budget", sort=False):
        means = part.set_index(["way", "seed"])["accuracy"]
        order = means.groupby("way", sort=False).mean().sort_values(ascending=False, kind="stable").index
        for other in order[1:]:
            difference = paired_difference(means[order[0]], means[other], all_pairs(len(order)))
            text = f"{float(str(budget)):.0%} of the MACs, all trained: {order[0]} is ahead of {other}"
            found.append(Finding(text, difference.verdict, _figures(difference)))
    whole = unpruned(tables)["accuracy"]
    ways = list(ends[ends["backbone"] == UNPRUNED].groupby("way", sort=False))
    for way, part in ways:
        lost = paired_difference(whole, part.set_index("seed")["accuracy"], len(ways))
        found.append(Finding(f"{way}: the unpruned network is ahead", lost.verdict, _figures(lost)))
    return found


def _figures(difference: Any) -> str:
    return f"{100 * difference.mean:+.1f} points{difference.interval_text(100)}, {difference.count} seeds"


def _mean(values: pd.Series[Any]) -> float:
    return mean_interval(values.to_numpy(float)).mean


def overview(tables: Tables) -> list[TextTable]:
    """A line for each way and budget."""
    base = unpruned(tables)
    title = f"accuracy in % (unpruned {100 * base['accuracy'].mean():.2f}, {base['samples'].iloc[0]:,} images, "
    title += f"{len(base)} seed{'s' * (len(base) > 1)})"
    return [TextTable(title, HEAD, [joint_cells(line) for line in lines(tables)])]
