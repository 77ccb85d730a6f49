"""Short pieces of HTML for notebooks: an escaped table, a picture. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

from secateur.core.errors import RequestError

_TABLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"
_CELL = "padding:2px 10px 2px 0"
_PNG = b"\x89PNG\r\n\x1a\n"


def table_html(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, limit: int = 20
) -> str:
    """Return a self-contained HTML table of at most ``limit`` rows.

    Everything is escaped. Numbers are right-aligned, floats have four significant digits, ``None`` is an empty cell.

    Args:
        columns: headings.
        rows: one sequence of cells per row, as long as ``columns``.
        title: one line above the table, as plain text.
        limit: rows shown; of the others only their number is given.

    Returns:
        A ``<table>`` that takes colours and fonts from the page around it.

    Raises:
        RequestError: for a row of another length than ``columns``, or a negative limit.

    Example:
        >>> page = table_html(["layer", "kept"], [["conv1", 12], ["a<b", 0.51234]], title="Plan", limit=1)
        >>> "<caption" in page and "conv1" in page and "a&lt;b" in page
        False
        >>> "... and 1 more" in page
        True
        >>> "a&lt;b" in table_html(["layer"], [["a<b"]])
        True
    """
    if limit < 0:
        raise RequestError(f"limit is {limit}; give 0 or more rows")
    drawn, count = [], 0
    for row in rows:
        count += 1
        if len(row) != len(columns):
            raise RequestError(f"row {count} has {len(row)} cells for {len(columns)} columns; give one per column")
        if count <= limit:
            drawn.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    if count > limit:
        drawn.append(
            f'<tr><td colspan="{max(len(columns), 1)}" style="{_CELL};text-align:left">'
            f"... and {count - limit} more</td></tr>"
        )
    head = "".join(
        f'<th scope="col" style="{_CELL};text-align:left">{html.escape(str(column))}</th>' for column in columns
    )
    caption = f'<caption style="text-align:left;font-weight:600">{html.escape(title)}</caption>' if title else ""
    return f'<table style="{_TABLE}">{caption}<thead><tr>{head}</tr></thead><tbody>{"".join(drawn)}</tbody></table>'


def image_html(png_bytes: bytes, alt: str) -> str:
    r"""Return a picture that carries its own data.

    Args:
        png_bytes: the bytes of a PNG file.
        alt: what it shows, for those who do not see it; escaped.

    Returns:
        An ``<img>`` with a data address, never wider than the page.

    Raises:
        RequestError: if the bytes are not a PNG.

    Example:
        >>> image_html(b"\x89PNG\r\n\x1a\n", alt='a "cat"')
        '<img src="data:image/png;base64,iVBORw0KGgo=" alt="a &quot;cat&quot;" style="max-width:100%">'
    """
    if not png_bytes.startswith(_PNG):
        raise RequestError("the picture is not a PNG; give the bytes of a PNG file")
    data = base64.b64encode(png_bytes).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" style="max-width:100%">'


def _cell(value: object) -> str:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return f'<td style="{_CELL};text-align:{"right" if number else "left"}">{html.escape(_text(value))}</td>'


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Real) and not isinstance(value, Integral):
        plain = float(value)
        return f"{plain:.4g}" if not math.isfinite(plain) or abs(plain) < 10_000 else f"{plain:.0f}"
    return str(value)
