"""What it means to score on some classes alone, as sections of the page: gains, classes, layers, time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from secateur.reports import captions, gains, removal, tables
from secateur.reports.conditions import Conditions
from secateur.reports.controls import select
from secateur.reports.layout import section
from secateur.reports.look import specification
from secateur.reports.summary import Row

Charts = dict[str, dict[str, Any]]


def gain_section(rows: Sequence[Row], conditions: Conditions, drawn: Charts) -> str:
    """Class-aware minus class-blind accuracy: small panels by criterion, and the numbers."""
    points = gains.gain_points(rows)
    parts = []
    strategies = gains.strategies(point for point in points if point["budget"] is not None)
    for place, strategy in enumerate(strategies):
        chosen = [point for point in points if point["strategy"] == strategy]
        drawn[f"gains-{place}"] = specification(gains.gains_chart(chosen))
        title = f"<h3>{escape(strategy)} strategy</h3>" if strategy else ""
        parts.append(
            f'<figure class="panel scroll">{title}<div class="chart wide" id="gains-{place}"></div>'
            f"{captions.html(gains.gains_line(chosen, conditions))}</figure>"
            f"<details><summary>All gains</summary>{gains.gains_table(chosen, conditions)}</details>"
        )
    hint = (
        "Accuracy of class-aware minus accuracy of class-blind pruning by the same criterion, in percentage points, "
        "over the budget; bars are 95 % intervals. Full dots: the interval leaves out zero. "
        "Criteria are sorted by their mean gain; where intervals overlap, the order may be chance."
    )
    title = "What scoring on the wanted classes gains"
    return section(title, f'<p class="hint">{hint}</p>{"".join(parts)}') if parts else ""


def class_section(rows: Sequence[Row], conditions: Conditions) -> str:
    """Accuracy of each class by criterion, one subset of classes at a time."""
    found = removal.class_tables(rows)
    subsets = {table.subset: table.subset for table in found}
    parts = []
    for subset in subsets:
        shown = "".join(
            f'<figure class="panel scroll">{removal.class_table(table, conditions)}</figure>'
            for table in found
            if table.subset == subset
        )
        head = f"<h3>{escape(subset)}</h3>" if len(subsets) == 1 else ""
        parts.append(f'<div data-value="{escape(subset)}">{head}<div class="pair matrices">{shown}</div></div>')
    steer = f'<div class="bar">{select("Subset", "class-subset", subsets, "choice")}</div>' if len(parts) > 1 else ""
    hint = (
        "In percent, mean over seeds, at the budget nearest to 50 %. Each class weighs the same in the column “mean”, "
        "however many samples it has."
    )
    title = "Accuracy of each class"
    return section(title, f'<p class="hint">{hint}</p>{steer}{"".join(parts)}') if parts else ""


def layer_section(rows: Sequence[Row], conditions: Conditions, drawn: Charts) -> str:
    """Which layers each criterion removes from."""
    cells = removal.layer_cells(rows)
    if not cells:
        return ""
    drawn["layer-shares"] = specification(removal.layers_chart(cells))
    budgets, start = removal.layer_budgets(cells)
    choices = select("Budget", "budget", {budget: budget for budget in budgets}, start=start)
    steer = f'<div class="bar">{choices}</div>' if len(budgets) > 1 else ""
    hint = (
        "Share of each layer’s units that stays, in percent, mean over subsets and seeds: pale where much is removed."
    )
    subsets = list(dict.fromkeys(str(row["subset"]) for row in rows if row.get("subset")))
    several = f"{len(subsets)} subsets of classes" if len(subsets) > 1 else ""
    beneath = captions.html(captions.line(captions.of_scores(conditions), several))
    plot = f'<figure class="panel"><div class="chart" id="layer-shares" data-steered></div>{beneath}</figure>'
    return section("Where each criterion removes", f'<p class="hint">{hint}</p>{steer}{plot}')


def timing_section(rows: Sequence[Row], conditions: Conditions) -> str:
    """Time that each criterion takes before a network is ready."""
    hint = "Mean time for one network: scoring the units, cutting them out, training again."
    table = tables.preparation(rows, conditions) if rows else ""
    return section("Time to a pruned network", f'<p class="hint">{hint}</p>{table}') if table else ""
