"""Static figures by matplotlib: one look, the same bytes each time, and no state of pyplot's."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.core.files import atomic_path
from secateur.reports.look import PAPER_INK, picture_path

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALE = 72  # pixels in an inch of a figure: lengths in points are pixels
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 11,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "secateur",
    "pdf.fonttype": 42,
    "text.color": PAPER_INK,
    "text.parse_math": False,  # names are not formulas
    "axes.edgecolor": PAPER_INK,
    "axes.labelcolor": PAPER_INK,
    "axes.unicode_minus": True,
    "xtick.color": PAPER_INK,
    "ytick.color": PAPER_INK,
    "path.simplify": False,
}


_TIGHT: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 16 / SCALE}


@contextmanager
def paper_style() -> Iterator[None]:
    """Fonts and colours of figures that are made or saved within."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as ``.svg``, ``.png`` (at twice the size) or ``.pdf``; the same figure gives the same bytes.

    Raises:
        RequestError: for another ending.
        SecateurError: when the file cannot be written.
    """
    target = picture_path(path)
    with atomic_path(target) as temporary:
        if target.suffix == ".svg":
            temporary.write_text(svg(figure), encoding="utf-8")
        else:
            temporary.write_bytes(_bytes(figure, target.suffix.removeprefix("."), **_TIGHT))
    return target


def svg(figure: Figure) -> str:
    """A figure as SVG text."""
    text = _bytes(figure, "svg", **_TIGHT).decode()
    text = text[text.index("<svg") :]  # not the address of the document type
    text = re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', text, count=2)
    # images that are drawn smaller than they are would lose lines
    text = text.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    return re.sub(r"(?<=data:image/png;base64,)[\w+/=\s]+", lambda found: _smaller(found[0]), text)


def _smaller(picture: str) -> str:
    """A base64 PNG with a palette, where it is opaque and has few enough colours; no colour changes."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    colours = image.convert("RGBA").getcolors(256)
    if colours is None or any(colour[3] < 255 for _, colour in colours):  # type: ignore[index]
        return picture
    buffer = io.BytesIO()
    image.convert("RGB").quantize(len(colours)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def png(figure: Figure, scale: float) -> bytes:
    """A figure as transparent PNG of its own size, times ``scale``."""
    return _bytes(figure, "png", scale=scale, transparent=True)


def _bytes(figure: Figure, ending: str, scale: float = 2, **options: Any) -> bytes:
    buffer = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
    with paper_style():
        figure.savefig(buffer, format=ending, dpi=scale * SCALE, metadata=dates[ending], **options)
    return buffer.getvalue()


class Canvas:
    """A figure laid out in pixels from an upper left corner; what is drawn decides how large it gets.

    Attributes:
        figure: what is drawn on.
    """

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure((1, 1), dpi=SCALE, facecolor="#FFFFFF")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes at a place, of a size."""
        place = (x / SCALE, 1 - (y + height) / SCALE, width / SCALE, height / SCALE)
        return self.figure.add_axes(place, label=str(len(self.figure.axes)))

    def text(self, x: float, y: float, words: str, **options: Any) -> None:
        """Words whose line begins at a place."""
        self.figure.text(x / SCALE, 1 - y / SCALE, words, **{"va": "baseline", **options})

    def legend(self, x: float, y: float, handles: Sequence[Artist]) -> None:
        """What marks mean, in one line from a place on."""
        shown = {"ncols": len(handles), "frameon": False, "borderpad": 0, "borderaxespad": 0, "handletextpad": 0.5}
        place = (x / SCALE, 1 - y / SCALE)
        self.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, handlelength=1.4, **shown)

    def bottom(self, axes: Axes) -> float:
        """Where axes end with their labels."""
        box = axes.get_tightbbox()
        return SCALE - float(0.0 if box is None else box.y0)
