"""Criteria compared: accuracy against what stays, as curves with what steers them, and the tables behind them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.curve_charts import page_charts, page_panels
from secateur.reports.curves import MEAN, MEASURES, TOP, Curves, not_told_apart, stage
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT
from secateur.reports.summary import (
    TIMED,
    ComparisonRow,
    Panel,
    Point,
    best_points,
    criteria,
    masked_panels,
    panels,
    samples_by_subset,
    split_unpruned,
    subsets,
)
from secateur.reports.table import LIMIT, Cell, Table, csv_link
from secateur.reports.told_apart import Accuracies, Marks, Run, best

if TYPE_CHECKING:
    from secateur.reports.look import Chart

_MASKED_TITLE = "Masked weights: no speed gained"
_MASKED_HINT = (
    "Single weights are set to zero; tensors keep their size, so MACs and time stay as they were. For comparison only."
)
_SHARES = {
    "macs": "MACs, %",
    "params": "parameters, %",
    "units": "units, %",
    "accuracy": "accuracy, %",
    "balanced_accuracy": "balanced, %",
    "latency_share": "latency",
    "onnx_share": "ONNX latency",
    "weights": "weights, %",
}
_KINDS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Comparison:
    """Section of criteria compared; rows of the unpruned network, if there are any, give the level to compare with.

    Attributes:
        rows: one per measurement; see `secateur.reports.read_rows`.
    """

    __pydantic_config__ = STRICT

    rows: list[ComparisonRow]

    @cached_property
    def curves(self) -> Curves:
        """Means and spreads of the rows."""
        return Curves.of(self.rows)


def _charts(section: Comparison, conditions: Conditions) -> dict[str, Chart]:
    return page_charts(section.curves)


def _view(section: Comparison, conditions: Conditions) -> dict[str, Any]:
    found, drawn = section.curves, page_panels(section.curves)
    samples = samples_by_subset(section.rows, conditions)
    named = subsets(split_unpruned(section.rows)[1])
    several = max((point["seeds"] for point in found.means), default=1) > 1
    over = "over subsets of classes and seeds" if len(named) > 1 else "over seeds"
    spread = f", mean {over} (hover for the standard deviation over seeds)" if found.aware else ""
    spread = ", mean ± standard deviation over seeds" if several and not found.aware else spread
    structured = panels([point for point in found.means if point["structured"]])
    whole = structured + masked_panels(found.means)
    masked = sum(name.startswith("masked") for name in drawn)
    steer = found.steer
    return {
        "there": bool(found.means),
        "titles": {name: _title(name, panel, masked > 1) for name, panel in drawn.items()},
        "hints": {name: _MASKED_HINT if name.startswith("masked") else "" for name in drawn},
        "beneath": {
            name: captions.of_points(panel.points, samples, conditions, timed=not name.startswith("masked"))
            for name, panel in drawn.items()
        },
        "hint": _aware_hint(found, samples, over, len(named)) if found.aware else _hint(found, several),
        "measures": {name: MEASURES[name] for name in found.measures()},
        "stages": found.stages if "stage" in steer else {},
        "scored": found.scored | {"both": "both"} if "scored" in steer else {},
        "subsets": {MEAN: f"mean over {len(named)} subsets"}
        | {name: f"{name}: {classes}" if classes else name for name, classes in named.items()}
        if "subset" in steer
        else {},
        "looks": found.looks,
        "spread": spread,
        "budgets": _budget_tables(found, whole, samples, conditions),
        "settings": [_settings_table(panel, whole, samples, conditions) for panel in whole],
        "marks": str(best_points([point for panel in whole for point in panel.points], samples)).replace(
            "of its column", "at its budget and stage"
        ),
    }


def _title(name: str, panel: Panel, several: bool) -> str:
    if not name.startswith("masked"):
        return panel.title
    return f"{_MASKED_TITLE} · {panel.title}" if several else _MASKED_TITLE


def _hint(found: Curves, several: bool) -> str:
    hint = "Each line is the mean over seeds, each band reaches from the lowest to the highest seed. " * several
    hint += "Solid lines are fine-tuned, dashed lines are not. " * (len(found.stages) > 1)
    return hint + "Choose a criterion to bring it forward." * (len(found.looks) > 1)


def _aware_hint(found: Curves, samples: Mapping[str, int], over: str, subsets: int) -> str:
    hint = f"Each line is the mean {over}; each band reaches from the lowest to the highest seed"
    hint += ", each seed averaged over the subsets. " if subsets > 1 else ". "
    if len(found.scored) > 1:
        hint += (
            "Class-aware criteria (solid) look at samples of the subset’s classes alone, "
            "class-blind ones (dashed) at samples of all classes. "
        )
    if len(found.looks) > TOP:
        hint += _in_colour(found, samples)
    return hint + "Choose a criterion to bring it forward."


def _in_colour(found: Curves, samples: Mapping[str, int]) -> str:
    """Why some criteria are in colour, and whether these can be told apart from the others."""
    top, marks = not_told_apart(found, samples)
    words = f"The {TOP} criteria of the highest mean accuracy are in colour, the others grey: for the eye alone. "
    if not marks.sources:
        return words + "Nothing is known of chance: too few seeds, and no number of test samples. "
    grey = [name for name in top if name not in list(found.looks)[:TOP]]
    if not top:
        return words + "By 95 % intervals no criterion can be told apart from the best. "
    return words + (f"No other is measurably better than {', '.join(grey)}, too. " if grey else "")


def _budget_tables(
    found: Curves, whole: Sequence[Panel], samples: Mapping[str, int], conditions: Conditions
) -> list[Table]:
    """Accuracy by budget: of subsets a table for each stage."""
    parts = [
        Panel(f"{panel.title} · {name}", [point for point in panel.points if stage(point) == name])
        for panel in whole
        for name in found.stages
    ]
    shown = [panel for panel in (parts if found.aware else whole) if any(p["budget"] is not None for p in panel.points)]
    return [_budget_table(panel, samples, conditions, brief=found.aware) for panel in shown]


def _budget_table(panel: Panel, samples: Mapping[str, int], conditions: Conditions, *, brief: bool) -> Table:
    """Mean accuracy (in %) of each criterion at each budget; bold where no other is measurably better.

    Args:
        panel: points to compare.
        samples: test samples of each subset, where known.
        conditions: of the report.
        brief: standard deviations in tooltips, lest the table outgrow the page.
    """
    kinds = {p["budget_kind"] for p in panel.points} - {""}
    kind = kinds.pop() if len(kinds) == 1 else ""
    goes = panel.points[0]["budget_kind"] == "ratio"
    stays = f"budget: share of {_KINDS.get(kind, kind)} that may stay" if kind else "budget"
    stays = "nominal share that goes" if goes else stays
    budgets = sorted({p["budget"] for p in panel.points if p["budget"] is not None}, reverse=not goes)
    stages = [value for value in (False, True) if any(p["finetuned"] is value for p in panel.points)]
    marks = best_points([p for p in panel.points if p["budget"] is not None], samples)
    at = {(p["criterion"], p["finetuned"], p["budget"]): p for p in panel.points}
    lines: list[list[Cell | str] | None] = []
    for tuned in stages:
        measured = [b for b in budgets if any(p["budget"] == b and p["finetuned"] is tuned for p in panel.points)]
        runs = {name: [at.get((name, tuned, budget)) for budget in measured] for name in criteria(panel.points)}
        means = {name: mean for name, these in runs.items() if (mean := _mean(these)) is not None}
        top = best([{name: _runs(runs[name]) for name in means}], samples) if len(budgets) > 1 else Marks()
        marks |= Marks(frozenset(), top.compared, top.sources)
        lines += [None] if lines else []
        for name in criteria(panel.points):
            found = [at.get((name, tuned, budget)) for budget in budgets]
            if any(found):
                cells = [
                    figures.ABSENT if p is None else _spread(p, "accuracy", id(p) in marks.keys, brief) for p in found
                ]
                average = Cell(figures.hundredths(means.get(name)), bold=name in top.keys)
                label = Cell(name or figures.ABSENT, note="fine-tuned" * (tuned and len(stages) > 1))
                lines.append([label, *cells, *[average] * (len(budgets) > 1)])
    bold = any(isinstance(cell, Cell) and cell.bold for line in lines if line for cell in line)
    said = Marks(frozenset({""}) if bold else frozenset(), marks.compared, marks.sources)
    return Table(
        [f"criterion · {stays}", *(figures.percent(b, 0) for b in budgets), *["mean"] * (len(budgets) > 1)],
        lines,
        caption=panel.title,
        beneath=[captions.of_points(panel.points, samples, conditions), str(said)],
    )


def _settings_table(panel: Panel, whole: Sequence[Panel], samples: Mapping[str, int], conditions: Conditions) -> Table:
    """One line per setting with what was achieved, by budget, then accuracy; of long tables the rest as a file."""
    points = [point for one in whole for point in one.points]
    marks = best_points(points, samples)
    shares = {name: title for name, title in _SHARES.items() if any(p[name] is not None for p in points)}
    shown = {
        "loss": ("loss", figures.plain),
        "latency_ms": ("latency", figures.milliseconds),
        "size_bytes": ("size", figures.size),
    }
    shown = {name: both for name, both in shown.items() if any(p[name] is not None for p in points)}
    lines: list[list[Cell | str]] = []
    for point in sorted(panel.points, key=lambda p: (-(p["budget"] or 0.0), -(p["accuracy"] or 0.0))):
        cells: list[Cell | str] = [point["criterion"] or figures.ABSENT, "yes" if point["finetuned"] else "no"]
        cells.append(figures.percent(point["budget"], 0))
        for name in shares:
            # of times with their interval, since a share alone would claim what may be chance
            timed = (point[f"{name}_text"] or figures.ABSENT) if name in TIMED else None
            cells.append(timed or _spread(point, name, name == "accuracy" and id(point) in marks.keys))
        cells += [show(point[name]) for name, (_, show) in shown.items()]
        lines.append([*cells, str(point["seeds"])])
    titles = (title for title, _ in shown.values())
    return Table(
        ["criterion", "fine-tuned", "budget", *shares.values(), *titles, "seeds"],
        lines,
        caption=panel.title,
        words=2,
        beneath=[captions.of_points(panel.points, samples, conditions, timed=True)],
        rest=csv_link([_plain(p) for p in panel.points], "settings.csv", f"All {len(lines)} lines as CSV")
        if len(lines) > LIMIT
        else None,
    )


def _spread(point: Point, name: str, bold: bool, brief: bool = False) -> Cell:
    """Mean and standard deviation of a share; ``brief``: the latter in the cell's tooltip."""
    text = figures.spread(point, name)
    mean, _, deviation = text.partition(" ± ")
    return Cell(mean, bold, title=f"± {deviation}" * bool(deviation)) if brief else Cell(text, bold)


def _mean(row: Sequence[Point | None]) -> float | None:
    known = [point["accuracy"] for point in row if point is not None and point["accuracy"] is not None]
    return statistics.fmean(known) if known and len(known) == len(row) else None


def _runs(points: Sequence[Point | None]) -> Accuracies:
    """All that a mean over budgets is the mean of."""
    found: dict[Run, float] = {}
    for point in points:
        found |= point["runs"] if point is not None else {}
    return found


def _plain(point: Point) -> dict[str, object]:
    """A point as a line of a CSV file."""
    skipped = ("runs", "base", "subset")
    return {name: value for name, value in point.items() if name not in skipped and value not in (None, "")}


register_section(Comparison, name="comparison", template="comparison.html", charts=_charts, view=_view)
