"""Images with boxes on them, crops and heatmaps, as the sections on prototypes hold them. Axes: H, W, C colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secateur.core.errors import RequestError
from secateur.reports.images import heatmap_png
from secateur.reports.rows import STRICT

Sides: TypeAlias = tuple[int, int, int, int]
"""Top, left, bottom and right of a box in pixels; the last two are outside."""

# Okabe and Ito's colours, drawn on a dark line: seen on any image; line styles tell them apart without colour.
BOX_COLOURS = {"activation": "#E69F00", "receptive-field": "#56B4E9", "relevance": "#FF8FC7"}
BOX_DASHES = {"activation": "5 3", "receptive-field": "1.5 2.5", "relevance": ""}
BOX_WORDS = {
    "activation": "upsampled similarity map, 95th percentile",
    "receptive-field": "receptive field",
    "relevance": "90 % of the relevance",
}
_LOSSLESS = 64  # pixels: PNG up to this size, JPEG beyond, where it is ten times smaller


@dataclass(frozen=True)
class BoxedImage:
    """An image with rectangles on it.

    Attributes:
        picture: as a data URI; see `picture`.
        height, width: of the image in the pixels that boxes count.
        boxes: by kind: ``activation``, ``receptive-field``, ``relevance``.
    """

    __pydantic_config__ = STRICT

    picture: str
    height: int
    width: int
    boxes: dict[str, Sides] = field(default_factory=dict)

    @property
    def rectangles(self) -> list[dict[str, Any]]:
        """What a template draws, largest first: a smaller box stays visible."""
        found = [
            {"kind": kind, "x": left, "y": top, "width": right - left, "height": bottom - top, **line(kind)}
            for kind, (top, left, bottom, right) in self.boxes.items()
        ]
        return sorted(found, key=lambda box: -box["width"] * box["height"])

    @property
    def small(self) -> bool:
        """Whether its pixels are to be seen as such."""
        return max(self.height, self.width) <= _LOSSLESS


def line(kind: str) -> dict[str, str]:
    """Colour and dashes of a kind of box.

    Example:
        >>> line("relevance")
        {'colour': '#FF8FC7', 'dash': ''}
    """
    return {"colour": BOX_COLOURS.get(kind, "#FFFFFF"), "dash": BOX_DASHES.get(kind, "")}


def legend(images: Iterable[Mapping[str, Sides]]) -> list[dict[str, str]]:
    """Colour, dashes and words of the kinds of boxes that occur."""
    there = {kind for boxes in images for kind in boxes}
    order = [kind for kind in BOX_WORDS if kind in there] + sorted(there - set(BOX_WORDS))
    return [{"kind": kind, **line(kind), "words": BOX_WORDS.get(kind, kind)} for kind in order]


def picture(pixels_HWC: NDArray[Any], longest: int = 256) -> str:
    """Encode an image as a data URI: PNG up to 64 pixels, JPEG beyond; a larger one is scaled down.

    Args:
        pixels_HWC: uint8, with 1 (grey) or 3 (RGB) channels.
        longest: pixels that the longer side has at most.

    Raises:
        RequestError: for another type or shape.

    Example:
        >>> picture(np.zeros((32, 32, 3), np.uint8))[:22]
        'data:image/png;base64,'
        >>> picture(np.zeros((300, 200, 1), np.uint8))[:23]
        'data:image/jpeg;base64,'
    """
    pixels = np.asarray(pixels_HWC)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
        raise RequestError(
            f"an image of type {pixels.dtype} and shape {list(pixels.shape)} cannot be shown; give uint8 of shape "
            "[height, width, 1 or 3]"
        )
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    kind, options = ("png", {"optimize": True}) if max(image.size) <= _LOSSLESS else ("jpeg", {"quality": 90})
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def heat_picture(relevance_HW: NDArray[Any], longest: int = 256) -> str:
    """Colour relevance as `secateur.reports.heatmap_png` does and encode it as `picture` does."""
    return picture(_opened(heatmap_png(relevance_HW)), longest)


def crop(pixels_HWC: NDArray[Any], box: Sides, longest: int = 128) -> str:
    """The part of an image within a box, in its own colours, as `picture` encodes it.

    Raises:
        RequestError: for a box without area in the image.
    """
    top, left, bottom, right = box
    part = pixels_HWC[max(0, top) : bottom, max(0, left) : right]
    if part.size == 0:
        raise RequestError(f"the box {box} holds no pixel of an image of {pixels_HWC.shape[0]}x{pixels_HWC.shape[1]}")
    return picture(part, longest)


def decoded(uri: str) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of a data URI that `picture` made.

    Raises:
        RequestError: for anything else.
    """
    head, comma, data = uri.partition(";base64,")
    if not comma or head not in ("data:image/png", "data:image/jpeg"):
        raise RequestError(f"'{uri[:40]}' is no picture; give what secateur.reports.picture returned")
    return _opened(data)


def _opened(data: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
