"""One look for all charts: colours that colour-blind readers tell apart, on light, dark and paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

# Okabe and Ito's colours without black and yellow, the blue lightened: readable on dark and on white.
PALETTE = ("#1F83C6", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left")
GREY = "#8A8F8C"
KEPT = "#3D8B65"

# "currentColor" lets one chart serve light and dark pages and paper.
INK = "currentColor"
_AXIS = {
    "labelColor": INK,
    "titleColor": INK,
    "domainColor": INK,
    "gridColor": INK,
    "tickColor": INK,
    "domainOpacity": 0.35,
    "gridOpacity": 0.1,
    "labelOpacity": 0.8,
    "labelFontSize": 12,
    "tickOpacity": 0.35,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
    "titleOpacity": 0.8,
    "titlePadding": 8,
}
_LEGEND = {
    "labelColor": INK,
    "titleColor": INK,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "symbolSize": 70,
    "symbolOpacity": 1,
}
_CONFIG = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif",
    "axis": _AXIS,
    "legend": _LEGEND,
    "title": {"color": INK, "fontSize": 14, "fontWeight": 600, "anchor": "start"},
    "view": {"stroke": None},
}

Chart = alt.LayerChart | alt.FacetChart | alt.HConcatChart


def style(criterion_names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and shape for each criterion; "random", the yardstick, is grey.

    Example:
        >>> style(["lrp", "random"])
        {'lrp': ('#1F83C6', 'circle'), 'random': ('#8A8F8C', 'cross')}
    """
    looks: dict[str, tuple[str, str]] = {}
    for name in criterion_names:
        place = len(looks) - ("random" in looks)
        plain = (PALETTE[place % len(PALETTE)], SHAPES[place % len(SHAPES)])
        looks[name] = (GREY, "cross") if name == "random" else plain
    return looks


def specification(chart: Chart, ink: str = INK) -> dict[str, Any]:
    """Vega-Lite specification with the house's settings; names no address on the network."""
    plain = chart.to_dict()
    plain.pop("$schema", None)
    plain["config"] = _CONFIG
    recoloured: dict[str, Any] = _replace(plain, INK, ink)
    return recoloured


def _replace(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return new if value == old else value
