"""Decision regions of a classifier of 2-D points, as a grid of pictures for a page or a paper.

Axes: H height and W width of the mesh, row 0 at the top.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur.core.errors import RequestError
from secateur.core.files import atomic_path
from secateur.reports import look
from secateur.reports.look import FONT, GREY, PAPER_INK, picture_path, rgb

MOST_POINTS = 500

# Lengths in pixels at scale 1. Radii of the dots of training data, and of the markers of reference samples.
PANEL = 150.0
DOT, DOT_OPACITY = 1.2, 0.75
MARKER, MARKER_RIM, MARKER_HALO = 3.2, 1.3, 4.4
_GAP, _MARGIN = 14.0, 16.0
_TITLE, _CAPTION, _ROW_TITLE, _LEGEND = 20.0, 21.0, 24.0, 30.0
_SMALL = 'font-size="11" opacity="0.8"'

# Share of a class's colour, the rest is white: at the boundary, and where the network is sure.
_PALE, _FULL = 0.08, 0.36
_LINE, _LINE_OPACITY = 0.9, 0.85
_RASTER = 480  # pixels of the embedded regions, across
_FINE = 3  # regions are drawn this many times larger, then averaged
# Few enough shades of each class and of the line on it for a PNG with a palette, which halves the file.
_COLOURS, _LINE_SHADES = 256, 5


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
    return _regions_png(field, look.colormap(colormap, class_count([field])))


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
    import vl_convert

    target = picture_path(path)
    if not any(rows):
        raise RequestError(f"cannot draw '{target}': there are no panels; give at least one row with one field")
    if row_titles and len(row_titles) != len(rows):
        raise RequestError(f"cannot draw '{target}': {len(row_titles)} row titles for {len(rows)} rows; give one each")
    svg = _svg(rows, colormap, row_titles, beneath)
    with atomic_path(target) as temporary:
        if target.suffix == ".svg":
            temporary.write_text(svg, encoding="utf-8")
        elif target.suffix == ".png":
            temporary.write_bytes(_smaller(vl_convert.svg_to_png(svg, scale=2)))
        else:
            temporary.write_bytes(vl_convert.svg_to_pdf(svg))
    return target


def _smaller(png: bytes) -> bytes:
    """The same opaque picture in half the bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def check_regions(classes_HW: NDArray[Any], certainty_HW: NDArray[Any]) -> None:
    """Refuse what is not a map of classes with its certainty."""
    classes, certainty = np.asarray(classes_HW), np.asarray(certainty_HW)
    if classes.ndim != 2 or classes.size == 0 or classes.dtype.kind not in "iu" or classes.min() < 0:
        raise RequestError(
            f"classes have type {classes.dtype} and shape {list(classes.shape)}; give integers from 0 of shape "
            "[height, width]"
        )
    if certainty.shape != classes.shape or not ((certainty >= 0) & (certainty <= 1)).all():
        raise RequestError(
            f"certainty has shape {list(certainty.shape)} for classes of {list(classes.shape)}, or values outside "
            "0..1; give one value for each"
        )


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


def region_pixels(
    classes_HW: NDArray[Any],
    certainty_HW: NDArray[Any],
    colours: Sequence[str],
    width: int,
    height: int,
    shades: int = 24,
) -> NDArray[np.uint8]:
    """Colour a map of classes at any size, with an anti-aliased line where classes meet.

    The line runs where the interpolated certainties of two classes are equal, not along the mesh's squares.

    Args:
        classes_HW: winning class.
        certainty_HW: 0..1.
        colours: hexadecimal, at least one for each class.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        shades: most steps from pale to full colour; fewer make smaller files.

    Returns:
        Pixels [height, width, 3], with no more than 256 colours for up to 25 classes.
    """
    # how sure the network is of a class, negative where another wins: zero on the boundary, so its sign can be
    # interpolated; the least value keeps the sign where the network is not sure at all
    sure = np.maximum(certainty_HW, 1e-4).astype(np.float32)
    margins = np.stack(
        [
            _enlarged(np.where(classes_HW == place, sure, -sure), width * _FINE, height * _FINE)
            for place in range(int(classes_HW.max()) + 1)
        ]
    )
    shades = min(shades, max(2, _COLOURS // (_LINE_SHADES * len(colours))))
    winner = margins.argmax(axis=0)
    certainty = np.clip(margins.max(axis=0), 0.0, 1.0)
    step = np.round(certainty * (shades - 1)).astype(np.intp)
    mix = np.linspace(_PALE, _FULL, shades)[:, None]
    table = np.stack([255 + mix * (np.array(rgb(colour)) - 255) for colour in colours])  # [class, shade, 3]
    line = _line(winner, max(1.0, _LINE / PANEL * width) * _FINE)
    ink = np.array(rgb(PAPER_INK))
    levels = _LINE_SHADES - 1
    share = np.round(_averaged(line.astype(np.float64)) * levels)[..., None] / levels * _LINE_OPACITY
    # the shade in the middle of each pixel: averaging would blend shades and make larger files
    middle = slice(_FINE // 2, None, _FINE)
    area = table[winner[middle, middle], step[middle, middle]]
    return np.asarray(np.round(area + share * (ink - area)), dtype=np.uint8)


def palette_png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """Encode pixels as PNG, with a palette where they have few enough colours; no colour changes."""
    colours, places = np.unique(pixels_HWC @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
    image = Image.fromarray(pixels_HWC)
    if len(colours) <= _COLOURS:
        image = Image.fromarray(places.reshape(pixels_HWC.shape[:2]).astype(np.uint8))
        image.putpalette(colours.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _enlarged(values_HW: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Interpolate linearly; half a square at each edge is extrapolated, lest lines bend there."""
    rows, columns = values_HW.shape
    padded = Image.fromarray(np.pad(values_HW, 1, mode="reflect", reflect_type="odd"))
    inner = (1, 1, columns + 1, rows + 1)
    return np.asarray(padded.resize((width, height), Image.Resampling.BILINEAR, box=inner))


def _line(winner_HW: NDArray[Any], width: float) -> NDArray[np.bool_]:
    """Pixels within half a line's width of a corner between pixels of different classes."""
    here = winner_HW[:-1, :-1]
    corners = (here != winner_HW[1:, :-1]) | (here != winner_HW[:-1, 1:]) | (here != winner_HW[1:, 1:])
    reach, (rows, columns) = int(np.ceil(width / 2)), winner_HW.shape
    padded = np.pad(corners, reach)  # corner (i, j) is at (i + reach, j + reach)
    line = np.zeros(winner_HW.shape, dtype=bool)
    for down in range(-reach, reach):
        for right in range(-reach, reach):
            if (down + 0.5) ** 2 + (right + 0.5) ** 2 <= (width / 2) ** 2 + 0.25:
                line |= padded[reach + down : reach + down + rows, reach + right : reach + right + columns]
    return line


def _averaged(values_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = (side // _FINE for side in values_HW.shape)
    return np.asarray(values_HW.reshape(rows, _FINE, columns, _FINE).mean(axis=(1, 3)))


def _regions_png(field: Field, colours: Sequence[str]) -> bytes:
    height = round(_RASTER * _aspect(field))
    return palette_png(region_pixels(field.classes, field.certainty, colours, _RASTER, height))


def _aspect(field: Field) -> float:
    low_x, high_x, low_y, high_y = field.extent
    return min(1.6, max(0.4, (high_y - low_y) / (high_x - low_x)))


def _svg(rows: Sequence[Sequence[Field]], colormap: str, row_titles: Sequence[str], beneath: str) -> str:
    titles = [[one.title for one in row] for row in rows]
    once = all(line == titles[0][: len(line)] for line in titles)
    captions = any(one.caption for row in rows for one in row)
    # long names are set smaller, to end with their panels
    size = min(13.0, 275.0 / max(1, *(len(title) for line in titles for title in line)))
    left = _MARGIN + (_ROW_TITLE if any(row_titles) else 0.0)
    top = _MARGIN
    parts: list[str] = []
    for place, row in enumerate(rows):
        if not row:
            continue
        colours = look.colormap(colormap, class_count(row))
        top += _TITLE if any(titles[place]) and (place == 0 or not once) else 0.0
        height = max(PANEL * _aspect(one) for one in row)
        if row_titles and row_titles[place]:
            middle = top + height / 2
            parts.append(
                f'<text transform="translate({_MARGIN + 11:g} {middle:.1f}) rotate(-90)" text-anchor="middle" '
                f'font-size="13" font-weight="600">{escape(row_titles[place])}</text>'
            )
        for column, one in enumerate(row):
            x = left + column * (PANEL + _GAP)
            if one.title and (place == 0 or not once):
                parts.append(_text(x, top - 8, one.title, f'font-size="{size:.3g}" font-weight="600"'))
            parts.append(_panel(one, colours, x, top, f"p{place}-{column}"))
            if one.caption:
                parts.append(_text(x, top + PANEL * _aspect(one) + 15, one.caption, 'font-size="12" opacity="0.8"'))
        top += height + (_CAPTION if captions else 0.0) + (_GAP if place + 1 < len(rows) else 0.0)
    legend, end = _legend([one for row in rows for one in row], left, top + 16)
    width = max(left + max(map(len, rows)) * (PANEL + _GAP) - _GAP, end) + _MARGIN
    height = top + _LEGEND
    if beneath:
        legend += _text(left, height + 6, beneath, _SMALL)
        width, height = max(width, left + 5.6 * len(beneath) + _MARGIN), height + _CAPTION
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="Decision regions" '
        f'font-family="{FONT}" fill="{PAPER_INK}">'
        f'<rect width="100%" height="100%" fill="#FFFFFF"/>{"".join(parts)}{legend}</svg>\n'
    )


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _panel(field: Field, colours: Sequence[str], x: float, y: float, name: str) -> str:
    height = PANEL * _aspect(field)
    frame = f'width="{PANEL:g}" height="{height:g}" rx="3"'
    picture = base64.b64encode(_regions_png(field, colours)).decode("ascii")
    dots = _dots(field, colours, height) + _markers(field, colours, height)
    return (
        f'<g transform="translate({x:.1f} {y:.1f})">'
        f'<clipPath id="{name}"><rect {frame}/></clipPath>'
        f'<g clip-path="url(#{name})"><image width="{PANEL:g}" height="{height:g}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{picture}"/>{dots}</g>'
        f'<rect {frame} fill="none" stroke="{PAPER_INK}" stroke-opacity="0.35" stroke-width="0.8"/></g>'
    )


def _dots(field: Field, colours: Sequence[str], height: float) -> str:
    """One path for each class: a dot is a line without length, which keeps files small."""
    points, labels = subsample(np.asarray(field.points), np.asarray(field.labels))
    places = _places(field, points, height)
    paths = []
    for label in np.unique(labels):
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places[labels == label])
        paths.append(f'<path stroke="{colours[label]}" d="{path}"/>')
    attributes = f'fill="none" stroke-width="{2 * DOT:g}" stroke-linecap="round" stroke-opacity="{DOT_OPACITY}"'
    return f"<g {attributes}>{''.join(paths)}</g>"


def _markers(field: Field, colours: Sequence[str], height: float) -> str:
    places = _places(field, np.asarray(field.chosen), height)
    return "".join(_marker(x, y, colours[label]) for (x, y), label in zip(places, field.chosen_labels, strict=True))


def _marker(x: float, y: float, colour: str) -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}"'
    return (
        f'<circle {place} r="{MARKER_HALO}" fill="#FFFFFF"/>'
        f'<circle {place} r="{MARKER}" fill="{colour}" stroke="{PAPER_INK}" stroke-width="{MARKER_RIM}"/>'
    )


def _places(field: Field, points: NDArray[Any], height: float) -> NDArray[np.float64]:
    low_x, high_x, low_y, high_y = field.extent
    x = (points[:, 0] - low_x) / (high_x - low_x) * PANEL
    y = (high_y - points[:, 1]) / (high_y - low_y) * height
    return np.stack([x, y], axis=1)


def _legend(fields: Sequence[Field], x: float, y: float) -> tuple[str, float]:
    """What the marks mean, in one line, and where it ends."""
    parts = []
    if any(len(one.points) for one in fields):
        parts.append(f'<circle cx="{x + 3:.1f}" cy="{y:.1f}" r="1.6" fill="{PAPER_INK}" fill-opacity="0.6"/>')
        parts.append(_text(x + 11, y + 4, "training data", _SMALL))
        x += 92
    if any(len(one.chosen) for one in fields):
        parts.append(_marker(x + 4, y, GREY) + _text(x + 14, y + 4, "reference samples", _SMALL))
        x += 122
    parts.append(f'<path d="M{x:.1f} {y:.1f}h16" stroke="{PAPER_INK}" stroke-opacity="{_LINE_OPACITY}"/>')
    parts.append(_text(x + 22, y + 4, "decision boundary", _SMALL))
    return "".join(parts), x + 110
