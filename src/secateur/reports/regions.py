"""Decision regions of a classifier of 2-D points as pixels: the class's colour, paler where it is less sure.

Axes: H height and W width of the mesh, row 0 at the top (largest y).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur.core.errors import RequestError
from secateur.reports import look
from secateur.reports.look import PAPER_INK, rgb

PANEL = 150.0  # pixels across a picture of regions, by which lengths are given
LINE_OPACITY = 0.85
# Share of a class's colour, the rest is white: at the boundary, and where the network is sure.
_PALE, _FULL = 0.08, 0.36
_LINE = 0.9
_FINE = 3  # regions are drawn this many times larger, then averaged
# Few enough shades of each class and of the line on it for a PNG with a palette, which halves the file.
_COLOURS, _LINE_SHADES = 256, 5
_FRAME = 200  # pixels across a film's frame
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


def to_base64(data: bytes) -> str:
    """A PNG's bytes as the base64 string that records hold.

    Example:
        >>> to_base64(b"PNG")
        'UE5H'
    """
    return base64.b64encode(data).decode("ascii")


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
    share = np.round(_averaged(line.astype(np.float64)) * levels)[..., None] / levels * LINE_OPACITY
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
