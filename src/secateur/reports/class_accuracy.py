"""What pruning costs which class: accuracy of each class by criterion, one subset of classes at a time."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions, span
from secateur.reports.look import shade
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT
from secateur.reports.table import Cell, Table
from secateur.reports.told_apart import Accuracies, Marks, Run, best

_MIDDLE = 0.5  # tables show the budget nearest to this
_SCORED = ("class-aware", "class-blind")
_MEAN = "mean over classes"


@dataclass(frozen=True)
class ClassAccuracyRow:
    """Accuracy of one class.

    Attributes:
        subset: of classes.
        criterion: its name.
        budget: share that stays; rows without one are left out.
        class_name: the class; the column is ``class``.
        accuracy: of its samples, 0..1.
        scored_on: ``all`` for class-blind scores.
        strategy: how units were chosen.
        finetuned: whether the network was trained again.
        seed: of the reference samples; "" for a mean over seeds.
    """

    __pydantic_config__ = ROW

    subset: str
    criterion: str
    budget: float | None
    class_name: str = field(metadata={"column": "class"})
    accuracy: float | None
    scored_on: str = "subset"
    strategy: str = ""
    finetuned: bool = False
    seed: str = ""

    @property
    def scored(self) -> str:
        """Way of scoring, in words."""
        return _SCORED[self.scored_on == "all"]


@dataclass(frozen=True)
class ClassAccuracy:
    """Section of accuracies by class."""

    __pydantic_config__ = STRICT

    rows: list[ClassAccuracyRow]


@dataclass(frozen=True)
class ClassTable:
    """Accuracy of each class by criterion, for one subset of classes.

    Attributes:
        subset: its name.
        strategy: how units were chosen; may be empty.
        finetuned: whether the networks were trained again.
        budget: share that stays.
        classes: names of the columns.
        runs: accuracies, 0..1, by criterion, then by way of scoring (in words) and class.
    """

    subset: str
    strategy: str
    finetuned: bool
    budget: float
    classes: tuple[str, ...]
    runs: Mapping[str, Mapping[tuple[str, str], Accuracies]]

    @property
    def cells(self) -> dict[str, dict[tuple[str, str], float]]:
        """Means of the runs."""
        return {
            name: {place: statistics.fmean(values.values()) for place, values in found.items()}
            for name, found in self.runs.items()
        }


def class_tables(rows: Iterable[ClassAccuracyRow]) -> list[ClassTable]:
    """One table per subset, strategy and stage, at the budget nearest to one half.

    Example:
        >>> rows = [ClassAccuracyRow("pets", "lrp", budget, "cat", 0.9) for budget in (0.9, 0.6)]
        >>> table, = class_tables(rows)
        >>> table.budget, table.cells
        (0.6, {'lrp': {('class-aware', 'cat'): 0.9}})
    """
    groups: dict[tuple[str, str, bool], list[ClassAccuracyRow]] = {}
    for row in rows:
        if row.budget is not None:
            groups.setdefault((row.subset, row.strategy, row.finetuned), []).append(row)
    tables = []
    for (subset, strategy, finetuned), members in groups.items():
        budgets = {row.budget for row in members if row.budget is not None}
        budget = min(budgets, key=lambda budget: (abs(budget - _MIDDLE), budget))
        chosen = [row for row in members if row.budget == budget]
        runs: dict[str, dict[tuple[str, str], dict[Run, float]]] = {}
        for row in chosen:
            if row.accuracy is not None:
                column = runs.setdefault(row.criterion, {}).setdefault((row.scored, row.class_name), {})
                column[row.class_name, budget, row.seed] = row.accuracy
        classes = tuple(dict.fromkeys(row.class_name for row in chosen))
        tables.append(ClassTable(subset, strategy, finetuned, budget, classes, runs))
    return tables


def _view(section: ClassAccuracy, conditions: Conditions) -> dict[str, Any]:
    found: dict[str, list[Table]] = {}
    for table in class_tables(section.rows):
        found.setdefault(table.subset, []).append(_table(table, conditions))
    return {"subsets": found, "names": {name: name for name in found}}


def _table(found: ClassTable, conditions: Conditions) -> Table:
    """With coloured cells, in percent; bold where no other of the column is measurably better."""
    scored = [name for name in _SCORED if any(name in place for cells in found.runs.values() for place in cells)]
    mean = [_MEAN] * (len(found.classes) > 1)
    columns = [(name, label) for name in scored for label in (*found.classes, *mean)]
    tops = {place: best([_column(found, place)], conditions.class_samples) for place in columns}
    lines: list[list[Cell | str]] = []
    for name, cells in found.cells.items():
        line = cells | _means(cells, found.classes)
        lines.append([name, *(_cell(line.get(place), name in tops[place].keys) for place in columns)])
    words = [f"{found.strategy} strategy"] if found.strategy else []
    words += ["fine-tuned" if found.finetuned else "not fine-tuned", f"budget {figures.percent(found.budget, 0)}"]
    title = " · ".join(words)
    return Table(
        ["", *("mean" if label == _MEAN else label for _, label in columns)],
        lines,
        caption=title[:1].upper() + title[1:],
        beneath=_beneath(found, list(tops.values()), conditions),
        over=[(name, len(found.classes) + len(mean)) for name in scored] if len(scored) > 1 else [],
    )


def _cell(accuracy: float | None, bold: bool) -> Cell:
    return Cell("") if accuracy is None else Cell(figures.hundredths(accuracy), bold, colour=shade(accuracy))


def _beneath(table: ClassTable, tops: Sequence[Marks], conditions: Conditions) -> list[str]:
    marks = Marks()
    for top in tops:
        marks |= top
    runs = [run for found in table.runs.values() for column in found.values() for run in column]
    counts = [conditions.class_samples[name] for name in table.classes if name in conditions.class_samples]
    total = conditions.subset_samples.get(table.subset)
    held = captions.line(
        conditions.measured([total] if total else [sum(counts)] if len(counts) == len(table.classes) else ()),
        f"{span(counts)} of each class" if counts else "",
        captions.seeds(seed for _, _, seed in runs if seed) or captions.seeds(conditions.seeds),
        conditions.references(),
    )
    return [held, str(marks)]


def _column(table: ClassTable, place: tuple[str, str]) -> dict[str, Accuracies]:
    """Of each criterion what its cell in a column is the mean of."""
    scored, label = place
    found: dict[str, Accuracies] = {}
    for name, cells in table.runs.items():
        if label != _MEAN:
            found[name] = cells.get(place, {})
        elif all((scored, one) in cells for one in table.classes):
            found[name] = {run: value for one in table.classes for run, value in cells[scored, one].items()}
    return found


def _means(found: Mapping[tuple[str, str], float], classes: Sequence[str]) -> dict[tuple[str, str], float]:
    """Mean over classes for each way of scoring that has them all."""
    means = {}
    for name in _SCORED:
        values = [found[name, label] for label in classes if (name, label) in found]
        if len(values) == len(classes) > 1:
            means[name, _MEAN] = sum(values) / len(values)
    return means


register_section(ClassAccuracy, name="class-accuracy", template="class_accuracy.html", view=_view)
