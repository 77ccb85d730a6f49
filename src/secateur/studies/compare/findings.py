"""What the rows of a comparison say: which criterion is ahead, and time spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.core.statistics import all_pairs, paired_difference
from secateur.experiments import Finding, Tables
from secateur.studies.compare.cells import UNPRUNED

Row = Mapping[str, Any]


def name_of(row: Row) -> str:
    """What tables call a row's criterion."""
    if not row.get("structured", True):
        return f"{row['criterion']} (masked weights)"
    return f"{row['criterion']} (class-blind)" if row.get("scored_on") == "all" else str(row["criterion"])


def compare_findings(tables: Tables) -> list[Finding]:
    """For each strategy: whether the criterion with the best mean accuracy is ahead of each other one.

    Differences are taken within each pair of subset and seed, at all budgets together, before retraining. Intervals
    are simultaneous for all pairs of criteria of a strategy, since the figures themselves say which one is the best.
    """
    frame = tables["compare"]
    used = frame[frame["structured"] & ~frame["finetuned"] & (frame["criterion"] != UNPRUNED)]
    found = []
    for strategy, part in used.groupby("strategy", sort=False):
        names = part["criterion"].where(part["scored_on"] != "all", part["criterion"] + " (class-blind)")
        means = part.assign(criterion=names).groupby(["criterion", "subset", "seed"])["accuracy"].mean()
        order = means.groupby("criterion").mean().sort_values(ascending=False, kind="stable").index
        for other in order[1:]:
            difference = paired_difference(means[order[0]], means[other], all_pairs(len(order)))
            figures = f"{100 * difference.mean:+.1f} points{difference.interval_text(100)}, {difference.count} pairs"
            found.append(Finding(f"{strategy}: {order[0]} is ahead of {other}", difference.verdict, figures))
    return found


@dataclass(frozen=True)
class Overhead:
    """Time for all budgets together, against what cannot be saved.

    Attributes:
        budgets: how many.
        parts: criteria times subsets times seeds.
        total_s: seconds of all parts, without retraining.
        least_s: of one scoring pass and the evaluation of each budget's network.
    """

    budgets: int
    parts: int
    total_s: float
    least_s: float

    @property
    def ratio(self) -> float:
        """Total over least."""
        return self.total_s / self.least_s

    def __str__(self) -> str:
        return (
            f"{self.budgets} budgets from one scoring pass: {self.total_s:.1f} s in {self.parts} parts without "
            f"retraining, {self.ratio:.2f} times (one scoring pass + {self.budgets} evaluations)"
        )


def overhead(rows: Iterable[Row]) -> Overhead | None:
    """What choosing, cutting and the rest add to scoring and evaluation in one-shot parts; None without any."""
    parts: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        one_shot = row["structured"] and str(row["strategy"]).startswith("one-shot")
        if one_shot and not row["finetuned"] and row["scored_on"] == "subset" and row["scoring_s"] is not None:
            parts[row["strategy"], row["subset"], row["criterion"], row["seed"]].append(row)
    if not parts:
        return None
    total = sum(part[0]["part_s"] for part in parts.values())
    least = sum(part[0]["scoring_s"] + sum(row["evaluation_s"] for row in part) for part in parts.values())
    return Overhead(len(next(iter(parts.values()))), len(parts), total, least)
