"""Where criteria remove, and what it costs which class: heat maps over layers and over classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from secateur.core.errors import RequestError
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions, span
from secateur.reports.look import INK, Chart, rgb
from secateur.reports.summary import BLIND, Row, number
from secateur.reports.told_apart import Accuracies, Marks, Run, best

_GREEN = rgb("#2F7353")  # as in tables of shares: white numbers are legible on the full colour
_MIDDLE = 0.5  # tables show the budget nearest to this
_CLASS_COLUMNS = ("subset", "criterion", "budget", "class", "accuracy")
_LAYER_COLUMNS = ("criterion", "budget", "layer", "kept", "total")
_SCORED = ("class-aware", "class-blind")
_MEAN = "mean over classes"
_WITH_NUMBERS = 16  # layers: beyond this, cells are too narrow for a number


@dataclass(frozen=True)
class ClassTable:
    """Accuracy of each class by criterion, for one subset of classes.

    Attributes:
        subset: its name.
        strategy: how units were chosen; may be empty.
        finetuned: whether the networks were trained again.
        budget: share that stays.
        classes: names of the columns.
        cells: accuracy, 0..1, by criterion, then by way of scoring (in words) and class.
        runs: likewise, what these are means of.
    """

    subset: str
    strategy: str
    finetuned: bool
    budget: float
    classes: tuple[str, ...]
    cells: dict[str, dict[tuple[str, str], float]]
    runs: dict[str, dict[tuple[str, str], Accuracies]] = field(default_factory=dict)


def class_tables(rows: Iterable[Row]) -> list[ClassTable]:
    """One table per subset, strategy and stage, at the budget nearest to one half.

    Args:
        rows: with subset, criterion, budget, class and accuracy (0..1); scored_on, strategy, finetuned and seed may
            be missing. The table holds means over seeds.

    Raises:
        RequestError: for a row without one of these columns.

    Example:
        >>> row = {"subset": "pets", "criterion": "lrp", "class": "cat", "accuracy": 0.9}
        >>> table, = class_tables([row | {"budget": budget} for budget in (0.9, 0.6)])
        >>> table.budget, table.cells
        (0.6, {'lrp': {('class-aware', 'cat'): 0.9}})
    """
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for index, row in enumerate(rows):
        _check(row, _CLASS_COLUMNS, f"row {index} of the classes")
        if number(row["budget"]) is not None:
            finetuned = str(row.get("finetuned")).lower() in ("true", "1", "1.0")
            groups.setdefault((str(row["subset"]), str(row.get("strategy") or ""), finetuned), []).append(row)
    tables = []
    for (subset, strategy, finetuned), members in groups.items():
        budget = _nearest(members)
        chosen = [row for row in members if number(row["budget"]) == budget]
        runs: dict[str, dict[tuple[str, str], dict[Run, float]]] = {}
        for row in chosen:
            if (accuracy := number(row["accuracy"])) is not None:
                label = str(row["class"])
                column = runs.setdefault(str(row["criterion"]), {}).setdefault((_scored(row), label), {})
                column[label, budget, "" if row.get("seed") is None else str(row["seed"])] = accuracy
        cells = {
            name: {place: statistics.fmean(values.values()) for place, values in found.items()}
            for name, found in runs.items()
        }
        classes = tuple(dict.fromkeys(str(row["class"]) for row in chosen))
        tables.append(ClassTable(subset, strategy, finetuned, budget, classes, cells, _frozen(runs)))
    return tables


def class_table(table: ClassTable, conditions: Conditions) -> str:
    """One table as HTML with coloured cells, in percent; bold where no other of the column is measurably better.

    Args:
        table: what to show.
        conditions: of the report, for the number of test samples of each class.
    """
    scored = [name for name in _SCORED if any(name in place for found in table.cells.values() for place in found)]
    mean = [_MEAN] * (len(table.classes) > 1)
    columns = [(name, label) for name in scored for label in (*table.classes, *mean)]
    lines = {name: found | _means(found, table.classes) for name, found in table.cells.items()}
    tops = {place: best([_column(table, place)], conditions.class_samples) for place in columns}
    over = "".join(f'<th scope="col" colspan="{len(table.classes) + len(mean)}">{name}</th>' for name in scored)
    heads = "".join(f'<th scope="col">{"mean" if label == _MEAN else escape(label)}</th>' for _, label in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f"{''.join(_class_cell(line.get(place), name in tops[place].keys) for place in columns)}</tr>"
        for name, line in lines.items()
    )
    words = [f"{table.strategy} strategy"] if table.strategy else []
    words += ["fine-tuned" if table.finetuned else "not fine-tuned", f"budget {figures.percent(table.budget, 0)}"]
    title = " · ".join(words)
    return (
        f"<table><caption>{escape(title[:1].upper() + title[1:])}</caption>"
        f"<thead>{f'<tr><td></td>{over}</tr>' if len(scored) > 1 else ''}<tr><td></td>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table>{_beneath(table, list(tops.values()), conditions)}"
    )


def _beneath(table: ClassTable, tops: Sequence[Marks], conditions: Conditions) -> str:
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
    return captions.html(held) + captions.html(str(marks))


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


def _frozen(runs: dict[str, dict[tuple[str, str], dict[Run, float]]]) -> dict[str, dict[tuple[str, str], Accuracies]]:
    return {name: dict(found) for name, found in runs.items()}


def layer_cells(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Share of units that stays, over all subsets, by criterion, budget and layer.

    Args:
        rows: with criterion, budget, layer, kept and total; scored_on, strategy and subset may be missing.

    Returns:
        criterion (class-blind ones say so), budget (as text, in percent), layer, share 0..1, text, and the largest
        difference between two subsets' shares as ``spread``.

    Raises:
        RequestError: for a row without one of these columns.

    Example:
        >>> row = {"criterion": "lrp", "budget": 0.5, "layer": "conv1", "total": 8}
        >>> cell, = layer_cells([row | {"kept": kept, "subset": str(kept)} for kept in (2, 4)])
        >>> cell["share"], cell["spread"], cell["budget"]
        (0.375, 0.25, '50 %')
    """
    rows = list(rows)
    several = len({str(row.get("strategy")) for row in rows}) > 1
    groups: dict[tuple[str, float, str], list[tuple[float, float, str]]] = {}
    for place, row in enumerate(rows):
        _check(row, _LAYER_COLUMNS, f"row {place} of the layers")
        budget, kept, total = (number(row[name]) for name in ("budget", "kept", "total"))
        if budget is not None and kept is not None and total:
            name = f"{_name(row)} · {row.get('strategy')}" if several else _name(row)
            key = (name, budget, str(row["layer"]))
            groups.setdefault(key, []).append((kept, total, str(row.get("subset"))))
    cells = []
    for (criterion, budget, layer), found in groups.items():
        share = sum(kept for kept, _, _ in found) / sum(total for _, total, _ in found)
        subsets: dict[str, list[float]] = {}
        for kept, total, subset in found:
            subsets.setdefault(subset, []).append(kept / total)
        means = [sum(shares) / len(shares) for shares in subsets.values()]
        cells.append(
            {"criterion": criterion, "budget": f"{100 * budget:g} %", "layer": layer, "share": round(share, 4)}
            | {"text": f"{100 * share:.0f}", "spread": round(max(means) - min(means), 4)}
        )
    return cells


def layer_budgets(cells: Sequence[dict[str, Any]]) -> tuple[list[str], str]:
    """Budgets that occur, largest first, and the one nearest to one half."""
    shares = {cell["budget"]: float(cell["budget"].removesuffix(" %")) / 100 for cell in cells}
    ordered = sorted(shares, key=lambda budget: -shares[budget])
    return ordered, min(ordered, key=lambda budget: abs(shares[budget] - _MIDDLE), default="")


def layers_chart(cells: Sequence[dict[str, Any]]) -> Chart:
    """Share of units that stays as a heat map of criteria and layers; the page steers the signal ``budget``.

    Args:
        cells: from `layer_cells`.
    """
    import altair as alt

    layers = list(dict.fromkeys(cell["layer"] for cell in cells))
    names = list(dict.fromkeys(cell["criterion"] for cell in cells))
    bare: dict[str, Any] = {"ticks": False, "domain": False, "title": None}
    solid = "rgb({},{},{})".format(*_GREEN)
    colours = alt.Scale(domain=[0, 1], range=[solid.replace("rgb", "rgba").replace(")", ",0.03)"), solid])
    key = alt.Legend(orient="top", format="%", title="units that stay", gradientLength=160, tickCount=3)
    base = (
        alt.Chart(alt.InlineData(values=list(cells)))
        .transform_filter("datum.budget === budget")
        .encode(
            x=alt.X("layer:N", sort=layers, axis=alt.Axis(labelAngle=-40, labelLimit=140, labelPadding=4, **bare)),
            y=alt.Y("criterion:N", sort=names, axis=alt.Axis(labelLimit=320, labelPadding=8, **bare)),
            tooltip=[
                alt.Tooltip("criterion:N"),
                alt.Tooltip("layer:N"),
                alt.Tooltip("share:Q", title="units that stay", format=".1%"),
                alt.Tooltip("spread:Q", title="difference between subsets", format=".1%"),
            ],
        )
    )
    parts = [
        base.mark_rect(cornerRadius=2, stroke=INK, strokeOpacity=0.12, strokeWidth=0.5).encode(
            color=alt.Color("share:Q", scale=colours, legend=key)
        )
    ]
    if len(layers) <= _WITH_NUMBERS:
        ink = alt.when("datum.share > 0.6").then(alt.value("#FFFFFF")).otherwise(alt.value(INK))
        parts.append(base.mark_text(fontSize=10).encode(text="text:N", color=ink))
    chart: Chart = alt.layer(*parts).add_params(alt.param(name="budget", value=layer_budgets(cells)[1]))
    return chart.properties(
        width="container", height=alt.Step(19), description="Share of units that stays, by criterion and layer"
    )


def _name(row: Row) -> str:
    return str(row["criterion"]) + (BLIND if row.get("scored_on") == "all" else "")


def _check(row: Row, needed: Sequence[str], where: str) -> None:
    absent = [name for name in needed if name not in row]
    if absent:
        raise RequestError(f"{where} has no {', '.join(absent)}; give {', '.join(needed)}")


def _means(found: Mapping[tuple[str, str], float], classes: Sequence[str]) -> dict[tuple[str, str], float]:
    """Mean over classes for each way of scoring that has them all."""
    means = {}
    for name in _SCORED:
        values = [found[name, label] for label in classes if (name, label) in found]
        if len(values) == len(classes) > 1:
            means[name, _MEAN] = sum(values) / len(values)
    return means


def _nearest(rows: Sequence[Row]) -> float:
    budgets = {budget for row in rows if (budget := number(row["budget"])) is not None}
    return min(budgets, key=lambda budget: (abs(budget - _MIDDLE), budget))


def _scored(row: Row) -> str:
    return _SCORED[row.get("scored_on") == "all"]


def _class_cell(accuracy: float | None, bold: bool) -> str:
    if accuracy is None:
        return "<td></td>"
    red, green, blue = _GREEN
    text = f"{100 * accuracy:.1f}"
    text = f"<strong>{text}</strong>" if bold else text
    return f'<td style="background:rgb({red} {green} {blue}/{0.65 * accuracy:.2f})">{text}</td>'
