"""Logs results to experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.evaluation import Evaluation
from secateur.reports.budget_curves import budget_steps
from secateur.tracking import Tracking


def log_measured(tracking: Tracking, step: int, stages: Mapping[str, Evaluation]) -> None:
    """Log the figures measured on the test images: one table row per stage, and the last stage as metrics.

    Args:
        tracking: the trackers.
        step: step of the metrics, after those of the epochs.
        stages: evaluations by stage, in order.
    """
    rows = []
    for stage, evaluation in stages.items():
        rows.append({"stage": stage, **evaluation.to_json()})
        if evaluation.latency is not None:
            rows[-1]["latency_ms"] = evaluation.latency.median_ms
    last = list(stages.values())[-1]
    figures = ("accuracy", "balanced_accuracy", "loss", "params", "macs", "size_bytes")
    tracking.log({f"test_{name}": getattr(last, name) for name in figures}, step)
    tracking.table("measured", rows)


def log_comparison(tracking: Tracking, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log the rows of a comparison as a table, and as curves over the budget (in per mille), one line per criterion."""
    for step, line, values in budget_steps(rows):
        tracking.log(values, step, line)
    tracking.table("rows", rows)
