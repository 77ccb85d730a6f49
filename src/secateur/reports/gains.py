"""What it gains to score on the wanted classes alone: class-aware minus class-blind accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from secateur.core.errors import RequestError
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.layout import table
from secateur.reports.look import GREY, INK, KEPT, Chart, picture_path, save_chart
from secateur.reports.summary import Row, number

_NEEDED = ("criterion", "budget", "gain", "low", "high")
_STAGES = ("not fine-tuned", "fine-tuned")
_SHIFT = 0.008  # of the budget, so that intervals of both stages stand side by side
_COLUMNS = 5
_SIGNED = "datum.value === 0 ? '0' : format(datum.value, '+')"

Gain = dict[str, Any]


def gain_points(rows: Iterable[Row]) -> list[Gain]:
    """Gains in percentage points, sorted by the criterion's mean gain.

    Args:
        rows: with criterion, budget (``None``: the mean over budgets), gain, low and high (the ends of a 95 %
            interval, ``None`` where there is none), all three as differences of shares; finetuned, pairs and strategy
            may be missing.

    Returns:
        criterion, strategy, budget, stage (in words), gain, low, high, pairs, sure (the interval leaves out zero).

    Raises:
        RequestError: for a row without one of these columns.

    Example:
        >>> row = {"criterion": "lrp", "budget": 0.5, "gain": 0.02, "low": 0.01, "high": 0.03, "finetuned": False}
        >>> point, = gain_points([row])
        >>> point["gain"], point["stage"], point["sure"]
        (2.0, 'not fine-tuned', True)
    """
    points: list[Gain] = []
    for place, row in enumerate(rows):
        absent = [name for name in _NEEDED if name not in row]
        if absent:
            raise RequestError(f"row {place} of the gains has no {', '.join(absent)}; give {', '.join(_NEEDED)}")
        gain, budget = number(row["gain"]), number(row["budget"])
        if gain is None:
            continue
        low, high = number(row["low"]), number(row["high"])
        finetuned = str(row.get("finetuned")).lower() in ("true", "1", "1.0")
        points.append(
            {
                "criterion": str(row["criterion"]),
                "strategy": str(row.get("strategy") or ""),
                "budget": None if budget is None else round(budget, 6),
                "stage": _STAGES[finetuned],
                "gain": round(100 * gain, 4),
                "low": None if low is None else round(100 * low, 4),
                "high": None if high is None else round(100 * high, 4),
                "pairs": number(row.get("pairs")),
                # as they are shown, rounded to a tenth of a point
                "sure": low is not None and high is not None and (round(100 * low, 1) > 0 or round(100 * high, 1) < 0),
            }
        )
    means: dict[str, list[float]] = {}
    for point in points:
        means.setdefault(point["criterion"], []).append(point["gain"])
    return sorted(points, key=lambda point: -statistics.fmean(means[point["criterion"]]))


def strategies(points: Iterable[Gain]) -> list[str]:
    """Strategies that occur, in the order of first appearance."""
    return list(dict.fromkeys(point["strategy"] for point in points))


def gains_chart(points: Sequence[Gain], *, width: int = 184, height: int = 110) -> Chart:
    """One small panel per criterion: gain over budgets with 95 % intervals, and a line at zero.

    Full dots have an interval that leaves out zero, hollow ones do not.

    Args:
        points: from `gain_points`, of one strategy; means over budgets are left out.
        width: of one panel, in pixels.
        height: of one panel, in pixels.
    """
    import altair as alt

    points = [point for point in points if point["budget"] is not None]
    stages = [name for name in _STAGES if any(point["stage"] == name for point in points)]
    values = [
        point | {"x": point["budget"] + (_SHIFT * (2 * stages.index(point["stage"]) - 1) if len(stages) > 1 else 0)}
        for point in points
    ]
    budgets = [point["budget"] for point in points]
    across = alt.X(
        "x:Q",
        title=None,
        scale=alt.Scale(domain=[min(budgets) - 0.05, max(budgets) + 0.05], nice=False, zero=False),
        axis=alt.Axis(format="%", tickCount=3, grid=False),
    )
    up = alt.Y("gain:Q", title=None, axis=alt.Axis(tickCount=4, labelExpr=_SIGNED))
    scale = alt.Scale(domain=list(_STAGES), range=[GREY, KEPT])
    key = alt.Legend(orient="top", values=stages) if len(stages) > 1 else None
    colour = alt.Color("stage:N", title=None, scale=scale, legend=key)
    base = alt.Chart().encode(x=across)
    # one rule for each panel, not one for each of its points
    zero = alt.Chart().transform_aggregate(points="count()", groupby=["criterion"])
    zero = zero.mark_rule(color=INK, opacity=0.5).encode(y=alt.datum(0))
    line = base.mark_line(strokeWidth=1.5, opacity=0.6).encode(y=up, color=colour)
    error = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=None), y2="high:Q", color=colour)
    dots = base.mark_point(size=34, strokeWidth=1.5, opacity=1).encode(
        y=up,
        color=colour,
        fill=alt.when("datum.sure")
        .then(alt.Color("stage:N", scale=scale, legend=None))
        .otherwise(alt.value("transparent")),
        tooltip=[
            alt.Tooltip("criterion:N"),
            alt.Tooltip("stage:N"),
            alt.Tooltip("budget:Q", format=".0%"),
            alt.Tooltip("gain:Q", title="gain, points", format="+.1f"),
            alt.Tooltip("low:Q", title="from", format="+.1f"),
            alt.Tooltip("high:Q", title="to", format="+.1f"),
            alt.Tooltip("pairs:Q"),
        ],
    )
    names = list(dict.fromkeys(point["criterion"] for point in points))
    header = alt.Header(labelFontSize=11, labelFontWeight=600, labelLimit=width + 8, labelColor=INK, labelPadding=4)
    return (
        alt.layer(zero, line, error, dots, data=alt.InlineData(values=values))
        .properties(width=width, height=height)
        .facet(facet=alt.Facet("criterion:N", title=None, sort=names, header=header), columns=_COLUMNS, spacing=14)
    )


def gains_table(points: Sequence[Gain], conditions: Conditions) -> str:
    """All gains in percentage points as HTML, one line per criterion and stage; sure gains are bold."""
    budgets: list[float | None] = sorted({p["budget"] for p in points if p["budget"] is not None}, reverse=True)
    heads = "".join(f'<th scope="col">{figures.percent(budget, 0)}</th>' for budget in budgets)
    if any(point["budget"] is None for point in points):
        budgets.append(None)
        heads += '<th scope="col">mean</th>'
    groups: dict[tuple[str, str], dict[float | None, Gain]] = {}
    for point in points:
        groups.setdefault((point["criterion"], point["stage"]), {})[point["budget"]] = point
    several = len({stage for _, stage in groups}) > 1
    lines = []
    for (criterion, stage), found in groups.items():
        suffix = " <span class='hint'>fine-tuned</span>" if several and stage == _STAGES[1] else ""
        cells = "".join(f"<td>{_cell(found.get(budget))}</td>" for budget in budgets)
        lines.append(f'<tr><th scope="row">{escape(criterion)}{suffix}</th>{cells}</tr>')
    caption = "Gain in percentage points by budget, with its 95 % interval"
    return table(
        caption,
        f'<th scope="col" class="text">criterion</th>{heads}',
        lines,
        captions.html(gains_line(points, conditions)) + captions.html("Bold: a gain whose interval leaves out zero."),
    )


def gains_line(points: Sequence[Gain], conditions: Conditions) -> str:
    """What holds for gains: the data, and how many pairs of subset and seed are behind each."""
    pairs = captions.counted(points, "pairs", "pairs of subset and seed behind each gain")
    return captions.line(conditions.measured(_sizes(conditions)), pairs, conditions.references())


def _sizes(conditions: Conditions) -> list[int]:
    """Test samples of the subsets that gains are taken over."""
    return list(conditions.subset_samples.values())


def save_gains(rows: Sequence[Row], path: str | Path, conditions: Conditions | None = None) -> Path:
    """Draw the gains as a static picture on white.

    Args:
        rows: as for `gain_points`.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        conditions: of the report, named beneath the picture.

    Raises:
        RequestError: for another ending, rows without the columns needed, or nothing to draw.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    points = gain_points(rows)
    if all(point["budget"] is None for point in points):
        raise RequestError(f"cannot draw '{path}': no row has a gain")
    charts = []
    for strategy in strategies(points):
        words = "Class-aware minus class-blind accuracy, percentage points, over the budget"
        title = alt.TitleParams(f"{words} · {strategy} strategy" if strategy else words, offset=8)
        charts.append(gains_chart([point for point in points if point["strategy"] == strategy]).properties(title=title))
    beneath = captions.line(gains_line(points, conditions or Conditions()), "bars: 95 % intervals")
    return save_chart(alt.vconcat(*charts, spacing=26), path, beneath)


def _cell(point: Gain | None) -> str:
    if point is None:
        return figures.ABSENT
    gain, low, high = (
        "" if point[name] is None else f"{point[name]:+.1f}".replace("-0.0", "+0.0").replace("-", "−")
        for name in ("gain", "low", "high")
    )
    text = f"<strong>{gain}</strong>" if point["sure"] and point["gain"] > 0 else gain
    return f'{text}<br><span class="hint">{low} to {high}</span>' if low and high else text
