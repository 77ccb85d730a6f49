"""Decision regions of a classifier of 2-D points with the points it learned from, as panels for a page or a paper.

Axes: H height and W width of the mesh, row 0 at the top.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur.core.errors import RequestError
from secateur.reports import look
from secateur.reports.look import GREY, PAPER_INK, picture_path
from secateur.reports.regions import LINE_OPACITY, PANEL, check_regions, palette_png, region_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 500
# Lengths in pixels of a panel: of the dots of training data, and of the markers of reference samples.
_DOT: dict[str, Any] = {"linewidth": 2.4, "solid_capstyle": "round", "alpha": 0.75, "snap": False}
_HALO: dict[str, Any] = {"marker": "o", "markersize": 8.8, "markeredgewidth": 0, "color": "#FFFFFF"}
_MARKER: dict[str, Any] = {"marker": "o", "markersize": 6.4, "markeredgewidth": 1.3, "markeredgecolor": PAPER_INK}
_KEY: dict[str, Any] = {"marker": "o", "markersize": 3.2, "markeredgewidth": 0, "color": PAPER_INK, "alpha": 0.6}
_GAP = 14.0
_RASTER = 480  # pixels of the embedded regions, across


@dataclass(frozen=True, eq=False)
class Field:
    """One panel: which class a network chooses where, and the points it learned from.

    Attributes:
        title: of the column, as a rule the criterion.
        classes: winning class [H, W] on a regular mesh, 0, 1, ...; row 0 at the top (largest y).
        certainty: [H, W], 0 at the boundary, 1 where the network is sure.
        extent: x_low, x_high, y_low, y_high of the mesh's outer edges.
        caption: stands below the panel, as a rule the accuracy.
        points: training data [n, 2] as x, y.
        labels: their classes [n].
        chosen: reference samples [m, 2].
        chosen_labels: their classes [m].

    Raises:
        RequestError: for shapes that do not fit, classes below 0, certainty outside 0..1, or an empty extent.

    Example:
        >>> import numpy as np
        >>> Field("lrp", np.zeros((2, 3), dtype=int), np.ones((2, 3)), (-1, 1, -1, 1)).caption
        ''
    """

    title: str
    classes: NDArray[Any]
    certainty: NDArray[Any]
    extent: tuple[float, float, float, float]
    caption: str = ""
    points: NDArray[Any] = field(default_factory=lambda: np.empty((0, 2)))
    labels: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.int64))
    chosen: NDArray[Any] = field(default_factory=lambda: np.empty((0, 2)))
    chosen_labels: NDArray[Any] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        check_regions(self.classes, self.certainty)
        check_points(self.extent, self.points, self.labels)
        check_points(self.extent, self.chosen, self.chosen_labels)


def field_png(field: Field, colormap: str = "okabe-ito") -> bytes:
    """Draw the regions alone: the class's colour, paler towards the boundary, and a dark line where classes meet.

    Args:
        field: what to draw; its points are left out.
        colormap: one of `secateur.reports.COLORMAPS`.

    Raises:
        RequestError: for an unknown colour map, or more classes than it has colours.

    Example:
        >>> import numpy as np
        >>> field_png(Field("", np.zeros((4, 4), dtype=int), np.ones((4, 4)), (0, 1, 0, 1)))[1:4]
        b'PNG'
    """
    return palette_png(_pixels(field, look.colormap(colormap, class_count([field]))))


def save_fields(
    rows: Sequence[Sequence[Field]],
    path: str | Path,
    colormap: str = "okabe-ito",
    row_titles: Sequence[str] = (),
    beneath: str = "",
) -> Path:
    """Draw panels in a grid on white: as a rule one row by data set, one column by criterion.

    Titles that repeat in each row are written once. Of many points, the same `MOST_POINTS` are drawn in each panel.

    Args:
        rows: panels; rows may differ in length.
        path: ends in ``.svg``, ``.png`` (drawn at twice the size) or ``.pdf``.
        colormap: one of `secateur.reports.COLORMAPS`.
        row_titles: one for each row, or none.
        beneath: one line at the bottom: what the captions' figures were measured on.

    Returns:
        Where the picture is.

    Raises:
        RequestError: for another ending, no panels, row titles that do not fit, or a colour map that is unknown or
            too small.
        SecateurError: when the file cannot be written.
    """
    from secateur.reports.drawing import paper_style, save_figure

    target = picture_path(path)
    if not any(rows):
        raise RequestError(f"cannot draw '{target}': there are no panels; give at least one row with one field")
    if row_titles and len(row_titles) != len(rows):
        raise RequestError(f"cannot draw '{target}': {len(row_titles)} row titles for {len(rows)} rows; give one each")
    with paper_style():
        figure = _figure(rows, colormap, row_titles, beneath, smooth=target.suffix == ".png")
    return save_figure(figure, target)


def overlay_png(
    extent: Sequence[float],
    width: int,
    points: NDArray[Any],
    labels: NDArray[Any],
    chosen: NDArray[Any],
    chosen_labels: NDArray[Any],
    colormap: str = "okabe-ito",
    count: int | None = None,
) -> bytes:
    """Draw training data and reference samples on nothing, as a transparent PNG to lay over frames.

    Args:
        extent: x_low, x_high, y_low, y_high of the frames' outer edges.
        width: in pixels; the height follows from the extent.
        points: training data [n, 2]; of many, the same ones are drawn as by `secateur.reports.save_fields`.
        labels: their classes [n].
        chosen: reference samples [m, 2], outlined.
        chosen_labels: their classes [m].
        colormap: one of `secateur.reports.COLORMAPS`.
        count: number of classes, by default those that occur.

    Raises:
        RequestError: for points without labels, an empty extent, or a colour map that is unknown or too small.
    """
    check_points(extent, points, labels)
    check_points(extent, chosen, chosen_labels)
    named = max(0, *(int(np.max(some)) + 1 for some in (labels, chosen_labels) if len(some)), count or 0)
    colours = look.colormap(colormap, named)
    low_x, high_x, low_y, high_y = extent
    height = max(1, round(width * (high_y - low_y) / (high_x - low_x)))
    from matplotlib.figure import Figure

    from secateur.reports.drawing import SCALE, png

    figure = Figure((PANEL / SCALE, PANEL / SCALE * height / width), dpi=SCALE)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    _draw_points(axes, extent, points, labels, chosen, chosen_labels, colours)
    drawn = png(figure, scale=width / PANEL)
    buffer = io.BytesIO()
    # few enough colours for a palette, which halves the file
    small = Image.open(io.BytesIO(drawn)).resize((width, height))
    small.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, format="PNG")
    return buffer.getvalue()


def check_points(extent: Sequence[float], points: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse points without labels, and an extent without area."""
    low_x, high_x, low_y, high_y = extent
    if not (low_x < high_x and low_y < high_y):
        raise RequestError(f"extent {tuple(extent)} has no area; give x_low < x_high, y_low < y_high")
    places, names = np.asarray(points), np.asarray(labels)
    whole = names.size == 0 or (names.dtype.kind in "iu" and names.min() >= 0)
    if names.ndim != 1 or places.shape != (len(names), 2) or not whole:
        raise RequestError(
            f"points of shape {list(places.shape)} with labels of type {names.dtype} and shape {list(names.shape)}; "
            "give [n, 2] and n integers from 0"
        )


def class_count(fields: Iterable[Field]) -> int:
    """Number of classes that regions and points name."""
    return 1 + max(
        int(np.max(found)) for one in fields for found in (one.classes, one.labels, one.chosen_labels) if len(found)
    )


def subsample(points: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most `MOST_POINTS` points with their labels, always the same."""
    # drawn at random: data in the order of their classes would lose whole classes to a fixed step
    order = np.random.default_rng(0).permutation(len(points))[:MOST_POINTS]
    order.sort()
    return points[order], labels[order]


def _pixels(field: Field, colours: Sequence[str]) -> NDArray[np.uint8]:
    return region_pixels(field.classes, field.certainty, colours, _RASTER, round(_RASTER * _aspect(field)))


def _aspect(field: Field) -> float:
    low_x, high_x, low_y, high_y = field.extent
    return min(1.6, max(0.4, (high_y - low_y) / (high_x - low_x)))


def _figure(
    rows: Sequence[Sequence[Field]], colormap: str, row_titles: Sequence[str], beneath: str, *, smooth: bool
) -> Figure:
    from secateur.reports.drawing import Canvas

    canvas, top = Canvas(), 0.0
    titles = [[one.title for one in row] for row in rows]
    once = all(line == titles[0][: len(line)] for line in titles)
    captions = any(one.caption for row in rows for one in row)
    # long names are set smaller, to end with their panels
    size = min(13.0, 275.0 / max(1, *(len(title) for line in titles for title in line)))
    for place, row in enumerate(rows):
        if not row:
            continue
        colours = look.colormap(colormap, class_count(row))
        top += 20 * (any(titles[place]) and (place == 0 or not once))
        height = max(PANEL * _aspect(one) for one in row)
        if row_titles:
            upright: dict[str, Any] = {"rotation": 90, "va": "center", "ha": "right"}
            canvas.text(-8, top + height / 2, row_titles[place], size=13, weight="bold", **upright)
        for column, one in enumerate(row):
            x, high = column * (PANEL + _GAP), PANEL * _aspect(one)
            if place == 0 or not once:
                canvas.text(x, top - 8, one.title, size=size, weight="bold")
            axes = canvas.axes(x, top, PANEL, high)
            axes.imshow(_pixels(one, colours), extent=one.extent, aspect="auto",
                        interpolation="antialiased" if smooth else "none")  # fmt: skip
            _draw_points(axes, one.extent, one.points, one.labels, one.chosen, one.chosen_labels, colours)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(alpha=0.35, linewidth=0.8)
            canvas.text(x, top + high + 15, one.caption, size=12, alpha=0.8)
        top += height + 21 * captions + _GAP
    canvas.legend(0, top - 4, _legend([one for row in rows for one in row]))
    canvas.text(0, top + 26, beneath, alpha=0.8)
    return canvas.figure


def _draw_points(
    axes: Axes,
    extent: Sequence[float],
    points: NDArray[Any],
    labels: NDArray[Any],
    chosen: NDArray[Any],
    chosen_labels: NDArray[Any],
    colours: Sequence[str],
) -> None:
    """Training data as dots, reference samples as outlined markers on top."""
    some, names = subsample(np.asarray(points), np.asarray(labels))
    ends = np.array([0.0, 1e-4 * (extent[1] - extent[0]), np.nan])
    for label in np.unique(names):
        # a dot is the round cap of a line without length, which keeps files small
        x, y = some[names == label].T[:, :, None]
        axes.plot((x + ends).ravel(), (y + 0 * ends).ravel(), color=colours[label], **_DOT)
    for place, label in zip(np.asarray(chosen), chosen_labels, strict=True):
        axes.plot(*place, **_HALO)
        axes.plot(*place, color=colours[label], **_MARKER)
    axes.set(xlim=extent[:2], ylim=extent[2:])


def _legend(fields: Sequence[Field]) -> list[Any]:
    """What the marks mean."""
    from matplotlib.lines import Line2D

    found = []
    if any(len(one.points) for one in fields):
        found.append(Line2D([], [], linestyle="none", label="training data", **_KEY))
    if any(len(one.chosen) for one in fields):
        found.append(Line2D([], [], linestyle="none", color=GREY, label="reference samples", **_MARKER))
    return [*found, Line2D([], [], color=PAPER_INK, alpha=LINE_OPACITY, linewidth=1, label="decision boundary")]
