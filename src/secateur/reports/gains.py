"""What it gains to score on the wanted classes alone: class-aware minus class-blind accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import GREY, INK, KEPT, Chart, picture_path, save_chart
from secateur.reports.registry import register_section
from secateur.reports.rows import ROW, STRICT, read_rows
from secateur.reports.table import Cell, Table

if TYPE_CHECKING:
    import pandas as pd

_STAGES = ("not fine-tuned", "fine-tuned")
_SHIFT = 0.008  # of the budget, so that intervals of both stages stand side by side
_COLUMNS = 5
_SIGNED = "datum.value === 0 ? '0' : format(datum.value, '+')"


@dataclass(frozen=True)
class GainRow:
    """Class-aware minus class-blind accuracy of one criterion at one budget.

    Attributes:
        criterion: its name.
        budget: share that may stay; ``None`` is the mean over budgets.
        gain: difference of accuracies, -1..1; rows without one are left out.
        low: lower end of its 95 % interval; ``None`` where there is none.
        high: upper end.
        finetuned: whether the networks were trained again.
        strategy: how units were chosen.
        pairs: of subset and seed behind the mean.
    """

    __pydantic_config__ = ROW

    criterion: str
    budget: float | None
    gain: float | None
    low: float | None
    high: float | None
    finetuned: bool = False
    strategy: str = ""
    pairs: int | None = None

    @property
    def stage(self) -> str:
        """In words."""
        return _STAGES[self.finetuned]

    @property
    def sure(self) -> bool:
        """Whether the interval, as it is shown, leaves out zero."""
        low, high = self.low, self.high
        return low is not None and high is not None and (round(100 * low, 1) > 0 or round(100 * high, 1) < 0)


@dataclass(frozen=True)
class Gains:
    """Section of what scoring on the wanted classes alone gains."""

    __pydantic_config__ = STRICT

    rows: list[GainRow]

    @property
    def by_strategy(self) -> dict[str, list[GainRow]]:
        """Rows that have a gain, by strategy; those of the criterion with the highest mean gain first."""
        rows = [row for row in self.rows if row.gain is not None]
        means: dict[str, list[float]] = {}
        for row in rows:
            means.setdefault(row.criterion, []).append(row.gain or 0.0)
        found: dict[str, list[GainRow]] = {}
        for row in sorted(rows, key=lambda row: -statistics.fmean(means[row.criterion])):
            found.setdefault(row.strategy, []).append(row)
        return {name: these for name, these in found.items() if any(row.budget is not None for row in these)}


def _charts(section: Gains, conditions: Conditions) -> dict[str, Chart]:
    return {f"gains-{place}": _chart(rows) for place, rows in enumerate(section.by_strategy.values())}


def _chart(rows: Sequence[GainRow], *, width: int = 184, height: int = 110) -> Chart:
    """One small panel per criterion: gain over budgets with 95 % intervals, and a line at zero.

    Full dots have an interval that leaves out zero, hollow ones do not.

    Args:
        rows: of one strategy; means over budgets are left out.
        width: of one panel, in pixels.
        height: of one panel, in pixels.
    """
    import altair as alt

    known = [row for row in rows if row.budget is not None]
    stages = [name for name in _STAGES if any(row.stage == name for row in known)]
    values = [_datum(row, _SHIFT * (2 * row.finetuned - 1) * (len(stages) > 1)) for row in known]
    budgets = [row.budget for row in known if row.budget is not None]
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
            "criterion:N",
            "stage:N",
            alt.Tooltip("budget:Q", format=".0%"),
            alt.Tooltip("gain:Q", title="gain, points", format="+.1f"),
            alt.Tooltip("low:Q", title="from", format="+.1f"),
            alt.Tooltip("high:Q", title="to", format="+.1f"),
            "pairs:Q",
        ],
    )
    names = list(dict.fromkeys(row.criterion for row in known))
    header = alt.Header(labelFontSize=11, labelFontWeight=600, labelLimit=width + 8, labelColor=INK, labelPadding=4)
    return (
        alt.layer(zero, line, error, dots, data=alt.InlineData(values=values))
        .properties(width=width, height=height)
        .facet(facet=alt.Facet("criterion:N", title=None, sort=names, header=header), columns=_COLUMNS, spacing=14)
    )


def _datum(row: GainRow, shift: float) -> dict[str, Any]:
    """A row in percentage points."""
    points = {name: _points(getattr(row, name)) for name in ("gain", "low", "high")}
    budget = round(row.budget or 0.0, 6)
    own = {"stage": row.stage, "sure": row.sure, "budget": budget, "x": budget + shift}
    return asdict(row) | points | own


def _points(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def _view(section: Gains, conditions: Conditions) -> dict[str, Any]:
    found = section.by_strategy
    return {
        "strategies": [f"{name} strategy" if name else "" for name in found],
        "beneath": [_held(rows, conditions) for rows in found.values()],
        "tables": [_table(rows, conditions) for rows in found.values()],
    }


def _table(rows: Sequence[GainRow], conditions: Conditions) -> Table:
    """All gains in percentage points, one line per criterion and stage; sure gains are bold."""
    budgets: list[float | None] = [*sorted({row.budget for row in rows if row.budget is not None}, reverse=True)]
    heads = [figures.percent(budget, 0) for budget in budgets]
    if any(row.budget is None for row in rows):
        budgets.append(None)
        heads.append("mean")
    groups: dict[tuple[str, bool], dict[float | None, GainRow]] = {}
    for row in rows:
        groups.setdefault((row.criterion, row.finetuned), {})[row.budget] = row
    several = len({tuned for _, tuned in groups}) > 1
    return Table(
        ["criterion", *heads],
        [
            [Cell(name, note=_STAGES[1] * (several and tuned)), *(_cell(found.get(budget)) for budget in budgets)]
            for (name, tuned), found in groups.items()
        ],
        caption="Gain in percentage points by budget, with its 95 % interval",
        beneath=[_held(rows, conditions), "Bold: a gain whose interval leaves out zero."],
    )


def _cell(row: GainRow | None) -> Cell:
    if row is None:
        return Cell(figures.ABSENT)
    gain, low, high = (_signed(getattr(row, name)) for name in ("gain", "low", "high"))
    return Cell(gain, bold=row.sure and (row.gain or 0.0) > 0, below=f"{low} to {high}" if low and high else "")


def _signed(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}".replace("-0.0", "+0.0").replace("-", "−")


def _held(rows: Sequence[GainRow], conditions: Conditions) -> str:
    """What holds for gains: the data, and how many pairs of subset and seed are behind each."""
    pairs = captions.counted((row.pairs for row in rows), "pairs of subset and seed behind each gain")
    return captions.line(conditions.measured(list(conditions.subset_samples.values())), pairs, conditions.references())


def save_gains(
    rows: Iterable[Mapping[str, Any] | GainRow] | pd.DataFrame, path: str | Path, conditions: Conditions | None = None
) -> Path:
    """Draw the gains as a static picture on white.

    Args:
        rows: `GainRow`, dictionaries, or a frame.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        conditions: of the report, named beneath the picture.

    Raises:
        RequestError: for another ending, rows without the columns needed, or nothing to draw.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    found = Gains(read_rows(GainRow, rows)).by_strategy
    if not found:
        raise RequestError(f"cannot draw '{path}': no row has a gain")
    charts = []
    for strategy, these in found.items():
        words = "Class-aware minus class-blind accuracy, percentage points, over the budget"
        title = alt.TitleParams(f"{words} · {strategy} strategy" if strategy else words, offset=8)
        charts.append(_chart(these).properties(title=title))
    every = [row for these in found.values() for row in these]
    beneath = captions.line(_held(every, conditions or Conditions()), "bars: 95 % intervals")
    return save_chart(alt.vconcat(*charts, spacing=26), path, beneath)


register_section(Gains, name="gains", template="gains.html", charts=_charts, view=_view)
