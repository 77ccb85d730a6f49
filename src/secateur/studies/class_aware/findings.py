"""What rows say of class-aware pruning: gains over class-blind scores, accuracy at equal latency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secateur.core.statistics import MeanInterval, mean_interval
from secateur.core.timing import LatencyShare
from secateur.experiments import Finding, Tables
from secateur.studies.compare.findings import name_of
from secateur.studies.compare.tables import rows_of

Row = Mapping[str, Any]


def gains(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Accuracy by class-aware scores minus that by class-blind ones, for every criterion that has both.

    Differences are taken within each pair of subset and seed at the same budget; ``low`` and ``high`` are the 95 %
    interval of Student's t over these pairs (as if they were independent; seeds of one subset are so in part only).

    Returns:
        Rows with strategy, criterion, finetuned, budget (None for the mean over all budgets), gain, low, high, pairs,
        and better, the number of pairs in which class-aware scores win.
    """
    accuracy: dict[tuple[Any, ...], dict[tuple[str, Any], float]] = defaultdict(dict)
    for row in rows:
        if row["structured"] and row["criterion"] != "none":
            key = (row["strategy"], row["criterion"], row["finetuned"], row["budget"])
            accuracy[key][row["scored_on"], (row["subset"], row["seed"])] = row["accuracy"]
    found: list[dict[str, Any]] = []
    whole: dict[tuple[Any, ...], dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (strategy, criterion, finetuned, budget), values in accuracy.items():
        pairs = [pair for where, pair in values if where == "subset" and ("all", pair) in values]
        if not pairs:
            continue
        differences = {pair: values["subset", pair] - values["all", pair] for pair in pairs}
        for pair, difference in differences.items():
            whole[strategy, criterion, finetuned][pair].append(difference)
        found.append(_gain(strategy, criterion, finetuned, budget, list(differences.values())))
    for (strategy, criterion, finetuned), by_pair in whole.items():
        found.append(_gain(strategy, criterion, finetuned, None, [float(np.mean(d)) for d in by_pair.values()]))
    return found


def _gain(strategy: str, criterion: str, finetuned: bool, budget: float | None, values: list[float]) -> dict[str, Any]:
    found = mean_interval(values)
    return {
        "strategy": strategy,
        "criterion": criterion,
        "finetuned": finetuned,
        "budget": budget,
        "gain": found.mean,
        "low": found.low,
        "high": found.high,
        "pairs": len(values),
        "better": sum(value > 0 for value in values),
    }


def at_latency(rows: Iterable[Row], shares: Sequence[float]) -> list[dict[str, Any]]:
    """Accuracy at equal latency: read off each timed curve, linearly between its budgets.

    A curve is one criterion, subset and seed, from the unpruned network (share 1) down. Where latency does not fall
    from one budget to the next, the better network of those at most as slow counts. A network whose time cannot be told
    from the unpruned one's counts as just as slow. A share that some subset's curve does not reach is None.

    Returns:
        Rows with strategy, criterion, scored_on, finetuned, latency_share, accuracy (mean over curves), curves.
    """
    every = list(rows)
    unpruned = {row["subset"]: row["accuracy"] for row in every if row["criterion"] == "none"}
    curves: dict[tuple[Any, ...], dict[Any, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in every:
        if row["structured"] and row["criterion"] != "none" and row["latency_share"] is not None:
            key = (row["strategy"], row["criterion"], row["scored_on"], row["finetuned"])
            time = LatencyShare.from_columns(row)
            same = time is not None and time.interval is not None and not time.measurable
            curves[key][row["subset"], row["seed"]].append((1.0 if same else row["latency_share"], row["accuracy"]))
    found = []
    for (strategy, criterion, scored_on, finetuned), by_pair in curves.items():
        for share in shares:
            values = [
                _read_off([(1.0, unpruned[subset]), *points], share) for (subset, _), points in by_pair.items()
            ]  # fmt: skip
            reached = [value for value in values if value is not None]
            found.append(
                {
                    "strategy": strategy,
                    "criterion": criterion,
                    "scored_on": scored_on,
                    "finetuned": finetuned,
                    "latency_share": share,
                    "accuracy": float(np.mean(reached)) if len(reached) == len(values) else None,
                    "curves": len(values),
                }
            )
    return found


def _read_off(points: list[tuple[float, float]], share: float) -> float | None:
    """Accuracy at a latency share on the line through the points that no other point beats in both."""
    best: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points):
        if not best or accuracy > best[-1][1]:
            best.append((latency, accuracy))
    if share < best[0][0]:
        return None
    return float(np.interp(share, [p[0] for p in best], [p[1] for p in best]))


def timings(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Seconds of preparation by criterion, means: one scoring (shared by all budgets), one surgery, one retraining."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["criterion"] != "none":
            for column in ("scoring_s", "surgery_s", "retraining_s"):
                found[name_of(row)][column] += [] if row[column] is None else [row[column]]
    return [
        {"criterion": name} | {column: float(np.mean(values)) if values else None for column, values in spent.items()}
        for name, spent in found.items()
    ]


def class_aware_findings(tables: Tables) -> list[Finding]:
    """Whether each criterion is better with samples of the subset's classes than with those of all, at all budgets."""
    found = []
    for row in gains(rows_of(tables)):
        if row["budget"] is None:
            gain = MeanInterval(row["gain"], row["low"], row["high"], row["pairs"])
            stage = "after retraining" if row["finetuned"] else "before retraining"
            found.append(
                Finding(
                    f"{row['strategy']}: {row['criterion']} is better class-aware than class-blind, {stage}",
                    gain.verdict,
                    f"{100 * gain.mean:+.1f} points{gain.interval_text(100)}, {gain.count} pairs",
                )
            )
    return found
