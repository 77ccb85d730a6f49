"""One look for all charts: colours that colour-blind readers tell apart, on light, dark and paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path

if TYPE_CHECKING:
    import altair as alt

# Okabe and Ito's colours without black and yellow, the blue lightened: readable on dark and on white.
PALETTE = ("#1F83C6", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left")
_LOOKS = len(PALETTE) * len(SHAPES)
GREY = "#8A8F8C"
KEPT = "#3D8B65"
GREEN = (47, 115, 83)
"""Of cells that are coloured by a share: white numbers are legible on the full colour."""

# Colours of classes: Tableau's ten are those of 2016, the others in matplotlib.
_TABLEAU = "#4E79A7 #F28E2B #E15759 #76B7B2 #59A14F #EDC948 #B07AA1 #FF9DA7 #9C755F #BAB0AC".split()
_BREWER = {"set1": "Set1", "set2": "Set2", "dark2": "Dark2"}
_SEQUENTIAL = ("viridis", "coolwarm", "grey")
COLORMAPS = ("okabe-ito", *_BREWER, "tableau10", *_SEQUENTIAL)

# "currentColor" lets one chart serve light and dark pages; on white paper it is this near-black.
INK = "currentColor"
PAPER_INK = "#1B2420"
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
    "labelLimit": 320,
    "titleColor": INK,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "symbolSize": 70,
    "symbolOpacity": 1,
}
PLAIN_AXIS: dict[str, Any] = {"labelLimit": 220, "ticks": False, "domain": False, "labelPadding": 6}
"""Of an axis of names."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
_CONFIG = {
    "background": "transparent",
    "font": FONT,
    "axis": _AXIS,
    "legend": _LEGEND,
    "title": {"color": INK, "fontSize": 14, "fontWeight": 600, "anchor": "start"},
    "view": {"stroke": None},
}

# Criteria that are compared as a rule, each with the same colour in every figure of every page; the first have colours
# of their own, later ones share them and differ in shape.
_CRITERIA = (
    "lrp",
    "weight",
    "taylor",
    "grad",
    "activation",
    "lrp:composite=epsilon-plus",
    "ig",
    "sensitivity",
    "shapley",
    "bn-scale",
    "fpgm",
    "lamp",
    "apoz",
    "cap",
    "ocap",
    "magnitude",
    "gradient",
)

Looks: TypeAlias = Mapping[str, tuple[str, str]]  # colour and shape by criterion
Chart: TypeAlias = "alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart"


def colormap(name: str, count: int) -> list[str]:
    """Colours of ``count`` classes, as hexadecimal RGB.

    Qualitative maps give their first colours; viridis, coolwarm and grey are sampled at equal distances from end
    to end.

    Args:
        name: one of `COLORMAPS`, in capitals or not.
        count: number of classes.

    Raises:
        RequestError: for an unknown name, or more classes than a qualitative map has colours.

    Example:
        >>> colormap("okabe-ito", 2), colormap("viridis", 3)
        (['#1F83C6', '#D55E00'], ['#440154', '#21918C', '#FDE725'])
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    known = name.lower()
    if known not in COLORMAPS:
        raise RequestError(f"unknown colour map '{name}'; known: {', '.join(COLORMAPS)}")
    if known in _SEQUENTIAL:
        # grey ends before white, the colour of the page
        grey = LinearSegmentedColormap.from_list("grey", ["#252525", "#BDBDBD"])
        scale = grey if known == "grey" else colormaps[known]
        return [to_hex(scale(place / (count - 1) if count > 1 else 0.5)).upper() for place in range(count)]
    own = {"okabe-ito": PALETTE, "tableau10": _TABLEAU}
    colours = own.get(known) or [to_hex(colour).upper() for colour in colormaps[_BREWER[known]].colors]  # type: ignore[attr-defined]
    if count > len(colours):
        raise RequestError(
            f"colour map '{name}' has {len(colours)} colours, {count} classes need more; "
            f"use one of: {', '.join(_SEQUENTIAL)}"
        )
    return list(colours[:count])


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a hexadecimal colour, 0..255.

    Example:
        >>> rgb("#1F83C6")
        (31, 131, 198)
    """
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def shade(share: float, colour: tuple[int, int, int] = GREEN) -> str:
    """CSS colour behind a cell of a table, on light and dark pages: the more, the stronger.

    Example:
        >>> shade(0.5)
        'rgb(47 115 83/0.33)'
    """
    return "rgb({} {} {}/{:.2f})".format(*colour, 0.65 * min(1.0, abs(share)))


def style(criterion_names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and shape for each criterion; "random", the yardstick, is grey.

    Criteria that are compared as a rule look the same wherever they are drawn, in any order and company. A name that
    would look like one before it takes colours, then shapes, that are still free.

    Example:
        >>> style(["lrp", "random"])
        {'lrp': ('#1F83C6', 'circle'), 'random': ('#8A8F8C', 'cross')}
        >>> style(["my-own", "taylor", "lrp"])["lrp"]
        ('#1F83C6', 'circle')
    """
    names = list(dict.fromkeys(criterion_names))
    known = [name for name in _CRITERIA if name in names]
    taken: dict[str, int] = {}
    for name in (*known, *(name for name in names if name not in known and name != "random")):
        wanted = _CRITERIA.index(name) if name in known else 0
        used = set(taken.values())
        colours = {place % len(PALETTE) for place in used}
        places = [(wanted + step) % _LOOKS for step in range(_LOOKS)]
        free = [place for place in places if place not in used] or places
        taken[name] = next((place for place in free if place % len(PALETTE) not in colours), free[0])
    return {name: (GREY, "cross") if name == "random" else _look(taken[name]) for name in names}


def channels(column: str, looks: Looks, **options: Any) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of a chart's marks, by a column that names criteria.

    Args:
        column: its name.
        looks: of the criteria.
        options: of both channels, as ``legend`` and ``title``.
    """
    import altair as alt

    ranges = ([look[part] for look in looks.values()] for part in (0, 1))
    colours, shapes = (alt.Scale(domain=list(looks), range=found) for found in ranges)
    return alt.Color(f"{column}:N", scale=colours, **options), alt.Shape(f"{column}:N", scale=shapes, **options)


def _look(place: int) -> tuple[str, str]:
    return PALETTE[place % len(PALETTE)], SHAPES[place % len(SHAPES)]


def specification(chart: Chart, ink: str = INK) -> dict[str, Any]:
    """Vega-Lite specification with the house's settings; names no address on the network."""
    plain = chart.to_dict()
    plain.pop("$schema", None)
    plain["config"] = _CONFIG
    recoloured: dict[str, Any] = _replace(plain, INK, ink)
    return recoloured


def save_chart(chart: Chart, path: str | Path, beneath: str = "") -> Path:
    """Draw a chart as a static picture on white.

    Args:
        chart: its width and height are in pixels.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        beneath: one line below the chart: what holds for it.

    Raises:
        RequestError: for another ending.
        SecateurError: when the file cannot be written.
    """
    import vl_convert

    target = picture_path(path)
    spec = specification(chart, ink=PAPER_INK)
    if beneath:
        spec = _captioned(spec, beneath)
    # texts at the right end are longer in some viewers' fonts than in the one that they are measured with
    spec |= {"background": "white", "padding": {"left": 16, "top": 16, "bottom": 16, "right": 48}}
    with atomic_path(target) as temporary:
        if target.suffix == ".svg":
            temporary.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
        elif target.suffix == ".png":
            temporary.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
        else:
            temporary.write_bytes(vl_convert.vegalite_to_pdf(spec))
    return target


def _captioned(spec: dict[str, Any], text: str) -> dict[str, Any]:
    # data and settings belong to the outermost chart
    outer = {name: spec.pop(name) for name in ("config", "datasets", "params") if name in spec}
    line = {"text": text, "orient": "bottom", "color": PAPER_INK, "offset": 10}
    small = {"fontSize": 11, "fontWeight": "normal", "anchor": "start"}
    return {"vconcat": [spec], "title": line | small} | outer


def picture_path(path: str | Path) -> Path:
    """Refuse a picture's name with another ending than .svg, .png or .pdf."""
    target = Path(path)
    if target.suffix not in (".svg", ".png", ".pdf"):
        raise RequestError(f"cannot draw '{target}': unknown ending '{target.suffix}'; use .svg, .png or .pdf")
    return target


def _replace(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return new if value == old else value
