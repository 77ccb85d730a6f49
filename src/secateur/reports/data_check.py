"""Whether a data set is sound: what was noticed, images of each class by split, and images that are alike."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur.reports.conditions import Conditions
from secateur.reports.look import INK, PALETTE, PLAIN_AXIS
from secateur.reports.registry import register_section
from secateur.reports.rows import STRICT
from secateur.reports.table import Cell, Table

if TYPE_CHECKING:
    from secateur.reports.look import Chart

_COLOURS = {"train": PALETTE[0], "val": PALETTE[4], "test": PALETTE[1]}
_DRAWN = 40  # classes
_SHORTER_SIDE = 128


@dataclass(frozen=True)
class ClassImages:
    """Images of one class in each split, and the lesions or patients they are of; empty: that is not known."""

    __pydantic_config__ = STRICT

    name: str
    images: dict[str, int]
    groups: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class AlikeImages:
    """Two images that are nearly the same, each a base64 JPEG without prefix; `image_jpeg` makes such strings."""

    __pydantic_config__ = STRICT

    title: str
    first: str
    second: str
    first_jpeg: str
    second_jpeg: str


@dataclass(frozen=True)
class DataCheck:
    """Section on a data set.

    Attributes:
        findings: sentences, the answer first.
        splits: their names, in order.
        classes: in the order of their indices.
        split_by: who says which image is in which split.
        alike: images that are nearly the same.
    """

    __pydantic_config__ = STRICT

    findings: list[str]
    splits: list[str]
    classes: list[ClassImages]
    split_by: str = ""
    alike: list[AlikeImages] = field(default_factory=list)


def image_jpeg(pixels_HWC: NDArray[np.uint8]) -> str:
    """Encode an image as a base64 JPEG, enlarged in whole steps until its shorter side has 128 pixels.

    Args:
        pixels_HWC: uint8 with 3 channels.
    """
    factor = math.ceil(_SHORTER_SIDE / min(pixels_HWC.shape[:2]))
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)).save(buffer, format="JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _charts(section: DataCheck, conditions: Conditions) -> dict[str, Chart]:
    return {"class-images": _chart(section)} if section.classes else {}


def _chart(section: DataCheck) -> Chart:
    """Images of each class as horizontal bars, the splits one after the other."""
    import altair as alt

    shown = _drawn(section)
    totals = {each.name: sum(each.images.values()) for each in shown}
    values = [
        {"class": each.name, "split": split, "place": place, "images": each.images.get(split, 0)}
        | {"total": totals[each.name]}
        for each in shown
        for place, split in enumerate(section.splits)
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        y=alt.Y("class:N", sort=None, title=None, axis=alt.Axis(**PLAIN_AXIS)),
        tooltip=["class:N", "split:N", alt.Tooltip("images:Q", format=","), alt.Tooltip("total:Q", format=",")],
    )
    colours = alt.Scale(domain=section.splits, range=[_COLOURS.get(split, PALETTE[0]) for split in section.splits])
    bars = base.mark_bar().encode(
        x=alt.X("images:Q", title="images", stack="zero", axis=alt.Axis(tickMinStep=1, labelFlush=False, tickCount=6)),
        color=alt.Color("split:N", title=None, scale=colours).legend(orient="top"),
        order=alt.Order("place:Q"),
    )
    totals_text = (
        base.transform_filter("datum.place === 0")
        .mark_text(align="left", dx=5, color=INK, opacity=0.8, fontSize=11)
        .encode(x="total:Q", text=alt.Text("total:Q", format=","))
    )
    return alt.layer(bars, totals_text).properties(
        width="container", height=alt.Step(24), description="Images of each class by split"
    )


def _drawn(section: DataCheck) -> list[ClassImages]:
    """All classes, or the largest and the smallest of very many."""
    if len(section.classes) <= _DRAWN:
        return section.classes
    order = sorted(section.classes, key=lambda each: -sum(each.images.values()))
    return [*order[: _DRAWN // 2], *order[-_DRAWN // 2 :]]


def _view(section: DataCheck, conditions: Conditions) -> dict[str, Any]:
    count = len(section.classes)
    caption = ""
    if count > _DRAWN:
        caption = f"The {_DRAWN // 2} largest and the {_DRAWN // 2} smallest of {count:,} classes."
    return {
        "table": _table(section),
        "caption": caption,
        "beneath": f"split {section.split_by}" if section.split_by and len(section.splits) > 1 else "",
    }


def _table(section: DataCheck) -> Table:
    several = len(section.splits) > 1
    grouped = any(each.groups for each in section.classes)

    def cells(title: str, images: dict[str, int], groups: dict[str, int]) -> list[Cell | str]:
        line = [_count(images.get(split, 0), groups.get(split) if grouped else None) for split in section.splits]
        return [title, *line, *([Cell(f"{sum(images.values()):,}")] if several else [])]

    lines: list[Sequence[Cell | str] | None] = [cells(each.name, each.images, each.groups) for each in section.classes]
    images = {split: sum(each.images.get(split, 0) for each in section.classes) for split in section.splits}
    return Table(
        ["class", *section.splits, *(["all"] if several else [])],
        [*lines, None, cells("all classes", images, {})],
        beneath=["images, in brackets their groups (lesions, patients)" if grouped else "images"],
    )


def _count(images: int, groups: int | None) -> Cell:
    return Cell(f"{images:,}", note="" if groups is None else f"({groups:,})")


register_section(DataCheck, name="data-check", template="data_check.html", charts=_charts, view=_view)
