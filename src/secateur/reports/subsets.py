"""Many criteria over subsets of classes: the highest means in colour, the rest grey, class-blind scores dashed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports import captions
from secateur.reports.charts import MASKED, MEASURES, accuracies, datum, horizontal, measures, stage, tooltip
from secateur.reports.conditions import Conditions
from secateur.reports.look import GREY, INK, SHAPES, Chart, Looks, picture_path, save_chart, style
from secateur.reports.summary import (
    Point,
    Row,
    aggregate,
    class_aware,
    number,
    panels,
    samples_by_subset,
    split_unpruned,
)
from secateur.reports.told_apart import Accuracies, Marks, best

if TYPE_CHECKING:
    import altair as alt

TOP = 6  # criteria in colour: more cannot be told apart at a glance
MEAN = ""  # in place of a subset's name: the mean over subsets
SCORED = {"subset": "class-aware", "all": "class-blind"}


@dataclass(frozen=True)
class Comparison:
    """Points of a comparison over subsets, and how they are drawn.

    Attributes:
        points: of structured criteria, the mean over subsets (its ``subset`` is `MEAN`) and each subset.
        masked: the same of masked weights.
        baselines: accuracy of the unpruned network by subset, with `MEAN`; may be empty.
        looks: colour and shape by bare name of the criterion, that of the highest mean accuracy first.
    """

    points: list[Point]
    masked: list[Point]
    baselines: dict[str, float]
    looks: Looks

    @property
    def means(self) -> list[Point]:
        """Points of the mean over subsets, masked ones last."""
        return [point for point in self.points + self.masked if point["subset"] == MEAN]

    @property
    def scored(self) -> dict[str, str]:
        """Ways of scoring that occur, in words."""
        found = {point["scored_on"] for point in self.means}
        return {title: title for name, title in SCORED.items() if name in found}

    @property
    def stages(self) -> dict[str, str]:
        """Stages that occur, in words."""
        return {name: name for name in ("not fine-tuned", "fine-tuned") if name in map(stage, self.means)}


def comparison(rows: Sequence[Row]) -> Comparison | None:
    """Points of rows that tell subsets of classes apart, or class-blind scores; ``None`` where none does."""
    unpruned, pruned = split_unpruned(rows)
    if not class_aware(pruned):
        return None
    points = [point | {"subset": MEAN} for point in aggregate(pruned)]
    baselines = dict(unpruned)
    each = aggregate(pruned, by_subset=True)
    names = {point["subset"] for point in each}
    points += each if len(names) > 1 else []
    if baselines and names <= set(baselines):
        baselines[MEAN] = sum(baselines[name] for name in names) / len(names)
    structured = [point for point in points if point["structured"]]
    masked = [point for point in points if not point["structured"]]
    return Comparison(structured, masked, baselines, _looks(points))


def ranking(points: Iterable[Point]) -> list[str]:
    """Bare names of the criteria, the highest mean accuracy first; masked weights after all others."""
    found: dict[tuple[bool, str], list[float]] = {}
    for point in points:
        accuracy = number(point["accuracy"]) if point["scored_on"] == "subset" else None
        found.setdefault((not point["structured"], point["base"]), []).extend([] if accuracy is None else [accuracy])
    keys = sorted(found, key=lambda key: (key[0], -sum(found[key]) / len(found[key]) if found[key] else 0.0))
    return list(dict.fromkeys(name for _, name in keys))


def not_told_apart(found: Comparison, samples: Mapping[str, int]) -> tuple[list[str], Marks]:
    """Criteria than which no other is measurably better over all budgets and stages, and how that was judged.

    Args:
        found: the comparison; only class-aware scores of structured criteria count.
        samples: test samples of each subset, where known.
    """
    stages: dict[str, dict[str, dict[Any, float]]] = {}
    for point in found.points:
        if point["subset"] == MEAN and point["scored_on"] == "subset":
            runs = stages.setdefault(f"{point['strategy']}/{stage(point)}", {}).setdefault(point["base"], {})
            runs.update(point["runs"])
    columns: list[dict[str, Accuracies]] = [dict(column) for column in stages.values()]
    marks = best(columns, samples)
    return [name for name in found.looks if name in marks.keys], marks


def subset_chart(
    found: Comparison,
    points: Sequence[Point],
    *,
    measure: str = "macs",
    across_title: str = "share that stays",
    steer: Mapping[str, str] | None = None,
    legend: bool = False,
    width: int | str = "container",
    height: int = 360,
) -> Chart:
    """Accuracy against the share that stays, for many criteria.

    The page steers ``measure`` and ``focus`` (as in `secateur.reports.charts.curves`), and which points are shown.

    Args:
        found: all points, so that axes and colours agree.
        points: those of this chart.
        measure: what the horizontal axis shows first, or `secateur.reports.charts.MASKED`.
        across_title: of the horizontal axis.
        steer: signal to start value: ``subset`` (its name, or `MEAN`), ``stage``, ``scored`` (in words, or "both").
        legend: draw one beside the chart.
        width: in pixels, or "container".
        height: in pixels.
    """
    import altair as alt

    steer = steer or {}
    masked = measure == MASKED
    every = found.masked if masked else found.points
    names = list(dict.fromkeys(point["base"] for point in every))
    looks = {name: look for name, look in found.looks.items() if name in names}
    shown = [measure] if masked else measures(every)
    # the first drawn last, that is on top of the others
    places = {name: place for place, name in enumerate(looks)}
    values = [
        _datum(point, shown, places[point["base"]])
        for point in sorted(points, key=lambda p: -places[p["base"]])
        if point["accuracy"] is not None
    ]
    filters = {"subset": "datum.subset === subset", "stage": "datum.stage === stage"}
    filters["scored"] = "(scored === 'both' || datum.scored === scored)"
    wanted = [filters[name] for name in steer]
    base = (
        alt.Chart(alt.InlineData(values=values))
        .transform_calculate(x=f"datum.{MASKED}" if masked else "datum[measure]")
        .transform_filter(" && ".join(["isValid(datum.x)", *wanted]))
        .encode(x=horizontal(every, across_title, measure))
    )
    lows = [{"accuracy_low": value} for value in found.baselines.values()]
    up_scale = alt.Scale(domain=accuracies([*every, *lows]), zero=False)
    up = alt.Y("accuracy:Q", title="accuracy", scale=up_scale).axis(format="%", tickCount=6)
    key = alt.Legend(columns=1, symbolLimit=60, labelLimit=220) if legend else None
    colour = _scaled(alt.Color, looks, 0, key)
    # the opacity of a line is that of its first point
    series = alt.Detail(["base:N", "scored:N", "stage:N"])
    band = base.mark_area().encode(
        y=alt.Y("accuracy_low:Q", scale=up_scale),
        y2="accuracy_high:Q",
        color=colour,
        detail=series,
        opacity=_emphasis(looks, 0.18, 0.07, 0.0, 0.0),
    )
    line = base.mark_line().encode(
        y=up,
        color=colour,
        detail=series,
        opacity=_emphasis(looks, 1.0, 0.95, 0.45, 0.1),
        strokeWidth=_emphasis(looks, 3, 2, 1.5, 1.5),
    )
    if len(found.scored) > 1:
        line = line.encode(strokeDash=_dash(legend))
    dots = base.mark_point(filled=True, size=40).encode(
        y=up,
        color=colour,
        shape=_scaled(alt.Shape, looks, 1, key),
        opacity=_emphasis(looks, 1.0, 1.0, 0.5, 0.1),
        tooltip=tooltip(shown),
    )
    layers: list[alt.Chart] = [band, line, dots, *_rules(found, up, steer)]
    start = {"measure": measure, "focus": ""} | dict(steer)
    chart = alt.layer(*layers).add_params(*(alt.param(name=name, value=value) for name, value in start.items()))
    return chart.properties(
        width=width, height=height, description="Accuracy against the share that stays, one line by criterion"
    )


def save_subset_curves(rows: Sequence[Row], path: str | Path, conditions: Conditions | None = None) -> Path:
    """Draw accuracy against MACs, mean over subsets: left not fine-tuned, right fine-tuned, one line by strategy.

    The criteria of the highest mean accuracy are in colour, and class-blind scores of these dashed; bands reach
    from the lowest to the highest seed. Masked weights are left out: they save no MACs.

    Args:
        rows: tidy rows of ``compare``, that of the unpruned network included or not.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        conditions: of the report, named beneath the picture.

    Raises:
        RequestError: for another ending, or rows without accuracy and MACs.
        SecateurError: when the file cannot be written.
    """
    import altair as alt

    picture_path(path)
    unpruned, pruned = split_unpruned(rows)
    alone = {"subset": MEAN} | dict.fromkeys(name for name in MEASURES if name != "macs")
    points = [
        point | alone
        for point in aggregate(pruned)
        if point["structured"] and None not in (point["accuracy"], point["macs"])
    ]
    if not points:
        raise RequestError(f"cannot draw '{path}': no row has both accuracy and macs; run compare first")
    baselines = {MEAN: sum(unpruned.values()) / len(unpruned)} if unpruned else {}
    looks = _looks(points)
    top = list(looks)[:TOP]
    points = [point for point in points if point["scored_on"] == "subset" or point["base"] in top]
    found = Comparison(points, [], baselines, looks)
    lines: list[Chart] = []
    for panel in panels(points):
        charts = [
            subset_chart(
                replace(found, points=[point for point in points if stage(point) == name]),
                [point for point in panel.points if stage(point) == name],
                across_title="MACs that stay",
                legend=True,
                width=430,
                height=330,
            ).properties(title=alt.TitleParams(f"{panel.title}, {name}", frame="group"))
            for name in found.stages
        ]
        lines.append(alt.hconcat(*charts, spacing=30))
    known = conditions or Conditions()
    beneath = captions.of_points(points, samples_by_subset(rows, known), known)
    return save_chart(alt.vconcat(*lines, spacing=30), path, beneath)


def _looks(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    ranked = ranking(points)
    structured = {point["base"] for point in points if point["structured"]}
    # masked weights have a chart of their own, where the first are in colour again
    masked = [name for name in ranked if name not in structured][:TOP]
    rest = {name: (GREY, "cross" if name == "random" else SHAPES[place % 7]) for place, name in enumerate(ranked)}
    return rest | style([name for name in ranked if name in structured][:TOP] + masked)


def _datum(point: Point, shown: Sequence[str], place: int) -> dict[str, Any]:
    own = {"base": point["base"], "place": place, "subset": point["subset"], "scored": SCORED[point["scored_on"]]}
    plain = datum(point, shown) | own
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in plain.items()}


def _emphasis(names: Iterable[str], focus: float, top: float, rest: float, dim: float) -> Any:
    """Value for the focused criterion, else for the first and the rest, or for all others while one is focused."""
    import altair as alt

    another = f"indexof({json.dumps(list(names))}, focus) >= 0"  # what is not in this chart dims nothing here
    chosen = alt.when("focus === datum.base").then(alt.value(focus)).when(another).then(alt.value(dim))
    return chosen.when(f"datum.place < {TOP}").then(alt.value(top)).otherwise(alt.value(rest))


def _scaled(channel: Any, looks: Looks, part: int, key: alt.Legend | None) -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(looks), range=[look[part] for look in looks.values()])
    return channel("base:N", title="criterion, by mean accuracy", scale=scale, legend=key)


def _dash(legend: bool) -> alt.StrokeDash:
    import altair as alt

    scale = alt.Scale(domain=list(SCORED.values()), range=[[1, 0], [5, 4]])
    shown = alt.Legend(symbolType="stroke", symbolSize=500, symbolStrokeColor=INK) if legend else None
    return alt.StrokeDash("scored:N", title=None, scale=scale, legend=shown)


def _rules(found: Comparison, up: alt.Y, steer: Mapping[str, str]) -> list[alt.Chart]:
    """The unpruned network, for the subset that is shown."""
    import altair as alt

    names = list(found.baselines) if "subset" in steer else [name for name in found.baselines if name == MEAN]
    if not names:
        return []
    values = [
        {"subset": name, "accuracy": found.baselines[name], "text": f"unpruned {found.baselines[name]:.1%}"}
        for name in names
    ]
    rule = alt.Chart(alt.InlineData(values=values)).encode(y=up)
    rule = rule.transform_filter("datum.subset === subset") if "subset" in steer else rule
    text = rule.mark_text(align="left", baseline="top", dx=4, dy=4, color=INK, opacity=0.8, fontSize=12)
    return [
        rule.mark_rule(strokeDash=[6, 4], color=INK, opacity=0.6),
        text.encode(x=alt.value(0), text="text:N"),
    ]
