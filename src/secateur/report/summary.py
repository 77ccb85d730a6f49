"""Tidy rows to one point per setting: mean and spread over seeds, grouped into comparable panels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Point = dict[str, Any]

PANEL_KEYS = ("model", "dataset", "strategy", "budget_kind")
POINT_KEYS = (*PANEL_KEYS, "criterion", "budget", "finetuned")
FIGURES = (
    "units",
    "params",
    "macs",
    "accuracy",
    "balanced_accuracy",
    "loss",
    "latency_ms",
    "latency_share",
    "size_bytes",
)


@dataclass(frozen=True)
class Panel:
    """Points that may be compared with each other: one model, data set, strategy and kind of budget."""

    title: str
    points: list[Point]


def number(value: Any) -> float | None:
    """Return a finite float, or ``None`` for everything else.

    Example:
        >>> number(3), number(float("nan")), number("3"), number(None)
        (3.0, None, None, None)
    """
    if isinstance(value, bool | str) or value is None:
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def aggregate(rows: Iterable[Row]) -> list[Point]:
    """Average over seeds.

    Returns:
        One point per model, data set, strategy, kind of budget, criterion, budget and stage (fine-tuned or
        not), in the order of first appearance; with the mean of every figure under its own name,
        ``<figure>_low``, ``<figure>_high``, ``<figure>_std`` (sample standard deviation, ``None`` for one
        seed), and ``seeds``, the number of rows.

    Example:
        >>> rows = [{"criterion": "lrp", "budget": 0.5, "accuracy": a} for a in (0.8, 0.9)]
        >>> point, = aggregate(rows)
        >>> round(point["accuracy"], 3), point["accuracy_low"], point["seeds"]
        (0.85, 0.8, 2)
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_key(row, name) for name in POINT_KEYS), []).append(row)
    return [_point(key, members) for key, members in groups.items()]


def panels(points: Sequence[Point]) -> list[Panel]:
    """Group points by what must not be mixed in one chart; the title names only what differs."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point[name] for name in PANEL_KEYS), []).append(point)
    varying = [len({key[place] for key in groups}) > 1 for place in range(len(PANEL_KEYS))]
    varying[PANEL_KEYS.index("strategy")] = True
    found = []
    for key, members in groups.items():
        words = [
            {"strategy": f"{value} strategy", "budget_kind": f"budget in {value}"}.get(name, value)
            for name, value, shown in zip(PANEL_KEYS, key, varying, strict=True)
            if shown and value
        ]
        title = " · ".join(words)
        found.append(Panel(title[:1].upper() + title[1:], members))
    return found


def criteria(points: Iterable[Point]) -> list[str]:
    """Names of the criteria, in the order of first appearance."""
    return list(dict.fromkeys(point["criterion"] for point in points))


def best(points: Iterable[Point]) -> set[int]:
    """Identities (``id``) of the points with the highest accuracy for their panel, budget and stage."""
    leaders: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        if point["accuracy"] is None:
            continue
        key = tuple(point[name] for name in (*PANEL_KEYS, "budget", "finetuned"))
        rivals = leaders.setdefault(key, [])
        if rivals and point["accuracy"] > rivals[0]["accuracy"]:
            rivals.clear()
        if not rivals or point["accuracy"] == rivals[0]["accuracy"]:
            rivals.append(point)
    return {id(point) for rivals in leaders.values() for point in rivals}


def _key(row: Row, name: str) -> Any:
    value = row.get(name)
    if name == "finetuned":
        return str(value).lower() in ("true", "1", "1.0")
    if name == "budget":
        share = number(value)
        return None if share is None else round(share, 6)
    return "" if value is None or value != value else str(value)


def _point(key: tuple[Any, ...], rows: Sequence[Row]) -> Point:
    point: Point = dict(zip(POINT_KEYS, key, strict=True))
    for name in FIGURES:
        values = [value for row in rows if (value := number(row.get(name))) is not None]
        point[name] = statistics.fmean(values) if values else None
        point[f"{name}_low"] = min(values, default=None)
        point[f"{name}_high"] = max(values, default=None)
        point[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    point["seeds"] = len(rows)
    return point
