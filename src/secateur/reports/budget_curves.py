"""Rows of a comparison as curves over the budget, for experiment trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.reports.rows import read_rows
from secateur.reports.summary import ComparisonRow, aggregate

_TIMES = ("share", "interval_low", "interval_high", "spread")
METRICS = (
    *("accuracy", "balanced_accuracy", "loss", "macs", "weights"),
    *(f"{prefix}_{name}" for prefix in ("latency", "onnx") for name in _TIMES),
)


@dataclass(frozen=True)
class BudgetCurve:
    """One figure of one criterion over the budget, mean over seeds.

    Attributes:
        metric: one of `METRICS`; behind it subset of classes and stage, where they say something.
        line: the criterion (class-blind ones apart), with its strategy where rows have several.
        points: value by step; the step is the budget in per mille.
    """

    metric: str
    line: str
    points: dict[int, float]


def budget_curves(rows: Sequence[Mapping[str, Any]]) -> list[BudgetCurve]:
    """Curves over the budget, in the order of first appearance.

    Example:
        >>> one, = budget_curves([{"criterion": "lrp", "budget": 0.5, "accuracy": a} for a in (0.5, 1.0)])
        >>> one.metric, one.line, one.points
        ('accuracy', 'lrp', {500: 0.75})
    """
    points = [
        point for point in aggregate(read_rows(ComparisonRow, rows), by_subset=True) if point["budget"] is not None
    ]
    pruned = [point for point in points if point["strategy"] != "unpruned"]
    varying = [name for name in ("model", "dataset", "strategy") if len({point[name] for point in pruned}) > 1]
    found: dict[tuple[str, str], dict[int, float]] = {}
    for metric in METRICS:
        for point in points:
            if point[metric] is None:
                continue
            group = [point["subset"]] * (point["subset"] != "all") + ["fine-tuned"] * point["finetuned"]
            first = "unpruned" if point["strategy"] == "unpruned" else point["criterion"]
            line = ", ".join([first, *(point[name] for name in varying if point[name] not in ("", first))])
            found.setdefault(("/".join([metric, *group]), line), {})[round(1000 * point["budget"])] = point[metric]
    return [BudgetCurve(*key, values) for key, values in found.items()]


def budget_steps(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, dict[str, float]]]:
    """Step, line and values of the curves, steps rising: what a tracker takes."""
    found = budget_curves(rows)
    for step in sorted({step for curve in found for step in curve.points}):
        for line in dict.fromkeys(curve.line for curve in found if step in curve.points):
            yield step, line, {c.metric: c.points[step] for c in found if c.line == line and step in c.points}
