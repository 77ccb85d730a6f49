"""Accuracy against the number of reference samples: how few a criterion needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.layout import LIMIT, csv_link, table
from secateur.reports.look import INK, Chart, Looks, picture_path, save_chart, style
from secateur.reports.summary import Row, number

_NEEDED = ("dataset", "criterion", "samples_per_class", "evaluated_on", "stage", "mean_accuracy_percent")
_SEPARATE = ("network", "removed")
_ACROSS = "reference samples per class"
_ON = {"train": "training data", "test": "reference samples"}

Point = dict[str, Any]


def sample_points(rows: Iterable[Row]) -> list[Point]:
    """One point per row that has a mean: what was drawn, with the band's ends.

    Args:
        rows: with dataset, criterion, samples_per_class, evaluated_on (train, test or noisy), stage (pre or post)
            and mean_accuracy_percent; noise (sigma of the noise), sd_accuracy_percent and runs may be missing. Where
            rows differ in network or removed, the data set's name says which, lest they end in one line.

    Returns:
        dataset, criterion, samples, evaluated (in words), stage, mean, sd, low, high (mean ± sd within 0..100), runs.

    Raises:
        RequestError: for a row without one of these columns.

    Example:
        >>> row = {"dataset": "moon", "criterion": "lrp", "samples_per_class": 5, "evaluated_on": "noisy"}
        >>> row |= {"noise": 0.1, "stage": "post", "mean_accuracy_percent": 99.0, "sd_accuracy_percent": 2.0}
        >>> point, = sample_points([row])
        >>> point["evaluated"], point["low"], point["high"]
        ('noisy, σ 0.1', 97.0, 100.0)
    """
    rows = list(rows)
    varying = [name for name in _SEPARATE if len({row.get(name) for row in rows}) > 1]
    points: list[Point] = []
    for place, row in enumerate(rows):
        absent = [name for name in _NEEDED if name not in row]
        samples = number(row.get("samples_per_class"))
        if absent or samples is None or samples < 1:
            what = f"no {', '.join(absent)}" if absent else f"samples_per_class {row['samples_per_class']!r}"
            raise RequestError(f"row {place} of the accuracies has {what}; give {', '.join(_NEEDED)}")
        mean = number(row["mean_accuracy_percent"])
        if mean is None:
            continue
        sd = number(row.get("sd_accuracy_percent")) or 0.0
        points.append(
            {
                "dataset": " · ".join([str(row["dataset"]), *(f"{name} {row.get(name)}" for name in varying)]),
                "criterion": str(row["criterion"]),
                "samples": int(samples),
                "evaluated": _evaluated(str(row["evaluated_on"]), number(row.get("noise")) or 0.0),
                "stage": str(row["stage"]),
                "mean": mean,
                "sd": sd,
                "low": max(0.0, mean - sd),
                "high": min(100.0, mean + sd),
                "runs": number(row.get("runs")),
            }
        )
    return points


def distinct(points: Iterable[Point], name: str) -> list[Any]:
    """Values of one column, in the order of first appearance."""
    return list(dict.fromkeys(point[name] for point in points))


def samples_chart(
    rows: Sequence[Row], dataset: str | None = None, *, looks: Looks | None = None, height: int = 240
) -> Chart:
    """Accuracy after pruning against reference samples per class: mean, band of one standard deviation, and unpruned.

    Of several ways of evaluation one is shown at a time; the page steers two signals, ``evaluated`` (in words, as
    `sample_points` has it) and ``focus`` (the one criterion in full colour; empty for all).

    Args:
        rows: as for `sample_points`, of all charts that stand side by side, so that colours and counts agree.
        dataset: the one to draw, as `sample_points` has it; may be left out where there is one.
        looks: colour and shape of each criterion; by default those of the criteria that occur.
        height: in pixels; the width is that of the place on the page.

    Raises:
        RequestError: for rows without the columns needed, nothing to draw, or an unknown data set.
    """
    import altair as alt

    every = sample_points(rows)
    names = distinct(every, "dataset")
    chosen = names[0] if dataset is None and len(names) == 1 else dataset
    points = [point for point in every if point["dataset"] == chosen]
    if not points:
        raise RequestError(f"no accuracies of data set '{chosen}'; give one of: {', '.join(names) or 'no rows'}")
    chart = _chart(points, every, "accuracy, %", _ACROSS, looks, steered=True)
    evaluated, focus = alt.param(name="evaluated", value=every[0]["evaluated"]), alt.param(name="focus", value="")
    return chart.add_params(evaluated, focus).properties(width="container", height=height)


def save_samples(rows: Sequence[Row], path: str | Path) -> Path:
    """Draw accuracy against reference samples as a static picture on white: columns by data set, rows by evaluation.

    Args:
        rows: as for `sample_points`.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.

    Raises:
        RequestError: for another ending, rows without the columns needed, or nothing to draw.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    points = sample_points(rows)
    if not points:
        raise RequestError(f"cannot draw '{path}': no row has a mean accuracy")
    datasets, evaluations = distinct(points, "dataset"), distinct(points, "evaluated")
    lines = []
    for down, evaluated in enumerate(evaluations):
        charts = []
        for right, dataset in enumerate(datasets):
            chosen = [p for p in points if p["dataset"] == dataset and p["evaluated"] == evaluated]
            title = alt.TitleParams(dataset if down == 0 else "", frame="group")
            up_title = f"accuracy on {evaluated}, %" if right == 0 else ""
            across_title = _ACROSS if down + 1 == len(evaluations) else ""
            chart = _chart(chosen, points, up_title, across_title, None, steered=False)
            charts.append(chart.properties(title=title, width=230, height=170))
        lines.append(alt.hconcat(*charts, spacing=22))
    beneath = captions.line(captions.counted(points, "runs", "runs behind each mean"), "band: one standard deviation")
    return save_chart(alt.vconcat(*lines, spacing=18), path, beneath)


def _chart(
    points: Sequence[Point],
    every: Sequence[Point],
    up_title: str,
    across_title: str,
    looks: Looks | None,
    *,
    steered: bool,
) -> Chart:
    """Draw ``points`` of one data set: steered by the page's signals, or for paper with a legend."""
    import altair as alt

    criteria = distinct((point for point in every if point["stage"] == "post"), "criterion")
    whole = style(criteria) if looks is None else looks
    looks = {name: whole[name] for name in criteria}
    names, colours, shapes = list(looks), [look[0] for look in looks.values()], [look[1] for look in looks.values()]
    counts = sorted(distinct(every, "samples"))
    across = alt.X(
        "samples:Q",
        title=across_title,
        scale=alt.Scale(type="log", domain=[counts[0] / 1.25, counts[-1] * 1.25], nice=False),
        axis=alt.Axis(values=counts, format="d", labelOverlap=False),
    )
    # data sets differ in their number of classes, hence in chance: each has its own axis, the same in all charts
    low = min(point["low"] for point in every if point["dataset"] == points[0]["dataset"])
    up_scale = alt.Scale(domain=[max(0.0, 10.0 * math.floor(low / 10)), 100.0], zero=False, nice=False)
    up = alt.Y("mean:Q", title=up_title, scale=up_scale, axis=alt.Axis(tickCount=5))
    key = alt.Legend(orient="bottom") if not steered else None
    colour = alt.Color("criterion:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=key)
    shape = alt.Shape("criterion:N", title=None, scale=alt.Scale(domain=names, range=shapes), legend=key)
    dash_key = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=144, symbolStrokeColor=INK)
    dash_scale = alt.Scale(domain=["unpruned"], range=[[4, 3]])
    dash = alt.StrokeDash("what:N", title=None, scale=dash_scale, legend=dash_key if not steered else None)

    def opacity(bright: float, dim: float) -> Any:
        focused = "focus === '' || datum.criterion === focus"
        return alt.condition(focused, alt.value(bright), alt.value(dim)) if steered else alt.value(bright)

    pruned = alt.Chart(alt.InlineData(values=[point for point in points if point["stage"] == "post"]))
    unpruned = alt.Chart(alt.InlineData(values=_unpruned(points)))
    if steered:
        pruned, unpruned = (base.transform_filter("datum.evaluated === evaluated") for base in (pruned, unpruned))
    band = pruned.mark_area().encode(
        x=across, y=alt.Y("low:Q", scale=up_scale), y2="high:Q", color=colour, opacity=opacity(0.1, 0.02)
    )
    before = unpruned.mark_line(color=INK, opacity=0.6, strokeWidth=1.5).encode(x=across, y=up, strokeDash=dash)
    line = pruned.mark_line(strokeWidth=2).encode(x=across, y=up, color=colour, opacity=opacity(0.95, 0.12))
    dots = pruned.mark_point(filled=True, size=46).encode(
        x=across,
        y=up,
        color=colour,
        shape=shape,
        opacity=opacity(1.0, 0.12),
        tooltip=[
            alt.Tooltip("criterion:N"),
            alt.Tooltip("samples:Q", title="samples per class"),
            alt.Tooltip("mean:Q", title="accuracy, %", format=".1f"),
            alt.Tooltip("sd:Q", title="standard deviation", format=".1f"),
            alt.Tooltip("runs:Q"),
        ],
    )
    return alt.layer(band, before, line, dots, description="Accuracy against reference samples per class")


def _unpruned(points: Sequence[Point]) -> list[Point]:
    """The network before pruning, which is measured once for each criterion."""
    groups: dict[tuple[str, int], list[float]] = {}
    for point in points:
        if point["stage"] == "pre":
            groups.setdefault((point["evaluated"], point["samples"]), []).append(point["mean"])
    return [
        {"evaluated": evaluated, "samples": samples, "mean": statistics.fmean(means), "what": "unpruned"}
        for (evaluated, samples), means in groups.items()
    ]


def samples_table(rows: Sequence[Row]) -> str:
    """All accuracies after pruning as HTML, one line per data set, evaluation and criterion."""
    points = sample_points(rows)
    counts = sorted(distinct(points, "samples"))
    groups: dict[tuple[str, str, str], dict[int, Point]] = {}
    for point in points:
        name = point["criterion"] if point["stage"] == "post" else "unpruned"
        groups.setdefault((point["dataset"], point["evaluated"], name), {})[point["samples"]] = point
    heads = "".join(f'<th scope="col">{count}</th>' for count in counts)
    lines = []
    for (dataset, evaluated, name), found in groups.items():
        cells = "".join(
            f"<td>{found[count]['mean']:.1f} ± {found[count]['sd']:.1f}</td>" if count in found else "<td>–</td>"
            for count in counts
        )
        label = f'<th scope="row">{escape(dataset)}</th><td class="text">{escape(evaluated)}</td>'
        lines.append(f'<tr>{label}<td class="text">{escape(name)}</td>{cells}</tr>')
    head = "".join(f'<th scope="col" class="text">{title}</th>' for title in ("data set", "evaluated on", "criterion"))
    beneath = captions.html(captions.line(captions.counted(points, "runs", "runs behind each mean")))
    rest = csv_link(points, "accuracies.csv", f"All {len(points)} means as CSV") if len(lines) > LIMIT else ""
    caption = "Accuracy in percent, mean ± standard deviation, by reference samples per class"
    return table(caption, head + heads, lines, beneath, rest)


def _evaluated(on: str, noise: float) -> str:
    return _ON.get(on, f"{on}, σ {noise:g}" if noise else on)
