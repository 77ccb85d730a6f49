"""Charts of accuracy against what stays: interactive on the page, static for documents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.conditions import Conditions
from secateur.reports.curves import (
    MASKED,
    MEAN,
    MEASURES,
    SCORED,
    STAGES,
    TOP,
    Curves,
    drawable,
    looks_of,
    measures_of,
    stage,
)
from secateur.reports.look import INK, Chart, channels, picture_path, save_chart, style
from secateur.reports.rows import read_rows
from secateur.reports.summary import (
    TIMED,
    ComparisonRow,
    Panel,
    Point,
    aggregate,
    masked_panels,
    panels,
    samples_by_subset,
    split_unpruned,
)

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    Rows = Iterable[Mapping[str, Any] | ComparisonRow] | pd.DataFrame


def page_panels(found: Curves) -> dict[str, Panel]:
    """What the page draws, by name of the chart: one for each panel, those of masked weights last."""
    whole = panels(found.points) if found.measures() else []
    masked = masked_panels(found.masked) if drawable(found.masked, MASKED) else []
    return {f"curves-{place}": panel for place, panel in enumerate(whole)} | {
        f"masked-{place}": panel for place, panel in enumerate(masked)
    }


def page_charts(found: Curves) -> dict[str, Chart]:
    """The charts of `page_panels`."""
    title = "share of weights that are not zero"
    return {
        name: curve_chart(found, panel.points, measure=MASKED, across_title=title)
        if name.startswith("masked")
        else curve_chart(found, panel.points, measure=found.measures()[0])
        for name, panel in page_panels(found).items()
    }


def curve_chart(
    found: Curves,
    points: Sequence[Point],
    *,
    measure: str = "macs",
    across_title: str = "share that stays",
    static: bool = False,
    width: int | str = "container",
    height: int = 320,
) -> Chart:
    """Accuracy against the share that stays: mean, and a band from the lowest to the highest seed.

    The page steers ``measure`` (what of `MEASURES` is on the horizontal axis; `MASKED` has an axis of its own),
    ``focus`` (the one criterion brought forward; empty for all), and which points are shown (`Curves.steer`).

    Args:
        found: all points, so that axes and colours agree.
        points: those of this chart.
        measure: what the horizontal axis shows first: one of `MEASURES`, or `MASKED`.
        across_title: of the horizontal axis.
        static: for paper: a legend beside the chart, and nothing to choose.
        width: in pixels, or "container".
        height: in pixels.
    """
    import altair as alt

    steer = {} if static else found.steer
    masked = measure == MASKED
    every = found.masked if masked else found.points
    names = {point["base"] for point in every}
    looks = {name: look for name, look in found.looks.items() if name in names}
    shown = [measure] if masked else measures_of(every)
    # the first drawn last, that is on top of the others
    places = {name: place for place, name in enumerate(looks)}
    values = [
        _datum(point, shown, places[point["base"]])
        for point in sorted(points, key=lambda p: -places[p["base"]])
        if point["accuracy"] is not None
    ]
    filters = {"subset": "datum.subset === subset", "stage": "datum.stage === stage"}
    filters["scored"] = "(scored === 'both' || datum.scored === scored)"
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_calculate(x=f"datum.{MASKED}" if masked else "datum[measure]")
        .transform_filter(" && ".join(["isValid(datum.x)", *(filters[name] for name in steer)]))
        .encode(x=_horizontal(every, across_title, measure))
    )
    lows = [{"accuracy_low": value} for value in found.baselines.values()]
    up_scale = alt.Scale(domain=_accuracies([*every, *lows]), zero=False)
    up = alt.Y("accuracy:Q", title="accuracy", scale=up_scale).axis(format="%", tickCount=6)
    key = alt.Legend(columns=1, symbolLimit=60, labelLimit=220) if static else None
    key_title = "criterion, by mean accuracy" if found.aware else "criterion"

    colour, shape = channels("base", looks, title=key_title, legend=key)

    def emphasis(focus: float, top: float, rest: float, dim: float) -> Any:
        """Value for the focused criterion, else for the first and the rest, or for all others while one is focused."""
        another = f"indexof({json.dumps(list(looks))}, focus) >= 0"  # what is not in this chart dims nothing here
        chosen = alt.when("focus === datum.base").then(alt.value(focus)).when(another).then(alt.value(dim))
        return chosen.when(f"datum.place < {found.coloured}").then(alt.value(top)).otherwise(alt.value(rest))

    # the opacity of a line is that of its first point
    series = alt.Detail(["base:N", "scored:N", "stage:N"])
    band = base.mark_area().encode(
        y=alt.Y("accuracy_low:Q", scale=up_scale),
        y2="accuracy_high:Q",
        color=colour,
        detail=series,
        opacity=emphasis(0.18, 0.07 if found.aware else 0.13, 0.0, 0.0),
    )
    line = base.mark_line().encode(
        y=up,
        color=colour,
        detail=series,
        opacity=emphasis(1.0, 0.95, 0.45, 0.1),
        strokeWidth=emphasis(3, 2, 1.5, 1.5),
    )
    if found.aware and len(found.scored) > 1:
        line = line.encode(strokeDash=_dash("scored", list(SCORED.values()), static))
    elif not found.aware and len(found.stages) > 1:
        line = line.encode(strokeDash=_dash("stage", list(STAGES[::-1]), static))
    dots = base.mark_point(filled=True, size=42).encode(
        y=up,
        color=colour,
        shape=shape,
        opacity=emphasis(1.0, 1.0, 0.5, 0.1),
        tooltip=_tooltip(shown),
    )
    start = {"measure": measure, "focus": ""} | steer
    chart = alt.layer(band, line, dots, *_rules(found, up, "subset" in steer))
    return chart.add_params(*(alt.param(name=name, value=value) for name, value in start.items())).properties(
        width=width, height=height, description="Accuracy against the share that stays, one line by criterion"
    )


def save_curves(
    rows: Rows,
    path: str | Path,
    baseline: float | None = None,
    conditions: Conditions | None = None,
    measure: Literal["macs", "params", "units"] = "macs",
) -> Path:
    """Draw accuracy against what stays as a static picture on white, one panel by strategy, for a page or a paper.

    Masked weights and class-blind scores are left out: the former save no MACs, for the latter see
    `secateur.reports.save_subset_curves`.

    Args:
        rows: of ``compare``: `ComparisonRow`, dictionaries, or a frame.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        baseline: accuracy of the unpruned network, 0..1.
        conditions: of the report, named beneath the picture.
        measure: what stays: shares of MACs, parameters or units.

    Raises:
        RequestError: for another ending, or rows without accuracy and what is measured.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    found = read_rows(ComparisonRow, rows)
    points = [point for point in _by_size(found, path, measure) if point["scored_on"] == "subset"]
    baselines = {} if baseline is None else {MEAN: baseline}
    drawn = Curves(points, [], baselines, style([point["base"] for point in points]), aware=False)
    charts = [
        curve_chart(
            drawn, panel.points, measure=measure, across_title=f"{_WORDS[measure]} that stay", static=True, width=400,
            height=300,
        ).properties(title=panel.title)
        for panel in panels(points)
    ]  # fmt: skip
    return _save(alt.hconcat(*charts, spacing=36), points, found, path, conditions)


def save_subset_curves(rows: Rows, path: str | Path, conditions: Conditions | None = None) -> Path:
    """Draw accuracy against MACs, mean over subsets: left not fine-tuned, right fine-tuned, one line by strategy.

    The criteria of the highest mean accuracy are in colour, and class-blind scores of these dashed; bands reach
    from the lowest to the highest seed. Masked weights are left out: they save no MACs.

    Args:
        rows: of ``compare``, that of the unpruned network included or not.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        conditions: of the report, named beneath the picture.

    Raises:
        RequestError: for another ending, or rows without accuracy and MACs.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    found = read_rows(ComparisonRow, rows)
    unpruned, pruned = split_unpruned(found)
    points = _by_size(pruned, path, "macs")
    baselines = {MEAN: sum(unpruned.values()) / len(unpruned)} if unpruned else {}
    looks = looks_of(points)
    points = [point for point in points if point["scored_on"] == "subset" or point["base"] in list(looks)[:TOP]]
    drawn = Curves(points, [], baselines, looks, aware=True)
    lines: list[Chart] = []
    for panel in panels(points):
        charts = [
            curve_chart(
                replace(drawn, points=[point for point in points if stage(point) == name]),
                [point for point in panel.points if stage(point) == name],
                across_title="MACs that stay",
                static=True,
                width=430,
                height=330,
            ).properties(title=alt.TitleParams(f"{panel.title}, {name}", frame="group"))
            for name in drawn.stages
        ]
        lines.append(alt.hconcat(*charts, spacing=30))
    return _save(alt.vconcat(*lines, spacing=30), points, found, path, conditions)


_WORDS = {"macs": "MACs", "params": "parameters", "units": "units"}


def _by_size(rows: Sequence[ComparisonRow], path: str | Path, measure: str) -> list[Point]:
    """Points of structured criteria that have accuracy and one measure, which alone their axis spans."""
    picture_path(path)
    alone = {"subset": MEAN} | dict.fromkeys(name for name in MEASURES if name != measure)
    points = [
        point | alone
        for point in aggregate(rows)
        if point["structured"] and None not in (point["accuracy"], point[measure])
    ]
    if not any(point["scored_on"] == "subset" for point in points):
        raise RequestError(f"cannot draw '{path}': no row has both accuracy and {measure}; run compare first")
    return points


def _save(
    chart: Chart, points: list[Point], rows: list[ComparisonRow], path: str | Path, conditions: Conditions | None
) -> Path:
    known = conditions or Conditions()
    return save_chart(chart, path, captions.of_points(points, samples_by_subset(rows, known), known))


def _datum(point: Point, shown: Sequence[str], place: int) -> dict[str, Any]:
    """What a chart needs of a point; ``shown`` are measures."""
    names = ("criterion", "base", "subset", "strategy", "budget", "budget_kind", *shown)
    spread = ("accuracy", "accuracy_low", "accuracy_high", "seeds")
    times = [f"{name}_text" for name in shown if name in TIMED]
    words = {"stage": stage(point), "scored": SCORED.get(point["scored_on"], point["scored_on"]), "place": place}
    values = {name: point[name] for name in (*names, *spread, *times)} | words
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


def _dash(name: str, domain: list[str], legend: bool) -> alt.StrokeDash:
    import altair as alt

    scale = alt.Scale(domain=domain, range=[[1, 0], [5, 4]])
    shown = alt.Legend(symbolType="stroke", symbolSize=500, symbolStrokeColor=INK) if legend else None
    return alt.StrokeDash(f"{name}:N", title=None, scale=scale, legend=shown)


def _tooltip(shown: Sequence[str]) -> list[alt.Tooltip | str]:
    """Everything about one point; ``shown`` are measures."""
    import altair as alt

    shares = {"budget": "budget", "macs": "MACs", "params": "parameters", "units": "units", MASKED: "weights left"}
    shares |= {"latency_share": "latency", "onnx_share": "ONNX latency"}
    figures = {"accuracy": "accuracy", "accuracy_low": "lowest seed", "accuracy_high": "highest seed"}
    return [
        "criterion:N",
        "strategy:N",
        "stage:N",
        *(
            alt.Tooltip(f"{name}_text:N", title=shares[name])
            if name in TIMED
            else alt.Tooltip(f"{name}:Q", title=shares[name], format=".0%")
            for name in ("budget", *shown)
        ),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".1%") for name, title in figures.items()),
        "seeds:Q",
    ]


def _horizontal(points: Sequence[Point], title: str, measure: str) -> alt.X:
    """Axis over the shares of all points; timed shares, which may be longer than 1, have a range of their own."""
    import altair as alt

    sizes = [name for name in MEASURES if name not in TIMED] if measure in MEASURES else [measure]
    domain: Any = _shares(points, sizes)
    timed = [name for name in measures_of(points) if name in TIMED and measure in MEASURES]
    if timed:
        ranges = json.dumps({name: _shares(points, [name]) for name in timed})
        domain = alt.ExprRef(expr=f"{ranges}[measure] || {json.dumps(domain)}")
    across = alt.X("x:Q", title=title, scale=alt.Scale(domain=domain))
    return across.axis(format="%", tickCount=6, labelFlush=False)


def _accuracies(points: Iterable[Mapping[str, Any]]) -> list[float]:
    """Range of the vertical axis, rounded outwards."""
    found = [p[name] for p in points for name in ("accuracy_low", "accuracy_high") if p.get(name) is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    return [max(0.0, math.floor(low * 10 - 1e-9) / 10), min(1.0, math.ceil(high * 20 - 1e-9) / 20)]


def _shares(points: Sequence[Point], names: Sequence[str]) -> list[float]:
    shares = [point[name] for point in points for name in names if point[name] is not None]
    low = min(shares, default=0.0)
    return [max(0.0, math.floor(low * 20 - 1e-9) / 20), max(1.0, *shares) if shares else 1.0]


def _rules(found: Curves, up: alt.Y, by_subset: bool) -> list[alt.Chart]:
    """The unpruned network, for the subset that is shown."""
    import altair as alt

    names = [name for name in found.baselines if by_subset or name == MEAN]
    if not names:
        return []
    values = [
        {"subset": name, "accuracy": found.baselines[name], "text": f"unpruned {found.baselines[name]:.1%}"}
        for name in names
    ]
    rule = alt.Chart(alt.InlineData(values=values)).encode(y=up)
    rule = rule.transform_filter("datum.subset === subset") if by_subset else rule
    text = rule.mark_text(align="left", baseline="top", dx=4, dy=4, color=INK, opacity=0.8, fontSize=12)
    return [
        rule.mark_rule(strokeDash=[6, 4], color=INK, opacity=0.6),
        text.encode(x=alt.value(0), text="text:N"),
    ]
