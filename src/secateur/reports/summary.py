"""Rows of a comparison to one point per setting: mean and spread over seeds, grouped into comparable panels."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secateur.core.timing import LatencyShare, column_names
from secateur.reports.conditions import Conditions
from secateur.reports.rows import ROW, number
from secateur.reports.told_apart import Accuracies, Marks, Run, best

Point = dict[str, Any]

PANEL_KEYS = ("model", "dataset", "strategy", "budget_kind")
POINT_KEYS = (*PANEL_KEYS, "criterion", "scored_on", "structured", "budget", "finetuned")
BLIND = " (class-blind)"
MASKED = " (masked weights)"
WHOLE = "all"  # the subset of all classes
FIGURES = (
    "units",
    "params",
    "macs",
    "accuracy",
    "balanced_accuracy",
    "loss",
    "size_bytes",
    "weights",
    *(name for prefix in ("latency", "onnx") for name in column_names(prefix)),
)
TIMED = {"latency_share": "latency", "onnx_share": "onnx"}
"""Shares of time, and what their columns begin with."""


@dataclass(frozen=True)
class ComparisonRow:
    """One measurement of ``compare``.

    Attributes:
        model: name of the network.
        dataset: name of the data.
        subset: of classes; ``all`` is that of all classes.
        classes: names of its classes, separated by semicolons.
        criterion: its name; ``none`` for the unpruned network.
        scored_on: the images that units were scored on: those of the ``subset``, or of ``all`` classes (class-blind).
        structured: False for masked weights.
        strategy: how units were chosen; ``unpruned`` for the unpruned network.
        seed: of the reference samples.
        budget_kind: what the budget is a share of.
        budget: share that may stay.
        finetuned: whether the network was trained again.
        units: achieved share that stays.
        params: likewise.
        macs: likewise.
        weights: share of weights that are not masked.
        accuracy: share of right answers, 0..1.
        balanced_accuracy: mean over classes, 0..1.
        loss: mean loss per sample.
        samples: that accuracy was measured on.
        size_bytes: of the stored weights.
        latency_ms: median time per batch in milliseconds.
        latency_share: of the unpruned network's time, with the ends of its interval.
        latency_spread: interquartile range over median of the unpruned network's times.
        latency_rounds: how often it was timed.
        onnx_ms: the same by ONNX Runtime.
    """

    __pydantic_config__ = ROW

    model: str = ""
    dataset: str = ""
    subset: str = WHOLE
    classes: str = ""
    criterion: str = ""
    scored_on: str = "subset"
    structured: bool = True
    strategy: str = ""
    seed: str = ""
    budget_kind: str = ""
    budget: float | None = None
    finetuned: bool = False
    units: float | None = None
    params: float | None = None
    macs: float | None = None
    weights: float | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    loss: float | None = None
    samples: int | None = None
    size_bytes: float | None = None
    latency_ms: float | None = None
    latency_share: float | None = None
    latency_interval_low: float | None = None
    latency_interval_high: float | None = None
    latency_spread: float | None = None
    latency_rounds: float | None = None
    onnx_ms: float | None = None
    onnx_share: float | None = None
    onnx_interval_low: float | None = None
    onnx_interval_high: float | None = None
    onnx_spread: float | None = None
    onnx_rounds: float | None = None


Row = ComparisonRow


@dataclass(frozen=True)
class Panel:
    """Points that may be compared with each other: one model, data set, strategy and kind of budget."""

    title: str
    points: list[Point]


def aggregate(rows: Iterable[Row], *, by_subset: bool = False) -> list[Point]:
    """Average over seeds, and over subsets of classes where there are several.

    Args:
        rows: measurements.
        by_subset: one point for each subset of classes instead, its name under ``subset``.

    Returns:
        One point per model, data set, strategy, kind of budget, criterion, samples it was scored on (``scored_on``:
        those of the subset, or class-blind those of all classes), budget and stage (fine-tuned or not), in the order
        of first appearance; with the mean of every figure under its own name, ``<figure>_low``, ``<figure>_high``,
        ``<figure>_std`` (sample standard deviation, ``None`` for one seed), ``seeds``, their number (rows that do not
        say their seed count one each), and ``runs``, the accuracy by subset, budget and seed. Of several subsets, the
        spread is that of the seeds' means over the subsets. ``criterion`` of a point of masked weights or class-blind
        scores says so; ``base`` leaves the latter out. ``latency_share_text`` and ``onnx_share_text`` are the shares
        in words, with the interval that holds those of all rows.

    Example:
        >>> rows = [ComparisonRow(criterion="lrp", budget=0.5, accuracy=a) for a in (0.8, 0.9)]
        >>> point, = aggregate(rows)
        >>> round(point["accuracy"], 3), point["accuracy_low"], point["seeds"]
        (0.85, 0.8, 2)
    """
    keys = (*POINT_KEYS, "subset") if by_subset else POINT_KEYS
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(_key(row, name) for name in keys), []).append(row)
    return [_point(dict(zip(keys, key, strict=True)), members) for key, members in groups.items()]


def subsets(rows: Iterable[Row]) -> dict[str, str]:
    """Classes of each subset, joined by commas, in the order of first appearance.

    Example:
        >>> subsets([ComparisonRow(subset="pets", classes="cat;dog"), ComparisonRow()])
        {'pets': 'cat, dog', 'all': ''}
    """
    found: dict[str, str] = {}
    for row in rows:
        found[row.subset] = found.get(row.subset) or ", ".join(part for part in row.classes.split(";") if part)
    return found


def class_aware(rows: Sequence[Row]) -> bool:
    """Whether rows tell subsets of classes apart, or class-blind scores."""
    return len(subsets(rows)) > 1 or any(row.subset != WHOLE or row.scored_on == "all" for row in rows)


def split_unpruned(rows: Iterable[Row]) -> tuple[dict[str, float], list[Row]]:
    """Accuracy of the unpruned network by subset of classes (mean over its rows), and the rows of pruned networks.

    Example:
        >>> rows = [ComparisonRow(criterion="none", strategy="unpruned", accuracy=0.9), ComparisonRow(criterion="lrp")]
        >>> split_unpruned(rows) == ({"all": 0.9}, rows[1:])
        True
    """
    pruned: list[Row] = []
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.criterion != "none" or row.strategy != "unpruned":
            pruned.append(row)
        elif (accuracy := number(row.accuracy)) is not None and not row.finetuned:
            found.setdefault(row.subset, []).append(accuracy)
    return {name: statistics.fmean(values) for name, values in found.items()}, pruned


def _in_words(strategy: str) -> str:
    """Of a strategy's label, "one-shot/auto+refitted" say."""
    return strategy.replace("/", ", ").replace("+", ", ")


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
            {"strategy": _in_words(value), "budget_kind": f"budget in {value}"}.get(name, value)
            for name, value, shown in zip(PANEL_KEYS, key, varying, strict=True)
            if shown and value
        ]
        title = " · ".join(words)
        found.append(Panel(title[:1].upper() + title[1:], members))
    return found


def masked_panels(points: Iterable[Point]) -> list[Panel]:
    """Panels of the points whose weights are masked alone; their budget is a share of the weights."""
    masked = [point for point in points if not point["structured"]]
    return panels([p | ({} if p["budget_kind"] == "ratio" else {"budget_kind": "weights"}) for p in masked])


def criteria(points: Iterable[Point]) -> list[str]:
    """Names of the criteria, in the order of first appearance."""
    return list(dict.fromkeys(point["criterion"] for point in points))


def best_points(points: Iterable[Point], samples: Mapping[str, int]) -> Marks:
    """Identities (``id``) of the points to be marked as best for their panel, budget and stage.

    Args:
        points: from `aggregate`.
        samples: test samples of each subset, see `samples_by_subset`.
    """
    columns: dict[tuple[Any, ...], dict[int, Accuracies]] = {}
    for point in points:
        key = tuple(point[name] for name in (*PANEL_KEYS, "budget", "finetuned"))
        columns.setdefault(key, {})[id(point)] = point["runs"]
    return best(columns.values(), samples)


def samples_by_subset(rows: Sequence[Row], conditions: Conditions) -> dict[str, int]:
    """Test samples of each subset of classes: from the rows' column ``samples``, else from the conditions.

    Of rows that disagree the smallest counts.

    Example:
        >>> samples_by_subset([ComparisonRow(criterion="lrp")], Conditions(samples=1000))
        {'all': 1000}
    """
    found: dict[str, int] = {}
    several = len({row.dataset for row in rows}) > 1  # then the conditions do not say of which
    for row in rows:
        count = row.samples
        if count is None and not several:
            count = conditions.subset_samples.get(row.subset, conditions.samples if row.subset == WHOLE else None)
        if count:
            found[row.subset] = min(count, found.get(row.subset, count))
    return found


def seeds_of(points: Iterable[Point]) -> list[str]:
    """Seeds of the rows behind points, in the order of first appearance; rows without one do not count."""
    return list(dict.fromkeys(run[2] for point in points for run in point["runs"] if run[2]))


def rounds_of(points: Iterable[Point], prefix: str = "latency") -> list[int]:
    """Fewest and most rounds in which the networks behind points were timed."""
    ends = [point[f"{prefix}_rounds_{end}"] for point in points for end in ("low", "high")]
    return sorted({int(end) for end in ends if end})


def _key(row: Row, name: str) -> Any:
    value = getattr(row, name)
    return round(value, 6) if name == "budget" and value is not None else value


def _point(point: Point, rows: Sequence[Row]) -> Point:
    # structured criteria have the same names
    point["base"] = point["criterion"] + ("" if point["structured"] else MASKED)
    point["criterion"] = point["base"] + (BLIND if point["scored_on"] == "all" else "")
    several = len({row.subset for row in rows}) > 1
    seeds: dict[str, list[Row]] = {}
    for row in rows:
        seeds.setdefault(row.seed, []).append(row)
    for name in FIGURES:
        values = _values(rows, name)
        # subsets are not equally hard: what their mean varies by is the seed
        runs = [statistics.fmean(found) for these in seeds.values() if (found := _values(these, name))]
        runs = runs if several else values
        point[name] = statistics.fmean(values) if values else None
        point[f"{name}_low"] = min(runs, default=None)
        point[f"{name}_high"] = max(runs, default=None)
        point[f"{name}_std"] = statistics.stdev(runs) if len(runs) > 1 else None
    for name, prefix in TIMED.items():
        point[f"{name}_text"] = _timed(rows, prefix)
    # rows that do not say their seed are runs of their own
    point["seeds"] = len(seeds) if several or "" not in seeds else len(rows)
    point["runs"] = _runs(rows, point["budget"])
    return point


def _runs(rows: Iterable[Row], budget: float | None) -> dict[Run, float]:
    """Accuracy by subset, budget and seed."""
    found: dict[Run, list[float]] = {}
    for row in rows:
        if (accuracy := number(row.accuracy)) is not None:
            found.setdefault((row.subset, budget, row.seed), []).append(accuracy)
    return {run: statistics.fmean(values) for run, values in found.items()}


def _timed(rows: Iterable[Row], prefix: str) -> str:
    found = [share for row in rows if (share := LatencyShare.from_columns(vars(row), prefix)) is not None]
    if not found:
        return ""
    intervals = [share.interval for share in found if share.interval is not None]
    whole = (min(low for low, _ in intervals), max(high for _, high in intervals)) if intervals else None
    mean = statistics.fmean(share.share for share in found)
    return str(replace(found[0], share=mean, interval=whole if len(intervals) == len(found) else None))


def _values(rows: Iterable[Row], name: str) -> list[float]:
    return [value for row in rows if (value := number(getattr(row, name))) is not None]
