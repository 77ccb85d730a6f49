"""Accuracy against the number of reference samples: how few a criterion needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, Chart, Looks, channels, picture_path, save_chart, style
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT, read_rows
from secateur.reports.table import LIMIT, Table, csv_link

if TYPE_CHECKING:
    import pandas as pd

_SEPARATE = ("network", "removed")
_ACROSS = "reference samples per class"
_ON = {"train": "training data", "test": "reference samples"}

Point = dict[str, Any]


@dataclass(frozen=True)
class SampleAccuracyRow:
    """Mean accuracy after pruning by a number of reference samples.

    Attributes:
        dataset: the data set.
        criterion: its name.
        samples_per_class: reference samples.
        evaluated_on: ``train``, ``test`` or ``noisy``.
        stage: ``pre`` or ``post`` pruning.
        mean_accuracy_percent: over runs; rows without one are left out.
        sd_accuracy_percent: standard deviation.
        noise: its σ.
        runs: behind the mean.
        network: where rows differ in it, the data set's name on the page says which.
        removed: units, likewise.

    Raises:
        RequestError: for a number of samples below 1.
    """

    __pydantic_config__ = ROW

    dataset: str
    criterion: str
    samples_per_class: int
    evaluated_on: str
    stage: str
    mean_accuracy_percent: float | None
    sd_accuracy_percent: float | None = None
    noise: float = 0.0
    runs: int | None = None
    network: str | None = None
    removed: int | None = None

    def __post_init__(self) -> None:
        if self.samples_per_class < 1:
            raise RequestError(
                f"accuracy of '{self.criterion}' has samples_per_class {self.samples_per_class}; give 1 or more"
            )

    @property
    def evaluated(self) -> str:
        """What it was evaluated on, in words."""
        noisy = f"{self.evaluated_on}, σ {self.noise:g}" if self.noise else self.evaluated_on
        return _ON.get(self.evaluated_on, noisy)


@dataclass(frozen=True)
class SampleAccuracy:
    """Section of accuracy against reference samples."""

    __pydantic_config__ = STRICT

    rows: list[SampleAccuracyRow]


def sample_points(rows: Iterable[SampleAccuracyRow]) -> list[Point]:
    """One point per row that has a mean: what was drawn, with the band's ends.

    Returns:
        dataset, criterion, samples, evaluated (in words), stage, mean, sd, low, high (mean ± sd within 0..100), runs.

    Example:
        >>> point, = sample_points([SampleAccuracyRow("moon", "lrp", 5, "noisy", "post", 99.0, 2.0, noise=0.1)])
        >>> point["evaluated"], point["low"], point["high"]
        ('noisy, σ 0.1', 97.0, 100.0)
    """
    rows = list(rows)
    varying = [name for name in _SEPARATE if len({getattr(row, name) for row in rows}) > 1]
    points: list[Point] = []
    for row in rows:
        mean, sd = row.mean_accuracy_percent, row.sd_accuracy_percent or 0.0
        if mean is None:
            continue
        points.append(
            {
                "dataset": " · ".join([row.dataset, *(f"{name} {getattr(row, name)}" for name in varying)]),
                "criterion": row.criterion,
                "samples": row.samples_per_class,
                "evaluated": row.evaluated,
                "stage": row.stage,
                "mean": mean,
                "sd": sd,
                "low": max(0.0, mean - sd),
                "high": min(100.0, mean + sd),
                "runs": row.runs,
            }
        )
    return points


def distinct(points: Iterable[Point], name: str) -> list[Any]:
    """Values of one column, in the order of first appearance."""
    return list(dict.fromkeys(point[name] for point in points))


def _charts(section: SampleAccuracy, conditions: Conditions) -> dict[str, Chart]:
    """One for each data set.

    Of several ways of evaluation one is shown at a time; the page steers two signals, ``evaluated`` (in words) and
    ``focus`` (the one criterion in full colour; empty for all).
    """
    import altair as alt

    every, found = sample_points(section.rows), {}
    for place, dataset in enumerate(distinct(every, "dataset")):
        points = [point for point in every if point["dataset"] == dataset]
        chart = _chart(points, every, "accuracy, %", _ACROSS, steered=True)
        evaluated, focus = alt.param(name="evaluated", value=every[0]["evaluated"]), alt.param(name="focus", value="")
        found[f"samples-{place}"] = chart.add_params(evaluated, focus).properties(width="container", height=240)
    return found


def save_samples(rows: Iterable[Mapping[str, Any] | SampleAccuracyRow] | pd.DataFrame, path: str | Path) -> Path:
    """Draw accuracy against reference samples as a static picture on white: columns by data set, rows by evaluation.

    Args:
        rows: `SampleAccuracyRow`, dictionaries, or a frame.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.

    Raises:
        RequestError: for another ending, rows without the columns needed, or nothing to draw.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    points = sample_points(read_rows(SampleAccuracyRow, rows))
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
            chart = _chart(chosen, points, up_title, across_title, steered=False)
            charts.append(chart.properties(title=title, width=230, height=170))
        lines.append(alt.hconcat(*charts, spacing=22))
    beneath = captions.line(_behind(points), "band: one standard deviation")
    return save_chart(alt.vconcat(*lines, spacing=18), path, beneath)


def _chart(
    points: Sequence[Point],
    every: Sequence[Point],
    up_title: str,
    across_title: str,
    *,
    steered: bool,
) -> Chart:
    """Draw ``points`` of one data set: steered by the page's signals, or for paper with a legend."""
    import altair as alt

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
    colour, shape = channels("criterion", _looks(every), title=None, legend=key)
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
            "criterion:N",
            alt.Tooltip("samples:Q", title="samples per class"),
            alt.Tooltip("mean:Q", title="accuracy, %", format=".1f"),
            alt.Tooltip("sd:Q", title="standard deviation", format=".1f"),
            "runs:Q",
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


def _looks(points: Sequence[Point]) -> Looks:
    return style(distinct((point for point in points if point["stage"] == "post"), "criterion"))


def _behind(points: Sequence[Point]) -> str:
    return captions.counted((point["runs"] for point in points), "runs behind each mean")


def _view(section: SampleAccuracy, conditions: Conditions) -> dict[str, Any]:
    points = sample_points(section.rows)
    names = distinct(points, "dataset")
    shown = [[point for point in points if point["dataset"] == name] for name in names]
    return {
        "names": names,
        "beneath": [captions.line(_behind(these), conditions.labels) for these in shown],
        "evaluated": {name: name for name in distinct(points, "evaluated")},
        "looks": _looks(points),
        "accuracies": _table(points),
    }


def _table(points: Sequence[Point]) -> Table:
    """All accuracies after pruning, one line per data set, evaluation and criterion."""
    counts = sorted(distinct(points, "samples"))
    groups: dict[tuple[str, str, str], dict[int, str]] = {}
    for point in points:
        name = point["criterion"] if point["stage"] == "post" else "unpruned"
        text = f"{point['mean']:.1f} ± {point['sd']:.1f}"
        groups.setdefault((point["dataset"], point["evaluated"], name), {})[point["samples"]] = text
    lines = [[*key, *(found.get(count, figures.ABSENT) for count in counts)] for key, found in groups.items()]
    return Table(
        ["data set", "evaluated on", "criterion", *map(str, counts)],
        lines,
        caption="Accuracy in percent, mean ± standard deviation, by reference samples per class",
        words=3,
        beneath=[captions.line(_behind(points))],
        rest=csv_link(points, "accuracies.csv", f"All {len(points)} means as CSV") if len(lines) > LIMIT else None,
    )


register_section(SampleAccuracy, name="sample-accuracy", template="sample_accuracy.html", charts=_charts, view=_view)
