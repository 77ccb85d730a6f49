"""Bars: units kept in each layer, accuracy of each class before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from secateur.report.look import INK, KEPT, Chart
from secateur.report.records import LayerKept

MOST_CLASSES = 40


def layers_kept(layers: Sequence[LayerKept]) -> Chart:
    """Kept and removed units of each layer as horizontal bars, first layer on top."""
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
        y=alt.Y(
            "layer:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelLimit=220, ticks=False, domain=False, labelPadding=6),
        ),
        tooltip=[
            alt.Tooltip("layer:N"),
            alt.Tooltip("kept:Q"),
            alt.Tooltip("total:Q"),
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


def class_changes(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Classes measured both times, greatest loss first; of many, the `MOST_CLASSES` with the greatest change.

    Example:
        >>> class_changes({"cat": 0.9, "dog": 0.8, "owl": 1.0}, {"cat": 0.8, "dog": 0.9})
        [('cat', 0.9, 0.8), ('dog', 0.8, 0.9)]
    """
    found = [
        (name, value, after[name])
        for name, value in before.items()
        if name in after and math.isfinite(value) and math.isfinite(after[name])
    ]
    kept = sorted(found, key=lambda change: -abs(change[2] - change[1]))[:MOST_CLASSES]
    return sorted(kept, key=lambda change: change[2] - change[1])


def per_class(changes: Sequence[tuple[str, float, float]]) -> Chart:
    """Accuracy of each class before and after as paired bars."""
    values = [
        {"class": name, "stage": stage, "accuracy": value, "change": new - old}
        for name, old, new in changes
        for stage, value in (("before", old), ("after", new))
    ]
    stages = ["before", "after"]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y(
            "class:N",
            sort=None,
            title=None,
            axis=alt.Axis(labelLimit=220, ticks=False, domain=False, labelPadding=6),
        ),
        tooltip=[
            alt.Tooltip("class:N"),
            alt.Tooltip("stage:N"),
            alt.Tooltip("accuracy:Q", format=".1%"),
            alt.Tooltip("change:Q", format="+.1%", title="change"),
        ],
    )
    bars = base.mark_bar().encode(
        x=alt.X("accuracy:Q", title="accuracy", axis=alt.Axis(format="%", tickCount=6, labelFlush=False)).scale(
            domain=[0, 1]
        ),
        yOffset=alt.YOffset("stage:N", sort=stages),
        color=alt.Color("stage:N", title=None, scale=alt.Scale(domain=stages, range=[INK, KEPT])).legend(orient="top"),
        opacity=alt.Opacity("stage:N", scale=alt.Scale(domain=stages, range=[0.3, 1.0]), legend=None),
    )
    return alt.layer(bars).properties(
        width="container", height=alt.Step(12), description="Accuracy of each class before and after pruning"
    )
