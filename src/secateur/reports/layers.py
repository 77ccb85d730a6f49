"""How many units of each layer stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, KEPT, PLAIN_AXIS
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT

if TYPE_CHECKING:
    from secateur.reports.look import Chart


@dataclass(frozen=True)
class LayerKept:
    """How many outputs (channels, neurons) of one layer stay.

    Raises:
        RequestError: unless 0 <= kept <= total.
    """

    __pydantic_config__ = STRICT

    name: str
    kept: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.kept <= self.total:
            raise RequestError(f"layer '{self.name}' keeps {self.kept} of {self.total} units; give 0 <= kept <= total")


@dataclass(frozen=True)
class Layers:
    """Section of the units that stay.

    Attributes:
        layers: in the order of the forward pass.
        kept: removable units that stay, those of layers that are cut together counted once.
        total: removable units before pruning, counted likewise.
    """

    __pydantic_config__ = STRICT

    layers: list[LayerKept]
    kept: int | None = None
    total: int | None = None


def _charts(section: Layers, conditions: Conditions) -> dict[str, Chart]:
    return {"layers": _chart(section.layers)} if section.layers else {}


def _chart(layers: list[LayerKept]) -> Chart:
    """Kept and removed units of each layer as horizontal bars, first layer on top."""
    import altair as alt

    values: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for layer in layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        name = layer.name if seen[layer.name] == 1 else f"{layer.name} ({seen[layer.name]})"
        share = layer.kept / layer.total if layer.total else 0.0
        common = {"layer": name, "kept": layer.kept, "total": layer.total, "share": share}
        values.append({**common, "part": "kept", "place": 0, "units": layer.kept})
        values.append({**common, "part": "removed", "place": 1, "units": layer.total - layer.kept})
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(**PLAIN_AXIS)),
        tooltip=[
            "layer:N",
            "kept:Q",
            "total:Q",
            alt.Tooltip("share:Q", format=".0%"),
        ],
    )
    parts = ["kept", "removed"]
    bars = base.mark_bar().encode(
        x=alt.X("units:Q", title="units", stack="zero", axis=alt.Axis(tickMinStep=1, labelFlush=False)),
        color=alt.Color("part:N", title=None, scale=alt.Scale(domain=parts, range=[KEPT, INK])).legend(orient="top"),
        opacity=alt.Opacity("part:N", scale=alt.Scale(domain=parts, range=[1.0, 0.16]), legend=None),
        order=alt.Order("place:Q"),
    )
    labels = (
        base.transform_filter("datum.part === 'kept'")
        .mark_text(align="left", dx=5, color=INK, opacity=0.8, fontSize=11)
        .encode(x="total:Q", text=alt.Text("share:Q", format=".0%"))
    )
    step = 20 if len(layers) <= 60 else 13
    return alt.layer(bars, labels).properties(
        width="container", height=alt.Step(step), description="Units kept and removed in each layer"
    )


def _view(section: Layers, conditions: Conditions) -> dict[str, Any]:
    hint = "Units of layers that are cut together are shown in each of them."
    if section.kept is not None and section.total:
        share = figures.percent(section.kept / section.total)
        hint = f"{section.kept} of {section.total} removable units stay ({share}). "
        hint += "Those of layers that are cut together count once, and are shown in each."
    return {"hint": hint, "beneath": captions.of_scores(conditions)}


register_section(Layers, name="layers", template="layers.html", charts=_charts, view=_view)
