"""What the pruning of prototypes did: accuracy and cost by stage, prototypes of each class, their purity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import GREY, INK, KEPT, PLAIN_AXIS
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT, Figure
from secateur.reports.table import Cell, Table, csv_link

if TYPE_CHECKING:
    from secateur.reports.look import Chart

_DRAWN = 40  # classes
_STATES = {"kept": KEPT, "removed": GREY}


@dataclass(frozen=True)
class PrunedStage:
    """The network at one stage.

    Attributes:
        name: of the stage.
        prototypes: it has.
        accuracy, balanced_accuracy: 0..1.
        params, macs: of the whole network; distances to prototypes are among the MACs.
        used: mean number of prototypes that make up 90 % of the positive contributions to a decision.
    """

    __pydantic_config__ = STRICT

    name: str
    prototypes: int
    accuracy: Figure
    balanced_accuracy: Figure
    params: int
    macs: int
    used: float | None = None


@dataclass(frozen=True)
class PrototypeDecisionRow:
    """What became of one prototype; see `secateur.prototypes.PrototypeDecision`."""

    __pydantic_config__ = STRICT

    number: int
    class_name: str
    kept: bool
    reason: str
    purity: Figure
    score: float | None = None
    duplicate_of: int | None = None
    nearest_classes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PrototypePruning:
    """Section of what pruning did to the prototypes.

    Attributes:
        stages: in order, the first one unpruned.
        decisions: one for each prototype that there was, by class.
        nearest: patches that purity is the share of.
        samples: that accuracy was measured on.
    """

    __pydantic_config__ = STRICT

    stages: list[PrunedStage]
    decisions: list[PrototypeDecisionRow]
    nearest: int
    samples: int | None = None


def _charts(section: PrototypePruning, conditions: Conditions) -> dict[str, Chart]:
    if not section.decisions:
        return {}
    return {"prototype-classes": _classes_chart(section), "prototype-purity": _purity_chart(section)}


def _drawn(section: PrototypePruning) -> dict[str, Counter[str]]:
    """Kept and removed prototypes of all classes, or of those that lose most, where there are very many."""
    found: dict[str, Counter[str]] = {}
    for row in section.decisions:
        found.setdefault(row.class_name, Counter())["kept" if row.kept else "removed"] += 1
    if len(found) <= _DRAWN:
        return found
    return dict(sorted(found.items(), key=lambda item: -item[1]["removed"])[:_DRAWN])


def _classes_chart(section: PrototypePruning) -> Chart:
    """Prototypes of each class as horizontal bars: those that stay, then those that go."""
    import altair as alt

    values = [
        {"class": name, "state": state, "place": place, "prototypes": counts[state]}
        | {"label": f"{counts['kept']} of {counts.total()}", "total": counts.total()}
        for name, counts in _drawn(section).items()
        for place, state in enumerate(_STATES)
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("class:N", sort=None, title=None, axis=alt.Axis(**PLAIN_AXIS)),
        tooltip=["class:N", "state:N", "prototypes:Q"],
    )
    axis = alt.Axis(tickMinStep=1, labelFlush=False, tickCount=6, format="d")
    bars = base.mark_bar().encode(
        x=alt.X("prototypes:Q", title="prototypes", stack="zero", axis=axis),
        color=_colour(),
        order=alt.Order("place:Q"),
    )
    text = (
        base.transform_filter("datum.place === 0")
        .mark_text(align="left", dx=5, color=INK, opacity=0.8, fontSize=11)
        .encode(x="total:Q", text="label:N")
    )
    return alt.layer(bars, text).properties(
        width="container", height=alt.Step(24), description="Prototypes of each class that stay and that go"
    )


def _purity_chart(section: PrototypePruning) -> Chart:
    """How many prototypes have 0, 1, ... of their nearest patches from their own class."""
    import altair as alt

    counts = Counter((round(row.purity * section.nearest), "kept" if row.kept else "removed")
                     for row in section.decisions)  # fmt: skip
    values = [
        {"same": f"{same}", "state": state, "place": place, "prototypes": counts[same, state]}
        for same in range(section.nearest + 1)
        for place, state in enumerate(_STATES)
    ]
    title = f"nearest training patches of its class, of {section.nearest}"
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar()
        .encode(
            x=alt.X("same:N", sort=None, title=title, axis=alt.Axis(labelAngle=0, grid=False, ticks=False)),
            y=alt.Y("prototypes:Q", title="prototypes", stack="zero", axis=alt.Axis(tickMinStep=1, format="d")),
            color=_colour(),
            order=alt.Order("place:Q"),
            tooltip=[alt.Tooltip("same:N", title="nearest patches of its class"), "state:N", "prototypes:Q"],
        )
    )
    return alt.layer(chart).properties(
        width="container", height=220, description="Prototypes by how many of their nearest patches are of their class"
    )


def _colour() -> Any:
    import altair as alt

    scale = alt.Scale(domain=list(_STATES), range=list(_STATES.values()))
    return alt.Color("state:N", title=None, scale=scale).legend(orient="top")


def _answers(section: PrototypePruning, conditions: Conditions) -> list[str]:
    first, last = section.stages[0], section.stages[-1]
    gone = sum(not row.kept for row in section.decisions)
    share = figures.percent(gone / max(1, len(section.decisions)), 0)
    found = [f"{gone:,} of {len(section.decisions):,} prototypes go ({share})."]
    if len(section.stages) > 1:
        words, _ = figures.accuracy_change(first.accuracy, last.accuracy, section.samples or conditions.samples)
        accuracy = f"{figures.percent(first.accuracy)} before, {figures.percent(last.accuracy)} after"
        found.append(f"Accuracy {accuracy} ({words}).")
    if first.used is not None and last.used is not None and len(section.stages) > 1:
        found.append(f"A decision used {first.used:.1f} prototypes before and uses {last.used:.1f} now.")
    twins = [row for row in section.decisions if row.duplicate_of is not None]
    if twins:
        went = sum(not row.kept for row in twins)
        words = "prototype was" if len(twins) == 1 else "prototypes were"
        found.append(f"{len(twins):,} {words} on the same patch as an earlier one; removed of these: {went:,}.")
    return found


def _stages(section: PrototypePruning, conditions: Conditions) -> Table:
    first = section.stages[0]
    used = any(stage.used is not None for stage in section.stages)
    head = ["stage", "prototypes", "accuracy, %", "balanced, %", "parameters", "MACs", *["prototypes used"] * used]
    lines: list[Sequence[Cell | str]] = []
    for stage in section.stages:
        line: list[Cell | str] = [stage.name, f"{stage.prototypes:,}", figures.hundredths(stage.accuracy)]
        line += [figures.hundredths(stage.balanced_accuracy), _share(stage.params, first.params)]
        line += [_share(stage.macs, first.macs)]
        lines.append([*line, *[figures.plain(stage.used, 1)] * used])
    explained = "prototypes used: mean number that makes up 90 % of the positive contributions" if used else ""
    counts = [section.samples] if section.samples else []
    beneath = captions.line(conditions.measured(counts), "MACs count the distances to prototypes", explained)
    return Table(head, lines, beneath=[beneath])


def _share(value: int, first: int) -> Cell:
    note = "" if value == first or not first else f"({figures.percent(value / first, 1)})"
    return Cell(figures.count(value), note=note)


def _view(section: PrototypePruning, conditions: Conditions) -> dict[str, Any]:
    if not section.decisions:
        return {"answers": []}
    classes = len({row.class_name for row in section.decisions})
    caption = f"The {_DRAWN} classes of {classes:,} that lose most." if classes > _DRAWN else ""
    rows = [
        {
            "prototype": row.number,
            "class": row.class_name,
            "kept": row.kept,
            "reason": row.reason,
            "purity": row.purity,
            "score": row.score,
            "duplicate_of": row.duplicate_of,
            "nearest_classes": ", ".join(row.nearest_classes),
        }
        for row in section.decisions
    ]
    return {
        "answers": _answers(section, conditions),
        "stages": _stages(section, conditions),
        "caption": caption,
        "beneath": captions.line(f"prototypes from training images of {conditions.data}" if conditions.data else ""),
        "rest": csv_link(rows, "decisions.csv", "Every prototype, and why it stays or goes, as CSV"),
    }


register_section(
    PrototypePruning, name="prototypes/decisions", template="prototype_pruning.html", charts=_charts, view=_view
)
