"""Bars: units kept in each layer, accuracy of each class before and after, agreement of heatmaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from secateur.reports.look import GREY, INK, KEPT, Chart
from secateur.reports.records import LayerKept

MOST_CLASSES = 40


def layers_kept(layers: Sequence[LayerKept]) -> Chart:
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
    import altair as alt

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


def agreement(counts: Sequence[int], chance: Sequence[int], measure: str) -> Chart:
    """Share of images by the agreement of their heatmaps, and of pairs of different images behind it.

    Args:
        counts: images in equal bins from -1 to 1.
        chance: the same for pairs of different images; may be empty.
        measure: title of the horizontal axis.
    """
    import altair as alt

    pairs = {"before and after": counts, "different images": chance} if sum(chance) else {"before and after": counts}
    bins = [
        {"pair": pair, "low": -1 + 2 * place / len(these), "high": -1 + 2 * (place + 1) / len(these), "count": count}
        | {"share": count / sum(these)}
        for pair, these in pairs.items()
        for place, count in enumerate(these)
        if count
    ]
    colours = alt.Scale(domain=list(pairs), range=[KEPT, GREY])
    base = alt.Chart(alt.InlineData(values=bins)).encode(
        x=alt.X("low:Q", bin="binned", title=measure, scale=alt.Scale(domain=[_floor(bins), 1])).axis(tickCount=6),
        x2="high:Q",
        y=alt.Y("share:Q", stack=None, title="share of images", axis=alt.Axis(format="%", tickCount=5)),
        color=alt.Color("pair:N", title=None, scale=colours).legend(orient="top"),
        tooltip=[
            alt.Tooltip("pair:N", title="heatmaps"),
            alt.Tooltip("low:Q", title="from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("count:Q", title="images"),
            alt.Tooltip("share:Q", format=".1%"),
        ],
    )
    # one layer each: where the bars overlap, both are to be seen
    behind = base.transform_filter("datum.pair === 'different images'").mark_bar(opacity=0.55)
    front = base.transform_filter("datum.pair === 'before and after'").mark_bar(opacity=0.75)
    return alt.layer(behind, front).properties(
        width="container", height=220, description=f"Share of images by {measure} of their heatmaps before and after"
    )


def _floor(bins: Sequence[Mapping[str, Any]]) -> float:
    lowest = min((float(item["low"]) for item in bins), default=0.0)
    return math.floor(lowest * 5 + 1e-9) / 5
