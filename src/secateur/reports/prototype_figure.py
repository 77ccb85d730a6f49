"""A figure for papers: images, the relevance of prototypes, and the prototypes themselves, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.errors import RequestError
from secateur.reports.look import PAPER_INK, picture_path
from secateur.reports.prototype_explanations import ExplainedImage, PrototypeExplanations, PrototypeMatch, signed
from secateur.reports.prototype_pictures import BoxedImage, decoded, legend

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Columns."""
_SIDE, _GAP, _LEFT = 120.0, 10.0, 16.0  # pixels
_DASHES: dict[str, Any] = {"activation": (0, (5, 3)), "receptive-field": (0, (1.5, 2)), "relevance": "solid"}


@dataclass(frozen=True)
class _Column:
    """One image with one prototype."""

    title: str
    image: BoxedImage
    match: PrototypeMatch


def save_prototype_figure(record: ExplainedImage | PrototypeExplanations, path: str | Path) -> Path:
    """Draw images, relevance and prototypes in three rows, as a static picture on white.

    Above: the image, with the part that is like the prototype. In the middle: relevance of its pixels for the
    similarity, where it was computed. Below: the prototype, in the colours of its training image.

    Args:
        record: of one image, a column for each of its prototypes; of several, one for each image and its strongest
            prototype; at most `MOST`.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.

    Raises:
        RequestError: for another ending, or nothing to draw.
        SecateurError: when the file cannot be written.
    """
    from secateur.reports.drawing import paper_style, save_figure

    target = picture_path(path)
    columns = _columns(record)[:MOST]
    if not columns:
        raise RequestError(f"cannot draw '{path}': no image has a prototype; explain images first")
    with paper_style():
        return save_figure(_figure(columns), target)


def _columns(record: ExplainedImage | PrototypeExplanations) -> list[_Column]:
    if isinstance(record, ExplainedImage):
        return [_Column("", record.marked(match), match) for match in record.matches]
    shown = [image for image in record.images if image.matches]
    return [_Column(image.predicted, image.marked(image.matches[0]), image.matches[0]) for image in shown]


def _figure(columns: Sequence[_Column]) -> Figure:
    from secateur.reports.drawing import Canvas

    canvas = Canvas()
    rows = ["image"]
    rows += ["relevance"] if any(column.match.heat for column in columns) else []
    rows += ["prototype"] if any(column.match.crop for column in columns) else []
    top = 0.0
    for place, row in enumerate(rows):
        upright: dict[str, Any] = {"rotation": 90, "va": "center", "ha": "right"}
        canvas.text(_LEFT - 6, top + _SIDE / 2, row, size=12, **upright)
        for across, column in enumerate(columns):
            x = _LEFT + across * (_SIDE + _GAP)
            if place == 0 and column.title:
                canvas.text(x, top - 6, _short(column.title, 18), size=12, weight="bold")
            _draw(canvas.axes(x, top, _SIDE, _SIDE), row, column)
        top += _SIDE + _GAP
    for across, column in enumerate(columns):
        x, match = _LEFT + across * (_SIDE + _GAP), column.match
        canvas.text(x, top + 6, _short(f"{match.number} ({match.class_name or 'switched off'})", 20), size=11)
        formula = f"{match.similarity:.2f} × {match.weight:.2f} = {signed(match.contribution)}"
        canvas.text(x, top + 21, formula.replace("-", "\u2212"), size=9.5, alpha=0.8)
    if any(column.image.boxes for column in columns):
        canvas.legend(_LEFT, top + 34, _handles([column.image for column in columns]))
    return canvas.figure


def _draw(axes: Axes, row: str, column: _Column) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(alpha=0.35, linewidth=0.8)
    match, image = column.match, column.image
    if row == "image":
        axes.imshow(decoded(image.picture), extent=(0, image.width, image.height, 0), interpolation=_look(image.small))
        _boxes(axes, image)
    elif picture := match.heat if row == "relevance" else match.crop:
        pixels = decoded(picture)
        axes.imshow(pixels, interpolation=_look(max(pixels.shape[:2]) <= 64))
        if row == "prototype":
            axes.spines[:].set_visible(False)
    else:
        axes.set_axis_off()


def _look(small: bool) -> str:
    return "nearest" if small else "antialiased"


def _boxes(axes: Axes, image: BoxedImage) -> None:
    from matplotlib.patches import Rectangle

    for box in image.rectangles:
        place = ((box["x"], box["y"]), box["width"], box["height"])
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=PAPER_INK, linewidth=2.8, clip_on=False))
        look: dict[str, Any] = {"linestyle": _DASHES.get(box["kind"], "solid"), "edgecolor": box["colour"]}
        axes.add_patch(Rectangle(*place, fill=False, linewidth=1.5, clip_on=False, **look))


def _handles(images: Sequence[BoxedImage]) -> list[Artist]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [], [], color=kind["colour"], linestyle=_DASHES.get(kind["kind"], "solid"), linewidth=2, label=kind["words"]
        )
        for kind in legend(image.boxes for image in images)
    ]


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
