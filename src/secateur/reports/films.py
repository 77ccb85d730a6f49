"""Decision regions while ever more is removed: small frames for the page's slider, and the curve beneath it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from secateur.reports import look
from secateur.reports.fields import (
    DOT,
    DOT_OPACITY,
    MARKER,
    MARKER_HALO,
    MARKER_RIM,
    PANEL,
    check_points,
    check_regions,
    palette_png,
    region_pixels,
    subsample,
)
from secateur.reports.look import INK, PAPER_INK, Chart, Looks, rgb, style
from secateur.reports.records import Film

_FRAME = 200  # pixels across
_SHADES = 10  # of each class, where a page's picture has 24: there are hundreds of frames


def film_png(
    classes_HW: NDArray[Any],
    certainty_HW: NDArray[Any],
    colormap: str = "okabe-ito",
    count: int | None = None,
) -> str:
    """Draw decision regions as a small base64 PNG with a palette, a few kilobytes each.

    Args:
        classes_HW: winning class on a regular mesh, row 0 at the top (largest y); 56 points across are enough.
        certainty_HW: 0 at the boundary, 1 where the network is sure.
        colormap: one of `secateur.reports.COLORMAPS`.
        count: number of classes, by default those that occur; give it where frames belong together.

    Raises:
        RequestError: for shapes that do not fit, values out of range, or a colour map that is unknown or too small.

    Example:
        >>> import numpy as np
        >>> film_png(np.zeros((8, 8), dtype=int), np.ones((8, 8)))[:8]
        'iVBORw0K'
    """
    check_regions(classes_HW, certainty_HW)
    classes, certainty = np.asarray(classes_HW), np.asarray(certainty_HW)
    named = max(int(classes.max()) + 1, count or 0)
    colours = look.colormap(colormap, named)
    height = max(1, round(_FRAME * classes.shape[0] / classes.shape[1]))
    return to_base64(palette_png(region_pixels(classes, certainty, colours, _FRAME, height, _SHADES)))


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
    fine = 4  # drawn at four times the size, then averaged
    image = Image.new("RGBA", (width * fine, height * fine))
    draw = ImageDraw.Draw(image)
    unit = width * fine / PANEL

    def disc(x: float, y: float, radius: float, fill: tuple[int, ...]) -> None:
        across = (x - low_x) / (high_x - low_x) * width * fine
        down = (high_y - y) / (high_y - low_y) * height * fine
        reach = radius * unit
        draw.ellipse((across - reach, down - reach, across + reach, down + reach), fill=fill)

    for (x, y), label in zip(*subsample(np.asarray(points), np.asarray(labels)), strict=True):
        disc(x, y, DOT, (*rgb(colours[label]), round(255 * DOT_OPACITY)))
    for (x, y), label in zip(chosen, chosen_labels, strict=True):
        disc(x, y, MARKER_HALO, (255, 255, 255, 255))
        disc(x, y, MARKER + MARKER_RIM / 2, (*rgb(PAPER_INK), 255))
        disc(x, y, MARKER - MARKER_RIM / 2, (*rgb(colours[label]), 255))
    small = image.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, format="PNG")
    return buffer.getvalue()


def to_base64(data: bytes) -> str:
    """A PNG's bytes as the base64 string that records hold.

    Example:
        >>> to_base64(b"PNG")
        'UE5H'
    """
    return base64.b64encode(data).decode("ascii")


def first_frame(film: Film) -> int:
    """Index of the frame that is shown first: the nearest to the film's start, else where tracks differ most.

    Example:
        >>> from secateur.reports import FilmTrack
        >>> tracks = [FilmTrack("lrp", [""] * 3, [100, 99, 50]), FilmTrack("grad", [""] * 3, [100, 70, 50])]
        >>> first_frame(Film("moon", [0, 1000, 2000], tracks))
        1
        >>> first_frame(Film("moon", [0, 1000, 2000], tracks, start=1900))
        2
    """
    places = range(len(film.positions))
    if film.start is not None:
        start = film.start
        return min(places, key=lambda place: abs(film.positions[place] - start))
    if len(film.tracks) == 1:
        return len(places) // 2
    ranges = [max(values) - min(values) for values in zip(*(track.accuracy for track in film.tracks), strict=True)]
    return ranges.index(max(ranges))


def film_chart(film: Film, looks: Looks | None = None, height: int = 170) -> Chart:
    """Accuracy against what is removed, one line by track, with a rule where the slider stands.

    The page moves it with the signal ``position`` (of what is removed, not its index).

    Args:
        film: with its tracks.
        looks: colour and shape of each track; by default those of its criteria.
        height: in pixels; the width is that of the place on the page.
    """
    import altair as alt

    names = [track.name for track in film.tracks]
    whole = style(names) if looks is None else looks
    looks = {name: whole[name] for name in names}
    values = [
        {"track": track.name, "position": position, "accuracy": accuracy}
        for track in film.tracks
        for position, accuracy in zip(film.positions, track.accuracy, strict=True)
    ]
    low = 10.0 * math.floor(min(min(track.accuracy) for track in film.tracks) / 10)
    ends = [film.positions[0], film.positions[-1]]
    across = alt.X("position:Q", title=film.unit, scale=alt.Scale(domain=ends, nice=False)).axis(
        tickCount=6, labelFlush=False
    )
    up = alt.Y("accuracy:Q", title="accuracy, %", scale=alt.Scale(domain=[low, 100.0], nice=False)).axis(tickCount=5)
    colour = alt.Color(
        "track:N", scale=alt.Scale(domain=list(looks), range=[both[0] for both in looks.values()]), legend=None
    )
    shape = alt.Shape(
        "track:N", scale=alt.Scale(domain=list(looks), range=[both[1] for both in looks.values()]), legend=None
    )
    base = alt.Chart(alt.InlineData(values=values))
    tooltip = [
        alt.Tooltip("track:N"),
        alt.Tooltip("position:Q", title=film.unit),
        alt.Tooltip("accuracy:Q", title="accuracy, %", format=".1f"),
    ]
    lines = base.mark_line(strokeWidth=2, clip=False).encode(x=across, y=up, color=colour)
    rule = (
        alt.Chart(alt.InlineData(values=[{}]))
        .transform_calculate(position="position")
        .mark_rule(color=INK, opacity=0.5)
        .encode(x=across)
    )
    here = (
        base.transform_filter("datum.position === position")
        .mark_point(filled=True, size=70, opacity=1)
        .encode(x=across, y=up, color=colour, shape=shape, tooltip=tooltip)
    )
    return (
        alt.layer(rule, lines, here)
        .add_params(alt.param(name="position", value=film.positions[first_frame(film)]))
        .properties(width="container", height=height, description=f"Accuracy against {film.unit}")
    )
