"""How alike two networks' heatmaps are, over many images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from secateur.reports import captions, figures
from secateur.reports.conditions import Conditions
from secateur.reports.look import GREY, KEPT
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT
from secateur.reports.table import Table

if TYPE_CHECKING:
    from secateur.reports.look import Chart

MOST_CLASSES = 40
_MEASURES = {"cosine": "cosine", "rank": "rank correlation"}


@dataclass(frozen=True)
class AgreementGroup:
    """How alike two networks' heatmaps are, for a group of images.

    Attributes:
        kind: ``all``; ``chance``, pairs of different images; ``outcome``, by who is right; ``class``.
        name: of the group.
        images: how many (for ``chance``: pairs); figures of an empty group are ``None``.
        same_answer: share of images for which both networks predict the same class, 0..1.
        cosine_mean: of the two heatmaps, -1..1; ``q1`` and ``q3`` are the first and third quartile.
        rank_mean: of Spearman's rank correlation, -1..1.
    """

    __pydantic_config__ = STRICT

    kind: Literal["all", "chance", "outcome", "class"]
    name: str
    images: int
    same_answer: float | None = None
    cosine_mean: float | None = None
    cosine_q1: float | None = None
    cosine_median: float | None = None
    cosine_q3: float | None = None
    rank_mean: float | None = None
    rank_q1: float | None = None
    rank_median: float | None = None
    rank_q3: float | None = None

    @property
    def cells(self) -> list[str]:
        """Of its line in the table."""
        found = [self.name, str(self.images), figures.percent(self.same_answer)]
        for measure in _MEASURES:
            mean, q1, median, q3 = (getattr(self, f"{measure}_{name}") for name in ("mean", "q1", "median", "q3"))
            middle = f"{figures.plain(median, 2)} ({figures.plain(q1, 2)} to {figures.plain(q3, 2)})"
            found += [figures.plain(mean, 2), figures.ABSENT if median is None else middle]
        return found


@dataclass(frozen=True)
class Agreement:
    """Section on whether a pruned network still looks at the same thing.

    Attributes:
        groups: means and quartiles, in reading order.
        counts: images by agreement, in equal bins from -1 to 1, for ``cosine``, ``rank``, and the chance level of
            both, ``chance_cosine`` and ``chance_rank``.
    """

    __pydantic_config__ = STRICT

    groups: list[AgreementGroup] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)


def _charts(section: Agreement, conditions: Conditions) -> dict[str, Chart]:
    return {
        f"agreement-{measure}": _chart(counts, section.counts.get(f"chance_{measure}", []), title)
        for measure, title in _MEASURES.items()
        if sum(counts := section.counts.get(measure, []))
    }


def _chart(counts: Sequence[int], chance: Sequence[int], measure: str) -> Chart:
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


def _view(section: Agreement, conditions: Conditions) -> dict[str, Any]:
    maps = captions.of_maps(conditions)
    classes = [group for group in section.groups if group.kind == "class"]
    caption = "By class, lowest cosine first"
    caption += f" (the first {MOST_CLASSES} of {len(classes)})" if len(classes) > MOST_CLASSES else ""
    tables = [_table([group for group in section.groups if group.kind != "class"], "", maps)]
    return {
        "beneath": {
            f"agreement-{measure}": captions.line(f"{sum(section.counts.get(measure, [])):,} images", maps)
            for measure in _MEASURES
        },
        "tables": tables + ([_table(classes[:MOST_CLASSES], caption, maps)] if classes else []),
    }


def _table(groups: Sequence[AgreementGroup], caption: str, beneath: str) -> Table:
    kinds = [f"{measure}, {figure}" for measure in _MEASURES for figure in ("mean", "median (quartiles)")]
    head = ["images", "number", "same answer", *kinds]
    return Table(head, [group.cells for group in groups], caption=caption, beneath=[beneath])


register_section(Agreement, name="agreement", template="agreement.html", charts=_charts, view=_view)
