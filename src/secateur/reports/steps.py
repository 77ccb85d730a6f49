"""Accuracy, cost and recall of each class over the steps of pruning and training in turn."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, Chart, channels, picture_path, save_chart, style
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT, read_rows
from secateur.reports.table import Table

if TYPE_CHECKING:
    import pandas as pd

PRUNED, TUNED = "pruned", "fine-tuned"
_UNPRUNED = "unpruned"

Point = dict[str, Any]


@dataclass(frozen=True)
class StepRow:
    """One network, measured after a step.

    Attributes:
        protocol: how units are scored and removed.
        criterion: name; ``none``: the unpruned network.
        step: 0: the unpruned network.
        stage: ``unpruned``, ``pruned``, ``fine-tuned`` or ``final``.
        accuracy: 0..1.
        macs: share that stays.
        seed: of the run.
    """

    __pydantic_config__ = ROW

    protocol: str
    criterion: str
    step: int
    stage: str
    accuracy: float
    macs: float
    seed: str = ""


@dataclass(frozen=True)
class RecallRow:
    """Recall of one class after the fine-tuning of a step, or of the unpruned network (step 0)."""

    __pydantic_config__ = ROW

    protocol: str
    criterion: str
    step: int
    class_name: str
    recall: float
    seed: str = ""


@dataclass(frozen=True)
class StepSummary:
    """What is left after all steps by one criterion, means over seeds.

    Attributes:
        protocol: how units are scored and removed.
        criterion: name without parameters.
        macs: share that stays.
        pruned: accuracy before the last fine-tuning.
        tuned: accuracy at the end, after all training.
        change: of that, from the unpruned network.
        spread: standard deviation of the accuracy after fine-tuning, over steps and seeds.
        balanced: balanced accuracy.
        watched: recall of the class that is watched, or else of the class with the lowest.
        watched_name: of that class.
        runs: seeds.
    """

    __pydantic_config__ = STRICT

    protocol: str
    criterion: str
    macs: float
    pruned: float
    tuned: float
    change: float
    spread: float | None
    balanced: float
    watched: float
    watched_name: str
    runs: int


@dataclass(frozen=True)
class Steps:
    """Section of pruning step by step.

    Attributes:
        rows: measured networks.
        recalls: of classes.
        summary: one line for each protocol and criterion.
        watched: name of the class whose recall is in the summary; "" where each line has its own lowest.
    """

    __pydantic_config__ = STRICT

    rows: list[StepRow]
    recalls: list[RecallRow]
    summary: list[StepSummary]
    watched: str = ""


def step_points(rows: Iterable[StepRow]) -> list[Point]:
    """Means over seeds, with the range of the seeds: one point for each protocol, criterion, step and stage.

    Example:
        >>> rows = [StepRow("ours", "lrp", 1, "pruned", accuracy, 0.7) for accuracy in (0.5, 0.7)]
        >>> point, = step_points(rows)
        >>> round(point["accuracy"], 3), point["low"], point["high"]
        (60.0, 50.0, 70.0)
    """
    groups: dict[tuple[str, str, int, str], list[StepRow]] = {}
    for row in rows:
        groups.setdefault((row.protocol, row.criterion, row.step, row.stage), []).append(row)
    found = []
    for (protocol, criterion, step, stage), members in groups.items():
        values = [100 * row.accuracy for row in members]
        found.append(
            {
                "protocol": protocol,
                "criterion": criterion,
                "step": step,
                "stage": stage,
                "accuracy": statistics.fmean(values),
                "low": min(values),
                "high": max(values),
                "macs": 100 * statistics.fmean(row.macs for row in members),
                "runs": len(members),
            }
        )
    return found


def _protocols(rows: Sequence[StepRow]) -> list[str]:
    return list(dict.fromkeys(row.protocol for row in rows if row.stage != _UNPRUNED))


def _lines(points: Sequence[Point], protocol: str) -> list[Point]:
    """Points of one protocol, and the unpruned network as step 0 of each of its criteria."""
    own = [point for point in points if point["protocol"] == protocol]
    base = next((point for point in points if point["stage"] == _UNPRUNED), None)
    starts = []
    if base is not None:
        for criterion in dict.fromkeys(point["criterion"] for point in own):
            for stage in dict.fromkeys(point["stage"] for point in own if point["stage"] in (PRUNED, TUNED)):
                starts.append({**base, "criterion": criterion, "stage": stage, "protocol": protocol})
    return [*starts, *(point for point in own if point["stage"] in (PRUNED, TUNED))]


def _charts(section: Steps, conditions: Conditions) -> dict[str, Chart]:
    points, found = step_points(section.rows), {}
    for place, protocol in enumerate(_protocols(section.rows)):
        lines = _lines(points, protocol)
        found[f"steps-accuracy-{place}"] = _accuracy(lines, legend=False).properties(width="container", height=260)
        found[f"steps-macs-{place}"] = _macs(lines).properties(width="container", height=90)
        recalls = [row for row in section.recalls if row.protocol in (protocol, "none")]
        if recalls:
            found[f"steps-recall-{place}"] = _recall(recalls, protocol)
    return found


def _accuracy(points: Sequence[Point], *, legend: bool) -> Chart:
    """Solid after fine-tuning, dashed after the cut."""
    import altair as alt

    looks = style(list(dict.fromkeys(point["criterion"] for point in points)))
    key = alt.Legend(orient="top") if legend else None
    colour, shape = channels("criterion", looks, title=None, legend=key)
    last = max((point["step"] for point in points), default=1)
    across = alt.X("step:Q", title="step", axis=alt.Axis(values=list(range(last + 1)), format="d", grid=False))
    up = alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(zero=False, nice=True))
    base = alt.Chart(alt.InlineData(values=list(points)))
    tooltip = ["criterion:N", "stage:N", "step:Q", alt.Tooltip("accuracy:Q", format=".2f"),
               alt.Tooltip("macs:Q", title="MACs, %", format=".0f"), "runs:Q"]  # fmt: skip
    tuned = base.transform_filter(f"datum.stage === '{TUNED}'")
    band = tuned.mark_area().encode(x=across, y=alt.Y("low:Q"), y2="high:Q", color=colour, opacity=alt.value(0.12))
    cut = (
        base.transform_filter(f"datum.stage === '{PRUNED}'")
        .mark_line(strokeWidth=1.2, strokeDash=[3, 3])
        .encode(x=across, y=up, color=colour, opacity=alt.value(0.7))
    )
    line = tuned.mark_line(strokeWidth=2).encode(x=across, y=up, color=colour)
    dots = tuned.mark_point(filled=True, size=50).encode(x=across, y=up, color=colour, shape=shape, tooltip=tooltip)
    return alt.layer(band, cut, line, dots, description="Accuracy over the steps of pruning")


def _macs(points: Sequence[Point]) -> Chart:
    """Multiply-accumulate operations that stay, over the same steps."""
    import altair as alt

    looks = style(list(dict.fromkeys(point["criterion"] for point in points)))
    colour, _ = channels("criterion", looks, title=None, legend=None)
    last = max((point["step"] for point in points), default=1)
    line = (
        alt.Chart(alt.InlineData(values=list(points)))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(values=list(range(last + 1)), format="d", grid=False)),
            y=alt.Y("macs:Q", title="MACs, %", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(values=[0, 50, 100])),
            color=colour,
            tooltip=["criterion:N", "step:Q", alt.Tooltip("macs:Q", title="MACs, %", format=".1f")],
        )
    )
    return alt.layer(line, description="Multiply-accumulate operations that stay, over the steps")


def _recall(rows: Sequence[RecallRow], protocol: str) -> Chart:
    """Recall of each class in a panel of its own."""
    import altair as alt

    groups: dict[tuple[str, str, int], list[float]] = {}
    criteria = list(dict.fromkeys(row.criterion for row in rows if row.protocol == protocol))
    for row in rows:
        for criterion in [row.criterion] if row.protocol == protocol else criteria:
            groups.setdefault((row.class_name, criterion, row.step), []).append(100 * row.recall)
    last = max(step for _, _, step in groups)
    values = [
        {"class": name, "criterion": criterion, "step": step, "recall": statistics.fmean(found)}
        for (name, criterion, step), found in groups.items()
    ]
    colour, _ = channels("criterion", style(criteria), title=None, legend=None)
    panel = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title=None, axis=alt.Axis(values=[0, last], format="d", grid=False)),
            y=alt.Y(
                "recall:Q", title="recall, %", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(values=[0, 50, 100])
            ),
            color=colour,
            tooltip=["class:N", "criterion:N", "step:Q", alt.Tooltip("recall:Q", format=".1f")],
        )
        .properties(width=120, height=90)
    )
    header = alt.Header(labelColor=INK, labelFontSize=12, title=None)
    chart: Chart = panel.facet(facet=alt.Facet("class:N", sort=None, header=header), columns=4)
    return chart


def _view(section: Steps, conditions: Conditions) -> dict[str, Any]:
    rows = [row for row in section.rows if row.stage != _UNPRUNED]
    names = _protocols(section.rows)
    seeds = captions.seeds(row.seed for row in rows)
    looks = {name: style([r.criterion for r in rows if r.protocol == name]) for name in names}
    return {
        "protocols": names,
        "looks": looks,
        "beneath": captions.line(conditions.measured(), seeds, "band: range of the seeds"),
        "summary_table": _table(section, conditions, seeds),
        "unpruned": next((figures.hundredths(r.accuracy) for r in section.rows if r.stage == _UNPRUNED), ""),
    }


def _table(section: Steps, conditions: Conditions, seeds: str) -> Table:
    recall = f"recall of {section.watched}, %" if section.watched else "lowest recall, %"
    head = ["protocol", "criterion", "MACs, %", "after the last cut, %", "at the end, %", "change", "spread",
            "balanced, %", recall]  # fmt: skip
    lines = [
        [
            line.protocol,
            line.criterion,
            f"{100 * line.macs:.0f}",
            figures.hundredths(line.pruned),
            figures.hundredths(line.tuned),
            figures.points(line.change),
            figures.ABSENT if line.spread is None else f"{100 * line.spread:.1f}",
            figures.hundredths(line.balanced),
            figures.hundredths(line.watched)
            if section.watched
            else f"{figures.hundredths(line.watched)} ({line.watched_name})",
        ]
        for line in section.summary
    ]
    spread = "spread: standard deviation of the accuracy after fine-tuning, over steps and seeds"
    beneath = captions.line(conditions.measured(), seeds, spread)
    return Table(head, lines, words=2, beneath=[beneath])


def save_steps(
    rows: Iterable[Mapping[str, Any] | StepRow] | pd.DataFrame, path: str | Path, conditions: Conditions | None = None
) -> Path:
    """Draw accuracy and MACs over the steps as a static picture on white, a column for each protocol.

    Args:
        rows: `StepRow`, dictionaries, or a frame.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        conditions: of the report, named beneath the picture.

    Raises:
        RequestError: for another ending, rows without the columns needed, or nothing to draw.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    found = read_rows(StepRow, rows)
    names = _protocols(found)
    if not names:
        raise RequestError(f"cannot draw '{path}': no network was pruned")
    points, columns = step_points(found), []
    width = 300 if len(names) > 1 else 520
    for name in names:
        lines = _lines(points, name)
        accuracy = _accuracy(lines, legend=name == names[0]).properties(
            width=width, height=220, title=alt.TitleParams(f"Protocol: {name}", frame="group")
        )
        columns.append(alt.vconcat(accuracy, _macs(lines).properties(width=width, height=80)))
    held = (conditions or Conditions()).measured()
    beneath = captions.line(held, "solid: fine-tuned, dashed: cut alone, band: seeds")
    return save_chart(alt.hconcat(*columns, spacing=24), path, beneath)


register_section(Steps, name="steps", template="steps.html", charts=_charts, view=_view)
