"""Accuracy against what stays: interactive on the page, static for documents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, Chart, Looks, save_chart, style
from secateur.reports.summary import TIMED, Point, Row, aggregate, criteria, panels, samples_by_subset

if TYPE_CHECKING:
    import altair as alt

MEASURES = {
    "macs": "MACs",
    "params": "Parameters",
    "units": "Units",
    "latency_share": "Latency",
    "onnx_share": "ONNX latency",
}
MASKED = "weights"  # the share of weights that are not zero: single weights masked, at full size


def curves(
    points: Sequence[Point],
    *,
    every: Sequence[Point] | None = None,
    looks: Looks | None = None,
    baseline: float | None = None,
    measure: str = "macs",
    across_title: str = "share that stays",
    legend: bool = True,
    width: int | str = "container",
    height: int = 300,
) -> Chart:
    """Accuracy against the share that stays: mean over seeds, band from the lowest to the highest seed.

    The page steers two signals: ``measure`` (what of `MEASURES` is on the horizontal axis) and ``focus`` (the one
    criterion in full colour; empty for all). `MASKED` weights have an axis of their own, which is not steered.

    Args:
        points: from `secateur.reports.summary.aggregate`.
        every: points of all charts that stand side by side, so that axes and colours agree.
        looks: colour and shape of each criterion; by default those of the criteria in ``every``.
        baseline: accuracy of the unpruned network, a dashed rule.
        measure: what the horizontal axis shows first: one of `MEASURES`, or `MASKED`.
        across_title: of the horizontal axis.
        legend: draw one beside the chart.
        width: in pixels, or "container".
        height: in pixels.

    Raises:
        RequestError: for an unknown measure.
    """
    import altair as alt

    if measure not in MEASURES and measure != MASKED:
        raise RequestError(f"unknown measure '{measure}'; known: {', '.join((*MEASURES, MASKED))}")
    every = points if every is None else every
    looks = style(criteria(every)) if looks is None else looks
    across = horizontal(every, across_title, measure)
    colour = alt.Color(
        "criterion:N",
        title="criterion",
        scale=alt.Scale(domain=list(looks), range=[look[0] for look in looks.values()]),
        legend=alt.Legend() if legend else None,
    )
    shape = alt.Shape(
        "criterion:N",
        title="criterion",
        scale=alt.Scale(domain=list(looks), range=[look[1] for look in looks.values()]),
        legend=alt.Legend() if legend else None,
    )
    up_scale = alt.Scale(domain=accuracies([*every, {"accuracy_low": baseline}]), zero=False)
    up = alt.Y("accuracy:Q", title="accuracy", scale=up_scale).axis(format="%", tickCount=6)
    focused = "focus === '' || datum.criterion === focus"
    shown = measures(every) if measure in MEASURES else [measure]
    values = [datum(point, shown) for point in points if point["accuracy"] is not None]
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_calculate(x="datum[measure]" if measure in MEASURES else f"datum.{measure}")
        .transform_filter("isValid(datum.x)")
    )
    band = base.mark_area().encode(
        x=across,
        y=alt.Y("accuracy_low:Q", scale=up_scale),
        y2="accuracy_high:Q",
        color=colour,
        detail="stage:N",
        opacity=alt.condition(focused, alt.value(0.13), alt.value(0.02)),
    )
    line = base.mark_line(strokeWidth=2).encode(
        x=across,
        y=up,
        color=colour,
        detail="stage:N",
        opacity=alt.condition(focused, alt.value(0.95), alt.value(0.12)),
    )
    if len({point["finetuned"] for point in every}) > 1:
        line = line.encode(strokeDash=_dash(legend))
    dots = base.mark_point(filled=True, size=46).encode(
        x=across,
        y=up,
        color=colour,
        shape=shape,
        opacity=alt.condition(focused, alt.value(1), alt.value(0.12)),
        tooltip=tooltip(shown),
    )
    layers: list[alt.Chart] = [band, line, dots]
    if baseline is not None:
        rule = alt.Chart(alt.InlineData(values=[{"accuracy": baseline, "text": f"unpruned {baseline:.1%}"}]))
        rule = rule.encode(y=up)
        layers.append(rule.mark_rule(strokeDash=[6, 4], color=INK, opacity=0.6))
        layers.append(
            rule.mark_text(align="left", baseline="top", dx=4, dy=4, color=INK, opacity=0.8, fontSize=12)
            .encode(x=alt.value(0), text="text:N")
        )  # fmt: skip
    chart = alt.layer(*layers).add_params(alt.param(name="measure", value=measure), alt.param(name="focus", value=""))
    return chart.properties(
        width=width, height=height, description="Accuracy against the share that stays, one line by criterion"
    )


def save_curves(
    rows: Sequence[Row], path: str | Path, baseline: float | None = None, conditions: Conditions | None = None
) -> Path:
    """Draw accuracy against MACs as a static picture on white, one panel by strategy, for a page or a paper.

    Masked weights and class-blind scores are left out: the former save no MACs, for the latter see
    `secateur.reports.save_subset_curves`.

    Args:
        rows: tidy rows of ``compare``.
        path: ends in ``.png`` (drawn at twice the size) or ``.svg``.
        baseline: accuracy of the unpruned network, 0..1.
        conditions: of the report, named beneath the picture.

    Raises:
        RequestError: for another ending, or rows without accuracy and MACs.
    """
    import altair as alt

    target = Path(path)
    if target.suffix not in (".png", ".svg"):
        raise RequestError(f"cannot draw '{target}': unknown ending '{target.suffix}'; use .png or .svg")
    points = [
        point
        for point in aggregate(rows)
        if point["structured"] and point["scored_on"] == "subset" and None not in (point["accuracy"], point["macs"])
    ]
    if not points:
        raise RequestError(f"cannot draw '{target}': no row has both accuracy and macs; run compare first")
    alone = dict.fromkeys(name for name in MEASURES if name != "macs")
    points = [point | alone for point in points]  # the axis spans MACs alone
    charts = [
        curves(
            panel.points,
            every=points,
            baseline=baseline,
            across_title="MACs that stay",
            width=400,
            height=300,
        ).properties(title=panel.title)
        for panel in panels(points)
    ]
    known = conditions or Conditions()
    beneath = captions.of_points(points, samples_by_subset(rows, known), known)
    return save_chart(alt.hconcat(*charts, spacing=36), target, beneath)


def measures(points: Iterable[Point]) -> list[str]:
    """What the horizontal axis can show: the shares of size always, the timed ones where some point has them."""
    points = list(points)
    return [name for name in MEASURES if name not in TIMED or any(point[name] is not None for point in points)]


def datum(point: Point, shown: Sequence[str]) -> dict[str, Any]:
    """What a chart needs of a point; ``shown`` are measures."""
    names = ("criterion", "strategy", "budget", "budget_kind", *shown)
    spread = ("accuracy", "accuracy_low", "accuracy_high", "seeds")
    times = [f"{name}_text" for name in shown if name in TIMED]
    return {name: point[name] for name in (*names, *spread, *times)} | {"stage": stage(point)}


def stage(point: Point) -> str:
    """In words, whether a network was trained again after pruning."""
    return "fine-tuned" if point["finetuned"] else "not fine-tuned"


def _dash(legend: bool) -> alt.StrokeDash:
    import altair as alt

    scale = alt.Scale(domain=["fine-tuned", "not fine-tuned"], range=[[1, 0], [5, 4]])
    shown = alt.Legend(symbolType="stroke", symbolSize=500, symbolStrokeColor=INK) if legend else None
    return alt.StrokeDash("stage:N", title=None, scale=scale, legend=shown)


def tooltip(shown: Sequence[str]) -> list[alt.Tooltip]:
    """Everything about one point; ``shown`` are measures."""
    import altair as alt

    shares = {
        "budget": "budget",
        "macs": "MACs",
        "params": "parameters",
        "units": "units",
        "latency_share": "latency",
        "onnx_share": "ONNX latency",
        MASKED: "weights left",
    }
    figures = {"accuracy": "accuracy", "accuracy_low": "lowest seed", "accuracy_high": "highest seed"}
    return [
        alt.Tooltip("criterion:N"),
        alt.Tooltip("strategy:N"),
        alt.Tooltip("stage:N"),
        *(
            alt.Tooltip(f"{name}_text:N", title=shares[name])
            if name in TIMED
            else alt.Tooltip(f"{name}:Q", title=shares[name], format=".0%")
            for name in ("budget", *shown)
        ),
        *(alt.Tooltip(f"{name}:Q", title=title, format=".1%") for name, title in figures.items()),
        alt.Tooltip("seeds:Q"),
    ]


def horizontal(points: Sequence[Point], title: str, measure: str) -> alt.X:
    """Axis over the shares of all points; timed shares, which may be longer than 1, have a range of their own."""
    import altair as alt

    sizes = [name for name in MEASURES if name not in TIMED] if measure in MEASURES else [measure]
    domain: Any = _shares(points, sizes)
    timed = [name for name in measures(points) if name in TIMED and measure in MEASURES]
    if timed:
        ranges = json.dumps({name: _shares(points, [name]) for name in timed})
        domain = alt.ExprRef(expr=f"{ranges}[measure] || {json.dumps(domain)}")
    across = alt.X("x:Q", title=title, scale=alt.Scale(domain=domain))
    return across.axis(format="%", tickCount=6, labelFlush=False)


def accuracies(points: Iterable[Mapping[str, Any]]) -> list[float]:
    """Range of the vertical axis, rounded outwards."""
    found = [p[name] for p in points for name in ("accuracy_low", "accuracy_high") if p.get(name) is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    return [max(0.0, math.floor(low * 10 - 1e-9) / 10), min(1.0, math.ceil(high * 20 - 1e-9) / 20)]


def _shares(points: Sequence[Point], names: Sequence[str]) -> list[float]:
    shares = [point[name] for point in points for name in names if point[name] is not None]
    low = min(shares, default=0.0)
    return [max(0.0, math.floor(low * 20 - 1e-9) / 20), max(1.0, *shares) if shares else 1.0]
