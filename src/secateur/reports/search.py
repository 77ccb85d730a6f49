"""A search for the attribution that prunes best: candidates side by side, trials in turn, what mattered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.reports import captions
from secateur.reports.conditions import Conditions
from secateur.reports.look import GREY, INK, KEPT, PALETTE, PLAIN_AXIS, save_chart
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT
from secateur.reports.table import Table

if TYPE_CHECKING:
    from secateur.reports.look import Chart


@dataclass(frozen=True)
class TriedSetting:
    """One trial.

    Attributes:
        number: of it.
        state: ``complete``, ``stopped`` or ``failed``.
        value: what is maximised; of a stopped one, an estimate; None: it failed.
        faithfulness: of its heatmaps; None: not measured.
        criterion: the setting.
    """

    __pydantic_config__ = STRICT

    number: int
    state: str
    value: float | None
    faithfulness: float | None
    criterion: str


@dataclass(frozen=True)
class SearchedParameter:
    """One parameter of the settings.

    Attributes:
        name: of it.
        best: value of the winner.
        often: the most frequent value among the best tenth of the trials, with its share of them.
        importance: share of what is maximised that it explains; None: not known.
    """

    __pydantic_config__ = STRICT

    name: str
    best: str
    often: str
    importance: float | None


@dataclass(frozen=True)
class SearchCandidate:
    """A criterion on images that the search has not seen.

    Attributes:
        name: of it.
        value: mean over seeds of what is maximised.
        interval: of it, 95 %; None: of one seed.
        kept_rate: highest rate that keeps 95 % of the accuracy.
        kept_rate_99: likewise 99 %.
        lead: of the winner over it; None: it is the winner.
        lead_interval: of that.
    """

    __pydantic_config__ = STRICT

    name: str
    value: float
    interval: tuple[float, float] | None
    kept_rate: float
    kept_rate_99: float
    lead: float | None
    lead_interval: tuple[float, float] | None


@dataclass(frozen=True)
class SearchPicture:
    """An image, and where the network looks by the best settings; base64 PNGs without prefix.

    Attributes:
        title: of it.
        image_png: it.
        pruning_png: heatmap under the setting that prunes best.
        people_png: under the most faithful one; "" where faithfulness was not searched for.
    """

    __pydantic_config__ = STRICT

    title: str
    image_png: str
    pruning_png: str
    people_png: str = ""

    @property
    def pictures(self) -> list[tuple[str, str, str]]:
        """Label, meaning and PNG of those that are there."""
        every = (
            ("image", "Image", self.image_png),
            ("best for pruning", "Relevance by the setting that prunes best", self.pruning_png),
            ("most faithful", "Relevance by the most faithful setting", self.people_png),
        )
        return [each for each in every if each[2]]


@dataclass(frozen=True)
class Search:
    """Section of a search.

    Attributes:
        goal: what is maximised, in words.
        criterion: the winner, as commands take it.
        composite: its rules, likewise.
        trials: in turn.
        parameters: of the settings.
        candidates: the highest first.
        searched: images that trials were judged by, in words.
        correlation: of both objectives over settings, in words; "" where there is one.
        pictures: heatmaps under the best settings.
    """

    __pydantic_config__ = STRICT

    goal: str
    criterion: str
    composite: str
    trials: list[TriedSetting]
    parameters: list[SearchedParameter]
    candidates: list[SearchCandidate]
    searched: str
    correlation: str = ""
    pictures: list[SearchPicture] = field(default_factory=list)


def _charts(section: Search, conditions: Conditions) -> dict[str, Chart]:
    found = {"search-trials": _trials(section)} if any(each.value is not None for each in section.trials) else {}
    if any(each.faithfulness is not None for each in section.trials):
        found["search-pareto"] = _pareto(section)
    known = [each for each in section.parameters if each.importance is not None]
    if known:
        found["search-importance"] = _importance(known)
    return found


def _trials(section: Search) -> Chart:
    """A point for each trial, and the best so far."""
    import altair as alt

    values: list[dict[str, Any]] = []
    best: float | None = None
    for each in section.trials:
        if each.value is None:
            continue
        if each.state == "complete":
            best = each.value if best is None else max(best, each.value)
        values.append({**vars(each), "best": best})
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("number:Q", title="trial", axis=alt.Axis(format="d"))
    )
    up = alt.Y("value:Q", title=section.goal, scale=alt.Scale(zero=False))
    colours = alt.Scale(domain=["complete", "stopped"], range=[PALETTE[0], GREY])
    points = base.mark_circle(size=50, opacity=0.8).encode(
        y=up,
        color=alt.Color("state:N", title=None, scale=colours).legend(orient="top"),
        tooltip=["number:Q", "state:N", alt.Tooltip("value:Q", format=".3f"), "criterion:N"],
    )
    line = base.mark_line(interpolate="step-after", color=KEPT, strokeWidth=2).encode(
        y=alt.Y("best:Q", title=section.goal, scale=alt.Scale(zero=False))
    )
    chart: Chart = alt.layer(line, points)
    return chart.properties(
        width="container", height=240, description=f"{section.goal} of each trial, and the best so far"
    )


def _pareto(section: Search) -> Chart:
    """Both objectives of each setting; those that no other is better in both than are in colour."""
    import altair as alt

    there = [each for each in section.trials if each.value is not None and each.faithfulness is not None]
    values = [
        {
            **vars(each),
            "front": "no setting is better in both" if not any(_beats(other, each) for other in there) else "others",
        }
        for each in there
    ]
    colours = alt.Scale(domain=["no setting is better in both", "others"], range=[PALETTE[1], GREY])
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X(
            "faithfulness:Q", title="faithfulness of heatmaps (insertion less deletion)", scale=alt.Scale(zero=False)
        ),
        y=alt.Y("value:Q", title=section.goal, scale=alt.Scale(zero=False)),
    )
    points = base.mark_circle(size=60, opacity=0.85).encode(
        color=alt.Color("front:N", title=None, scale=colours).legend(orient="top"),
        tooltip=[
            "number:Q", alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("faithfulness:Q", format=".3f"),
            "criterion:N",
        ],
    )  # fmt: skip
    line = base.transform_filter("datum.front !== 'others'").mark_line(color=PALETTE[1], opacity=0.5)
    chart: Chart = alt.layer(line, points)
    return chart.properties(width="container", height=280, description=f"{section.goal} against faithfulness")


def save_pareto(section: Search, path: str | Path) -> Path:
    """Draw both objectives of each setting as a static picture on white, with what they have to do with each other.

    Args:
        section: with faithfulness.
        path: ends in ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        RequestError: for another ending.
        SecateurError: when the file cannot be written.
    """
    return save_chart(_pareto(section).properties(width=420, height=280), path, section.correlation)


def _beats(one: TriedSetting, other: TriedSetting) -> bool:
    pairs = ((one.value or 0.0, other.value or 0.0), (one.faithfulness or 0.0, other.faithfulness or 0.0))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _importance(parameters: list[SearchedParameter]) -> Chart:
    import altair as alt

    values = [{"parameter": each.name, "importance": each.importance, "best": each.best} for each in parameters]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("parameter:N", sort="-x", title=None, axis=alt.Axis(**PLAIN_AXIS)),
        x=alt.X("importance:Q", title="importance", axis=alt.Axis(format="%", tickCount=5)),
    )
    bars = base.mark_bar(color=PALETTE[0], opacity=0.85).encode(
        tooltip=["parameter:N", alt.Tooltip("importance:Q", format=".0%"), "best:N"]
    )
    text = base.mark_text(align="left", dx=4, color=INK, opacity=0.8).encode(text="best:N")
    chart: Chart = alt.layer(bars, text)
    return chart.properties(width="container", height=alt.Step(22), description="Importance of each parameter")


HEAD = ("criterion", "{goal}", "95 % kept up to", "99 % up to", "lead of the winner")


def _view(section: Search, conditions: Conditions) -> dict[str, Any]:
    states = [each.state for each in section.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines = [
        [
            each.name,
            f"{each.value:.3f}" + _interval(each.interval),
            f"{100 * each.kept_rate:.0f} %",
            f"{100 * each.kept_rate_99:.0f} %",
            "" if each.lead is None else f"{each.lead:+.3f}" + _interval(each.lead_interval, "+"),
        ]
        for each in section.candidates
    ]
    beneath = captions.line(
        conditions.measured(),
        "none of which the search has seen",
        "intervals are 95 %, over seeds of the reference samples; those of the leads are simultaneous (Bonferroni)",
    )
    kept = "kept: the highest share of the units that goes, up to which each network keeps that share of its accuracy"
    chosen = [[each.name, each.best, each.often] for each in section.parameters]
    return {
        "goal": section.goal,
        "counted": counted,
        "criterion": section.criterion,
        "composite": section.composite,
        "searched": section.searched,
        "correlation": section.correlation,
        "pictures": section.pictures,
        "candidates": Table([title.format(goal=section.goal) for title in HEAD], lines, beneath=[beneath, kept])
        if lines
        else None,
        "parameters": Table(
            ["parameter", "winner", "best tenth of the trials"], chosen, words=3,
            beneath=["last column: the most frequent value among them, with its share"],
        ),
    }  # fmt: skip


def _interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    return "" if ends is None else f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"


register_section(Search, name="search", template="search.html", charts=_charts, view=_view)
