"""What a refit did: the error of each layer's output, pruned, with the mean made up for, and refitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, KEPT, PLAIN_AXIS
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT

if TYPE_CHECKING:
    from secateur.reports.look import Chart

_LEAST = 1e-5
"""Of smaller errors nothing is drawn: the axis is logarithmic."""

_BEFORE = "#9A9F9B"


@dataclass(frozen=True)
class LayerRefit:
    """One layer; errors are mean squared differences from the unpruned network's output, over its variance.

    Attributes:
        layer: its name.
        before: as it was after pruning, with the layers before it refitted.
        mean: with the mean difference in the bias.
        after: refitted.
        strength: λ; None: the weights stay.
        reason: why it was left as it is.
    """

    __pydantic_config__ = STRICT

    layer: str
    before: float
    mean: float
    after: float
    strength: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class LayerRefits:
    """Section of a refit.

    Attributes:
        layers: in the order of the forward pass.
    """

    __pydantic_config__ = STRICT

    layers: list[LayerRefit]

    @property
    def drawn(self) -> list[LayerRefit]:
        """Those whose output was another after pruning, and that were not left as they are."""
        return [row for row in self.layers if not row.reason and row.before > _LEAST]


def _charts(section: LayerRefits, conditions: Conditions) -> dict[str, Chart]:
    return {"layer-refits": _chart(section.drawn)} if section.drawn else {}


def _chart(rows: list[LayerRefit]) -> Chart:
    """A line from the error before to the error after for each layer, first layer on top."""
    import altair as alt

    values: list[dict[str, Any]] = []
    for row in rows:
        drawn = {name: max(_LEAST, getattr(row, name)) for name in ("before", "after")}
        values.append({**vars(row), **{f"drawn_{name}": value for name, value in drawn.items()}})
    scale = alt.Scale(type="log", nice=False, padding=6)
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(**PLAIN_AXIS)),
        tooltip=[
            "layer:N",
            *(alt.Tooltip(f"{name}:Q", format=".2g") for name in ("before", "mean", "after", "strength")),
        ],
    )
    title = "error of the layer's output, over its variance"
    lines = base.mark_rule(color=INK, opacity=0.3).encode(
        x=alt.X("drawn_before:Q", scale=scale, title=title), x2="drawn_after:Q"
    )
    colours = alt.Scale(domain=["pruned", "refitted"], range=[_BEFORE, KEPT])
    points = [
        base.transform_calculate(state=f"'{state}'")
        .mark_circle(size=60, opacity=1)
        .encode(
            x=alt.X(f"drawn_{name}:Q", scale=scale, title=title),
            color=alt.Color("state:N", title=None, scale=colours).legend(orient="top"),
        )
        for name, state in (("before", "pruned"), ("after", "refitted"))
    ]
    step = 20 if len(rows) <= 60 else 13
    chart: Chart = alt.layer(lines, *points)
    return chart.properties(
        width="container", height=alt.Step(step), description="Error of each layer's output before and after the refit"
    )


def _view(section: LayerRefits, conditions: Conditions) -> dict[str, Any]:
    left = [f"{row.layer}: {row.reason}" for row in section.layers if row.reason]
    same = sum(not row.reason and row.before <= _LEAST for row in section.layers)
    return {"left": left, "same": same}


register_section(LayerRefits, name="layer-refits", template="layer_refits.html", charts=_charts, view=_view)
