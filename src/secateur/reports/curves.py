"""Accuracy against what stays, by criterion: which points, in which colours, and what a reader may choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.reports.look import GREY, SHAPES, Looks, style
from secateur.reports.rows import number
from secateur.reports.summary import TIMED, ComparisonRow, Point, aggregate, class_aware, split_unpruned
from secateur.reports.told_apart import Accuracies, Marks, best

TOP = 6  # criteria in colour where subsets are compared: more cannot be told apart at a glance
MEAN = ""  # in place of a subset's name: the mean over subsets
SCORED = {"subset": "class-aware", "all": "class-blind"}
STAGES = ("not fine-tuned", "fine-tuned")
MEASURES = {
    "macs": "MACs",
    "params": "Parameters",
    "units": "Units",
    "latency_share": "Latency",
    "onnx_share": "ONNX latency",
}
MASKED = "weights"  # the share of weights that are not zero: single weights masked, at full size


@dataclass(frozen=True)
class Curves:
    """Points of a comparison, and how they are drawn.

    Attributes:
        points: of structured criteria, the mean over subsets (its ``subset`` is `MEAN`) and each subset.
        masked: the same of masked weights.
        baselines: accuracy of the unpruned network by subset, with `MEAN`; may be empty.
        looks: colour and shape by name of the criterion; where subsets are compared, that of the highest mean first.
        aware: whether subsets of classes, or class-blind scores, are told apart: then class-blind ones are dashed, and
            stages are chosen; else networks that were not trained again are dashed.
    """

    points: list[Point]
    masked: list[Point]
    baselines: dict[str, float]
    looks: Looks
    aware: bool

    @classmethod
    def of(cls, rows: Sequence[ComparisonRow]) -> Curves:
        """Points of rows, those of the unpruned network included or not."""
        unpruned, pruned = split_unpruned(rows)
        points = [point | {"subset": MEAN} for point in aggregate(pruned)]
        aware, baselines = class_aware(pruned), dict(unpruned)
        if aware:
            each = aggregate(pruned, by_subset=True)
            names = {point["subset"] for point in each}
            points += each if len(names) > 1 else []
        else:
            names = set(baselines)
        if baselines and names <= set(baselines):
            baselines[MEAN] = sum(baselines[name] for name in names) / len(names)
        structured = [point for point in points if point["structured"]]
        masked = [point for point in points if not point["structured"]]
        looks = looks_of(points) if aware else style([point["base"] for point in points])
        return cls(structured, masked, baselines, looks, aware)

    @property
    def means(self) -> list[Point]:
        """Points of the mean over subsets, masked ones last."""
        return [point for point in self.points + self.masked if point["subset"] == MEAN]

    @property
    def scored(self) -> dict[str, str]:
        """Ways of scoring that occur, in words."""
        found = {point["scored_on"] for point in self.means}
        return {title: title for name, title in SCORED.items() if name in found}

    @property
    def stages(self) -> dict[str, str]:
        """Stages that occur, in words."""
        return {name: name for name in STAGES if name in map(stage, self.means)}

    @property
    def coloured(self) -> int:
        """How many criteria are in colour, from the first."""
        return TOP if self.aware else len(self.looks)

    @property
    def steer(self) -> dict[str, str]:
        """Signals by which a reader chooses what is shown, with their first values."""
        if not self.aware:
            return {}
        several = len({point["subset"] for point in self.points + self.masked}) > 1
        found = {"subset": MEAN} if several else {}
        found |= {"stage": next(iter(self.stages))} if len(self.stages) > 1 else {}
        return found | ({"scored": next(iter(self.scored))} if len(self.scored) > 1 else {})

    def measures(self) -> list[str]:
        """What the horizontal axis can show."""
        return [name for name in MEASURES if drawable(self.points, name)]


def ranking(points: Iterable[Point]) -> list[str]:
    """Bare names of the criteria, the highest mean accuracy first; masked weights after all others."""
    found: dict[tuple[bool, str], list[float]] = {}
    for point in points:
        accuracy = number(point["accuracy"]) if point["scored_on"] == "subset" else None
        found.setdefault((not point["structured"], point["base"]), []).extend([] if accuracy is None else [accuracy])
    keys = sorted(found, key=lambda key: (key[0], -sum(found[key]) / len(found[key]) if found[key] else 0.0))
    return list(dict.fromkeys(name for _, name in keys))


def not_told_apart(found: Curves, samples: Mapping[str, int]) -> tuple[list[str], Marks]:
    """Criteria than which no other is measurably better over all budgets and stages, and how that was judged.

    Args:
        found: the comparison; only class-aware scores of structured criteria count.
        samples: test samples of each subset, where known.
    """
    stages: dict[str, dict[str, dict[Any, float]]] = {}
    for point in found.points:
        if point["subset"] == MEAN and point["scored_on"] == "subset":
            runs = stages.setdefault(f"{point['strategy']}/{stage(point)}", {}).setdefault(point["base"], {})
            runs.update(point["runs"])
    columns: list[dict[str, Accuracies]] = [dict(column) for column in stages.values()]
    marks = best(columns, samples)
    return [name for name in found.looks if name in marks.keys], marks


def stage(point: Point) -> str:
    """In words, whether a network was trained again after pruning."""
    return STAGES[bool(point["finetuned"])]


def looks_of(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Of a comparison over subsets: the highest means in colour, the rest grey."""
    ranked = ranking(points)
    structured = {point["base"] for point in points if point["structured"]}
    # masked weights have a chart of their own, where the first are in colour again
    masked = [name for name in ranked if name not in structured][:TOP]
    rest = {name: (GREY, "cross" if name == "random" else SHAPES[place % 7]) for place, name in enumerate(ranked)}
    return rest | style([name for name in ranked if name in structured][:TOP] + masked)


def measures_of(points: Sequence[Point]) -> list[str]:
    """The shares of size always, the timed ones where some point has them."""
    return [name for name in MEASURES if name not in TIMED or any(point[name] is not None for point in points)]


def drawable(points: Iterable[Point], name: str) -> bool:
    """Whether some point has a measure and an accuracy."""
    return any(None not in (point[name], point["accuracy"]) for point in points)
