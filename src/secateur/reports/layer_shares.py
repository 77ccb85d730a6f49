"""Where criteria remove: the share of each layer's units that stays, as a heat map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.reports import captions
from secateur.reports.conditions import Conditions
from secateur.reports.look import GREEN, INK, PLAIN_AXIS
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT
from secateur.reports.summary import BLIND

if TYPE_CHECKING:
    from secateur.reports.look import Chart

_MIDDLE = 0.5  # the budget nearest to this is shown first
_WITH_NUMBERS = 16  # layers: beyond this, cells are too narrow for a number


@dataclass(frozen=True)
class LayerShareRow:
    """Units of one layer that stay.

    Attributes:
        criterion: its name.
        budget: share that may stay; rows without one are left out.
        layer: its name.
        kept: units that stay; a mean over seeds may be no whole number.
        total: units before pruning.
        scored_on: ``all`` for class-blind scores.
        strategy: how units were chosen.
        subset: of classes.
    """

    __pydantic_config__ = ROW

    criterion: str
    budget: float | None
    layer: str
    kept: float | None
    total: float | None
    scored_on: str = "subset"
    strategy: str = ""
    subset: str = ""


@dataclass(frozen=True)
class LayerShares:
    """Section of which layers each criterion removes from."""

    __pydantic_config__ = STRICT

    rows: list[LayerShareRow]


@dataclass(frozen=True)
class LayerCell:
    """One cell of the heat map: a criterion (class-blind ones say so), a budget in percent, a layer.

    Attributes:
        share: of the layer's units that stays, 0..1.
        spread: largest difference between two subsets' shares.
    """

    criterion: str
    budget: str
    layer: str
    share: float
    spread: float


def layer_cells(rows: Iterable[LayerShareRow]) -> list[LayerCell]:
    """Share of units that stays, over all subsets, by criterion, budget and layer.

    Example:
        >>> rows = [LayerShareRow("lrp", 0.5, "conv1", kept, 8, subset=str(kept)) for kept in (2, 4)]
        >>> layer_cells(rows)
        [LayerCell(criterion='lrp', budget='50 %', layer='conv1', share=0.375, spread=0.25)]
    """
    rows = list(rows)
    several = len({row.strategy for row in rows}) > 1
    groups: dict[tuple[str, float, str], list[tuple[float, float, str]]] = {}
    for row in rows:
        if row.budget is not None and row.kept is not None and row.total:
            name = row.criterion + BLIND * (row.scored_on == "all") + f" · {row.strategy}" * several
            groups.setdefault((name, row.budget, row.layer), []).append((row.kept, row.total, row.subset))
    cells = []
    for (criterion, budget, layer), found in groups.items():
        share = sum(kept for kept, _, _ in found) / sum(total for _, total, _ in found)
        subsets: dict[str, list[float]] = {}
        for kept, total, subset in found:
            subsets.setdefault(subset, []).append(kept / total)
        means = [sum(shares) / len(shares) for shares in subsets.values()]
        spread = round(max(means) - min(means), 4)
        cells.append(LayerCell(criterion, f"{100 * budget:g} %", layer, round(share, 4), spread))
    return cells


def _budgets(cells: Sequence[LayerCell]) -> tuple[list[str], str]:
    """Budgets that occur, largest first, and the one nearest to one half."""
    shares = {cell.budget: float(cell.budget.removesuffix(" %")) / 100 for cell in cells}
    ordered = sorted(shares, key=lambda budget: -shares[budget])
    return ordered, min(ordered, key=lambda budget: abs(shares[budget] - _MIDDLE), default="")


def _charts(section: LayerShares, conditions: Conditions) -> dict[str, Chart]:
    cells = layer_cells(section.rows)
    return {"layer-shares": _chart(cells)} if cells else {}


def _chart(cells: Sequence[LayerCell]) -> Chart:
    """A heat map of criteria and layers; the page steers the signal ``budget``."""
    import altair as alt

    layers = list(dict.fromkeys(cell.layer for cell in cells))
    names = list(dict.fromkeys(cell.criterion for cell in cells))
    bare: dict[str, Any] = PLAIN_AXIS | {"title": None}
    red, green, blue = GREEN
    colours = alt.Scale(domain=[0, 1], range=[f"rgba({red},{green},{blue},0.03)", f"rgb({red},{green},{blue})"])
    key = alt.Legend(orient="top", format="%", title="units that stay", gradientLength=160, tickCount=3)
    across = alt.Axis(**bare | {"labelAngle": -40, "labelLimit": 140, "labelPadding": 4})
    base = (
        alt.Chart(alt.InlineData(values=[vars(cell) | {"text": f"{100 * cell.share:.0f}"} for cell in cells]))
        .transform_filter("datum.budget === budget")
        .encode(
            x=alt.X("layer:N", sort=layers, axis=across),
            y=alt.Y("criterion:N", sort=names, axis=alt.Axis(**bare | {"labelLimit": 320, "labelPadding": 8})),
            tooltip=[
                "criterion:N",
                "layer:N",
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
    chart: Chart = alt.layer(*parts).add_params(alt.param(name="budget", value=_budgets(cells)[1]))
    return chart.properties(
        width="container", height=alt.Step(19), description="Share of units that stays, by criterion and layer"
    )


def _view(section: LayerShares, conditions: Conditions) -> dict[str, Any]:
    budgets, start = _budgets(layer_cells(section.rows))
    subsets = {row.subset for row in section.rows if row.subset}
    several = f"{len(subsets)} subsets of classes" if len(subsets) > 1 else ""
    beneath = captions.line(captions.of_scores(conditions), several)
    return {"budgets": {budget: budget for budget in budgets}, "start": start, "beneath": beneath}


register_section(LayerShares, name="layer-shares", template="layer_shares.html", charts=_charts, view=_view)
